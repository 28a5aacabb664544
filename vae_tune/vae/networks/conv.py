"""A convolutional network for images of any channels and of 8 pixels or more to each side.

The encoder halves height and width stage by stage, the decoder doubles them again to the sizes that the encoder went
through. There is no batch normalization: it would make an image's number depend on the rest of its batch.

Feature maps are in channels_last: each pixel's channels lie side by side in memory, in which a processor convolves
fastest. Sizes are (height, width); ``c`` is the argument ``channels``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vae_tune.config.errors import UsageError
from vae_tune.vae.networks.network import Network

_SMALLEST = 8
"""Pixels to each side that an image must have."""
_DEEPEST = 4
"""Pixels of the smaller side at which the encoder's stages end."""
_WIDEST = 4
"""Multiple of ``c`` that the stages' channels do not pass."""
_KERNEL, _STRIDE, _PADDING = 4, 2, 1
_NUMBERS_AT_ONCE = 3_300_000
"""Numbers of the largest feature maps that are computed at once without gradients: 13 MB."""


class Conv(Network):
    """A 3x3 convolution to ``c`` channels, then stages of ``c``, 2 ``c`` and from there on 4 ``c`` channels.

    A stage is a 4x4 convolution of stride 2, residual blocks, and SiLU; the last one has at most 4 pixels to its
    smaller side. Linear layers give mean and log-variance. The decoder is a linear layer and the same stages in
    reverse, each by nearest upsampling and a 3x3 convolution, which leave no checkerboard (Odena et al. 2016,
    doi:10.23915/distill.00003).
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        latent_size: int,
        *,
        channels: int = 32,
        residual_blocks: int = 0,
    ):
        """Draw the weights from torch's global generator.

        Args:
            shape: channels, height and width of the images.
            outputs: parameters of the likelihood per pixel.
            latent_size: dimensions of the latent code.
            channels: of the largest feature maps, ``c``.
            residual_blocks: in each stage of the encoder, and as many in each of the decoder.

        Raises:
            UsageError: the images are smaller than 8 x 8 pixels, or ``channels`` or ``residual_blocks`` too small.
        """
        super().__init__()
        _check(shape, channels, residual_blocks)
        sizes = [shape[1:], *_halvings(shape[1:])]
        widths = [channels, *(channels * min(2**stage, _WIDEST) for stage in range(len(sizes) - 1))]
        stages = [(*pair, size) for pair, size in zip(pairwise(widths), sizes, strict=False)]
        self._deepest = *sizes[-1], widths[-1]
        self._at_once = max(1, _NUMBERS_AT_ONCE // (channels * math.prod(shape[1:])))
        features = math.prod(self._deepest)

        self.stem = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(Halving(before, after, size), *_residuals(after, residual_blocks))
            for before, after, size in stages
        )
        self.heads = nn.Linear(features, 2 * latent_size)
        self.spread = nn.Linear(latent_size, features)
        self.up = nn.ModuleList(
            nn.Sequential(Doubling(after, before, size), *_residuals(before, residual_blocks))
            for before, after, size in reversed(stages)
        )
        self.last = nn.Conv2d(channels, outputs, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):  # He et al. 2015, arXiv:1502.01852
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(_bias(layer))
        self.to(memory_format=torch.channels_last)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x``: (batch, channels, height, width) to mean and log-variance: (batch, latent_size) each."""
        mean, log_variance = self._in_parts(self._encode, x).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Map ``z``: (batch, latent_size) to the likelihood's parameters: (batch, outputs, height, width)."""
        return self._in_parts(self._decode, z)

    def _encode(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x.contiguous(memory_format=torch.channels_last)))
        for stage in self.down:
            x = F.silu(stage(x))
        # (batch, height * width * channels): the order in memory, so that nothing is copied
        heads: Tensor = self.heads(x.permute(0, 2, 3, 1).flatten(1))
        return heads

    def _decode(self, z: Tensor) -> Tensor:
        x = F.silu(self.spread(z)).unflatten(1, self._deepest).permute(0, 3, 1, 2)
        for stage in self.up:
            x = F.silu(stage(x))
        parameters: Tensor = self.last(x)
        return parameters.contiguous()

    def _in_parts(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Return ``function`` of all rows; without gradients, of as many at once as a processor's cache holds."""
        if torch.is_grad_enabled() or len(rows) <= self._at_once:
            return function(rows)
        return torch.cat([function(part) for part in rows.split(self._at_once)])


class Halving(nn.Conv2d):
    """A 4x4 convolution of stride 2 that leaves half of each side, rounded up."""

    def __init__(self, channels: int, outputs: int, size: tuple[int, int]):
        height, width = size  # an odd side is padded by one more, so that its last pixel is seen too
        super().__init__(channels, outputs, _KERNEL, _STRIDE, (_PADDING + height % 2, _PADDING + width % 2))


class Doubling(nn.Conv2d):
    """Nearest upsampling to twice the size, a 3x3 convolution, and a cut to ``size``, as one transposed convolution.

    Of the nine pixels that the 3x3 convolution of an upsampled image takes, five are copies of others. The transposed
    convolution, whose 4x4 kernel holds the sums of the weights of equal pixels, takes four: it gives the same numbers
    with 4/9 of the multiplications.
    """

    def __init__(self, channels: int, outputs: int, size: tuple[int, int]):
        super().__init__(channels, outputs, 3)
        self._size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, channels, height, width) to (batch, outputs, *size)."""
        height, width = self._size
        doubled = F.conv_transpose2d(x, self._kernel(), _bias(self).detach(), _STRIDE, _PADDING)
        with_gradient: Tensor = _BiasGradient.apply(doubled, self.bias)
        return with_gradient[..., :height, :width]

    def _kernel(self) -> Tensor:
        """Return the kernel of the transposed convolution: (channels, outputs, 4, 4)."""
        return _summed(_summed(self.weight, 2), 3).transpose(0, 1)


class _BiasGradient(torch.autograd.Function):
    """Passes on values to which a bias was added, and gives the bias its gradient.

    That of the transposed convolution itself took as long as its two other gradients together (torch 2.15, CPU).
    """

    @staticmethod
    def forward(context: Any, values: Tensor, bias: Tensor) -> Tensor:
        context.dtype = bias.dtype
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.sum(dim=(0, 2, 3)).to(context.dtype)


class Residual(nn.Module):
    """x + f(x), where f is twice SiLU and a 3x3 convolution (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, channels, height, width) to the same shape."""
        change: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + change


def _check(shape: tuple[int, int, int], channels: int, residual_blocks: int) -> None:
    """Raise UsageError for what no network can be built for."""
    _, height, width = shape
    if min(height, width) < _SMALLEST:
        known = f"The model conv takes images of {_SMALLEST}x{_SMALLEST} pixels or more"
        raise UsageError(f"{known}, but got {width}x{height}.\nEnlarge them with --image-size, or use --model mlp.")
    for name, value, least in (("channels", channels, 1), ("residual_blocks", residual_blocks, 0)):
        if value < least:
            raise UsageError(f"{name} must be >= {least}, but got {value}.")


def _halvings(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield height and width after each stage of the encoder."""
    while min(size) > _DEEPEST:
        size = (size[0] + 1) // 2, (size[1] + 1) // 2
        yield size


def _residuals(channels: int, count: int) -> Iterator[Residual]:
    return (Residual(channels) for _ in range(count))


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _summed(weight: Tensor, dim: int) -> Tensor:
    """Return what a kernel's 3 weights along ``dim`` are for an image whose pixels come twice: 4 weights."""
    first, second, third = weight.unbind(dim)
    return torch.stack([third, second + third, first + second, first], dim)
