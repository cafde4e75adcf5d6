"""Normalisations of a residual stream that is wider than the layers that read it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class RmsNormFp32(nn.RMSNorm):
    """Root-mean-square normalisation in float32: any dtype to the dtype of the weight, if any."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x.float(), self.normalized_shape, _float(self.weight), self.eps)
        return y.to(x.dtype if self.weight is None else self.weight.dtype)


class LayerNormFp32(nn.LayerNorm):
    """Layer normalisation in float32: any dtype to the dtype of the weight, if any."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = _float(self.weight), _float(self.bias)
        y = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)
        return y.to(x.dtype if self.weight is None else self.weight.dtype)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()
