"""Private parts of PyTorch, checked with torch 2.15."""

from __future__ import annotations

import torch

fused_adamw = torch._fused_adamw_
"""The kernel that ``torch.optim.AdamW(fused=True)`` calls; torch.optim would import torch's compiler."""
