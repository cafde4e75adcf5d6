"""Let timm leave meta tensors as they are: it spends half of building a large model on theirs."""

from __future__ import annotations

from timm.layers import weight_init
from torch import Tensor


def skip_initialisation() -> None:
    """Change timm in this process: tensors without data are not filled."""
    fill = weight_init._trunc_normal_

    def fill_data(tensor: Tensor, *args: float) -> Tensor:
        return tensor if tensor.is_meta else fill(tensor, *args)

    weight_init._trunc_normal_ = fill_data
