"""One training step: the loss of a minibatch and its gradient, the chain rule written out.

Autograd would give the same numbers (a test compares them); this saves its graph, its temporary tensors and about
half of the work of the cross-entropy, whose gradient needs the sigmoid that the loss is computed from. All large
results go into buffers that live as long as the training. Where the encoder is linear, its two layers are taken
together, which saves most of its multiplications.

Legend: ``batch`` images, ``pixels`` per image, ``rows`` of a buffer; ``grad_x`` is the gradient of the loss in ``x``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_tune.config import Activation, TrialConfig
from vae_tune.model import VAE
from vae_tune.objective import bernoulli, kl
from vae_tune.parameters import gradient, stack

_ACTIVATIONS: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda before, _: before,
    "relu": lambda before, _: before.clamp_min_(0),
    "gelu": lambda before, out: torch.ops.aten.gelu.out(before, out=out),
    "tanh": lambda before, _: before.tanh_(),
    "elu": lambda before, _: nn.functional.elu_(before),
}
"""From values before the activation to those behind it: in the same buffer but for gelu, whose gradient needs both."""

_GRADIENTS: dict[Activation, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda grad, _, __: grad,
    "relu": lambda grad, _, out: torch.ops.aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad),
    "gelu": lambda grad, before, _: torch.ops.aten.gelu_backward(grad, before),
    "tanh": lambda grad, _, out: torch.ops.aten.tanh_backward(grad, out),
    "elu": lambda grad, _, out: torch.ops.aten.elu_backward(grad, 1, 1, 1, True, out),
}
"""From the gradient in the values behind the activation to that in those before it."""


class Step:
    """Computes the mean negative ELBO of a minibatch and leaves its gradient in the model's parameters."""

    def __init__(self, model: VAE, config: TrialConfig, rows: int):
        """Allocate buffers for minibatches of up to ``rows`` images; the model's parameters must be joined."""
        encoder, decoder = model.encoder, model.decoder
        heads = _Linear(
            *(stack(*pair) for pair in zip(_linear(encoder.mean), _linear(encoder.log_variance), strict=True))
        )
        inner = [_Dense(_linear(layer), config.encoder_activation, rows, config) for layer in encoder.hidden]
        outer = [_Dense(_linear(layer), config.decoder_activation, rows, config) for layer in decoder.hidden]
        self._encoder = (
            _JointEncoder(_linear(encoder.hidden[0]), heads, rows)
            if saves_products(model, config, rows)
            else _Layers([*inner, _Dense(heads, "linear", rows, config)], to_input=False)
        )
        self._decoder = _Layers([*outer, _Dense(_linear(decoder.logits), "linear", rows, config)])
        self._grad_moments = heads.weight.new_empty(rows, len(heads.weight))
        self._scratch = heads.weight.new_empty(rows, decoder.logits.out_features)

    @torch.no_grad()
    def __call__(self, x: Tensor, noise: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Return the mean negative ELBO in nats per image; every parameter's ``grad`` is overwritten.

        Args:
            x: (batch, pixels) in [0, 1].
            noise: (batch, latent_size), standard normal.
            kl_weight: weight of the KL in what the gradient is of; in what is returned it is 1.
        """
        mean, log_variance = self._encoder.forward(x).chunk(2, dim=1)
        deviation = (0.5 * log_variance).exp_()
        variance = deviation.square()
        logits = self._decoder.forward(torch.addcmul(mean, deviation, noise))
        reconstruction, grad_logits = bernoulli(logits, x, gradient=logits, scratch=_rows(self._scratch, x))
        loss = reconstruction.add_(kl(mean, log_variance, variance)).mean()

        grad_z = self._decoder.backward(grad_logits.div_(len(x)))
        grad_moments, share = _rows(self._grad_moments, x), kl_weight / len(x)
        grad_mean, grad_log_variance = grad_moments.chunk(2, dim=1)
        torch.add(grad_z, mean, alpha=share, out=grad_mean)
        variance.sub_(1).mul_(0.5 * share)
        torch.addcmul(variance, grad_z, deviation.mul_(noise), value=0.5, out=grad_log_variance)
        self._encoder.backward(grad_moments)
        return loss


def saves_products(model: VAE, config: TrialConfig, rows: int) -> bool:
    """Whether :class:`_JointEncoder` can be used and takes less time than layer by layer.

    It computes in float32, since the product of two weights in bfloat16 would be rounded once more; there a
    multiplication costs twice as much.
    """
    if config.encoder_activation != "linear" or config.hidden_layers > 1:
        return False
    latents, width = model.encoder.mean.weight.shape
    heads, pixels = 2 * latents, model.decoder.logits.out_features
    layered = 2 * rows * pixels * width + 3 * rows * width * heads
    joint = 3 * heads * width * pixels + 2 * rows * pixels * heads
    return joint * (2 if config.precision == "bfloat16" else 1) < layered


class _Linear(NamedTuple):
    """What a linear layer is made of, and where its gradients go."""

    weight: Tensor
    """(out, in)"""
    bias: Tensor
    """(out,)"""
    grad_weight: Tensor
    grad_bias: Tensor


def _linear(layer: nn.Module) -> _Linear:
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight, layer.bias
    return _Linear(weight.detach(), bias.detach(), gradient(weight), gradient(bias))


class _JointEncoder:
    """An encoder that is linear: x -> U (W x + b) + c, with both heads in U, seen as x -> (U W) x + (U b + c).

    W has hidden_width rows and U twice latent_size. As U has fewer rows than a minibatch, U W and the gradients, U'G
    in W and G W' in U, where G is the gradient in U W, take fewer multiplications than the images' way through W.
    """

    def __init__(self, hidden: _Linear, heads: _Linear, rows: int):
        self._hidden, self._heads = hidden, heads
        self._weight = hidden.weight.new_empty(len(heads.weight), hidden.weight.shape[1])
        self._grad_weight = torch.empty_like(self._weight)
        self._output = hidden.weight.new_empty(rows, len(heads.weight))
        self._x = hidden.weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return mean and log-variance, (batch, 2 latent_size), in a buffer that the next call overwrites."""
        self._x = x
        hidden, heads = self._hidden, self._heads
        weight = torch.mm(heads.weight, hidden.weight, out=self._weight)
        bias = torch.addmv(heads.bias, heads.weight, hidden.bias)
        return torch.addmm(bias, x, weight.t(), out=_rows(self._output, x))

    def backward(self, grad: Tensor) -> None:
        """Write the gradients of all weights and biases; ``grad`` is that of what :meth:`forward` returned."""
        hidden, heads = self._hidden, self._heads
        grad_weight = torch.mm(grad.t(), self._x, out=self._grad_weight)
        grad_bias = torch.sum(grad, 0, out=heads.grad_bias)
        torch.mm(heads.weight.t(), grad_weight, out=hidden.grad_weight)
        torch.mv(heads.weight.t(), grad_bias, out=hidden.grad_bias)
        torch.mm(grad_weight, hidden.weight.t(), out=heads.grad_weight).addr_(grad_bias, hidden.bias)


class _Layers:
    """Layers of which each takes what the one before it gives."""

    def __init__(self, layers: list[_Dense], *, to_input: bool = True):
        """``to_input``: whether the gradient of what goes into the first is wanted."""
        self._layers = layers
        self._to_input = to_input

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, in) to (batch, out), in a buffer that the next call overwrites."""
        for layer in self._layers:
            x = layer.forward(x)
        return x

    def backward(self, grad: Tensor) -> Tensor:
        """Write the gradients of all weights and biases; return that of the input. ``grad`` is used up."""
        for layer in reversed(self._layers):
            grad = layer.backward(grad, to_input=self._to_input or layer is not self._layers[0])
        return grad


class _Dense:
    """A linear layer and the activation behind it."""

    def __init__(self, linear: _Linear, activation: Activation, rows: int, config: TrialConfig):
        self._linear = linear
        self._activation = activation
        self._factor = torch.bfloat16 if config.precision == "bfloat16" else linear.weight.dtype
        """The type that products are taken of."""
        outputs, inputs = linear.weight.shape
        self._output = linear.weight.new_empty(rows, outputs)
        self._grad_input = linear.weight.new_empty(rows, inputs)
        self._before = torch.empty_like(self._output) if activation == "gelu" else self._output
        self._x = self._weight = linear.weight
        """What the last :meth:`forward` took the product of, in that type."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, in) to (batch, out), in a buffer that the next call overwrites."""
        output, before = _rows(self._output, x), _rows(self._before, x)
        self._x, self._weight = x.to(self._factor), self._linear.weight.to(self._factor)
        if self._factor == before.dtype:
            torch.addmm(self._linear.bias, self._x, self._weight.t(), out=before)
        else:
            _mm(self._x, self._weight.t(), before).add_(self._linear.bias)
        return _ACTIVATIONS[self._activation](before, output)

    def backward(self, grad_output: Tensor, *, to_input: bool) -> Tensor:
        """Write the gradients of weight and bias; return that of the input, in a buffer that the next call overwrites.

        ``grad_output`` is used up.
        """
        output, before = _rows(self._output, grad_output), _rows(self._before, grad_output)
        grad = _GRADIENTS[self._activation](grad_output, before, output)
        torch.sum(grad, 0, out=self._linear.grad_bias)
        factor = grad.to(self._factor)
        _mm(factor.t(), self._x, self._linear.grad_weight)
        return _mm(factor, self._weight, _rows(self._grad_input, grad)) if to_input else grad


def _mm(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write the product of two matrices, taken in their own type."""
    return torch.mm(a, b, out=out) if a.dtype == out.dtype else out.copy_(torch.mm(a, b))


def _rows(buffer: Tensor, like: Tensor) -> Tensor:
    """Return as many rows of ``buffer`` as ``like`` has."""
    return buffer if len(buffer) == len(like) else buffer[: len(like)]
