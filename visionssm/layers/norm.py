"""Normalisations of a residual stream that is wider than the layers that read it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RmsNormFp32(nn.RMSNorm):
    """Root-mean-square normalisation in float32: any dtype to the dtype of the weight."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), self.eps)
        return x.to(self.weight.dtype)


class LayerNormFp32(nn.LayerNorm):
    """Layer normalisation in float32: any dtype to the dtype of the weight."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        x = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return x.to(self.weight.dtype)
