"""HSM-SSD, the mixer of EfficientViM: timm's, on `visionssm.ops.hsm_ssd`.

Paper: EfficientViM, arXiv 2411.15241. Code: https://github.com/mlvlab/EfficientViM
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.models import efficientvim, register_notrace_function
from torch import Tensor

from visionssm.ops import hsm_ssd
from visionssm.ops.hsm_ssd.checks import MAX_STATE_SIZE

register_notrace_function(hsm_ssd)


class HSMSSD(efficientvim.HSMSSD):
    """timm's mixer with other arithmetic: the same arguments, parameters and result.

    Softmax and weighted sum are one pass over the tokens, and the projections are matrix products
    of channels-last rows, where timm's are convolutions of one dimension, whose modules are not
    called.
    """

    @staticmethod
    def supports(mixer: efficientvim.HSMSSD) -> bool:
        """Whether the operator has kernels for a mixer of this size."""
        return mixer.state_dim <= MAX_STATE_SIZE

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A map (b, d, h, w) to the mixed map (b, d, h, w) and the hidden state (b, d, n)."""
        grid = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (b, l, d)
        BCdt = F.linear(tokens, self.BCdt_proj.conv.weight[..., 0])
        tokens = tokens.to(BCdt.dtype)  # autocast chose it for the products
        BCdt = self.dw(BCdt.transpose(1, 2).unflatten(2, grid))
        B, C, dt = BCdt.flatten(2).transpose(1, 2).split(self.state_dim, dim=-1)
        state = hsm_ssd(tokens, dt, self.A, B)
        h, z = F.linear(state, self.hz_proj.conv.weight[..., 0]).chunk(2, dim=-1)
        h = F.linear(h * self.act(z) + h * self.D, self.out_proj.conv.weight[..., 0])  # (b, n, d)
        y = (C @ h).transpose(1, 2).unflatten(2, grid)
        return y, h.transpose(1, 2)
