"""Products of matrices by the fastest library that torch has for them.

On a CPU torch multiplies float32 matrices by Intel's MKL. On processors of other makers, MKL leaves AVX-512 unused:
there oneDNN, which torch contains too, takes half of the time. Both compute in float32, but add in different orders,
so that results differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vae_tune.config.compat.torch import onednn_linear

_CPU_INFO = Path("/proc/cpuinfo")
_INTEL = "GenuineIntel"


class Products(NamedTuple):
    """Functions that write a product of matrices into their last argument, and return it."""

    mm: Callable[[Tensor, Tensor, Tensor], Tensor]
    """``a @ b``"""
    addmm: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """``bias + a @ b``, with ``bias`` (columns,)"""


def products_for(matrix: Tensor) -> Products:
    """Return the fastest products of matrices like this one."""
    is_float32 = matrix.device.type == "cpu" and matrix.dtype == torch.float32
    return ONEDNN if is_float32 and leaves_avx512_unused() else TORCH


@cache
def leaves_avx512_unused() -> bool:
    """Whether MKL does not use all of this processor, and oneDNN does."""
    backends = torch.backends
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    return backends.cpu.get_cpu_capability() == "AVX512" and _maker() not in ("", _INTEL)


def _maker() -> str:
    """Return the maker of the processor as Linux states it, "" where it does not."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _torch_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return torch.mm(a, b, out=out)


def _torch_addmm(bias: Tensor, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return torch.addmm(bias, a, b, out=out)


def _onednn_mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return out.copy_(onednn_linear(a, b.t()))


def _onednn_addmm(bias: Tensor, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return out.copy_(onednn_linear(a, b.t(), bias))


TORCH, ONEDNN = Products(_torch_mm, _torch_addmm), Products(_onednn_mm, _onednn_addmm)
