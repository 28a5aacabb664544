"""Private parts of PyTorch, checked with torch 2.15."""

from __future__ import annotations

import torch
from torch import Tensor

fused_adamw = torch._fused_adamw_
"""The kernel that ``torch.optim.AdamW(fused=True)`` calls; torch.optim would import torch's compiler."""


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` by oneDNN, which torch's compiler calls so; both matrices may be transposed."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result
