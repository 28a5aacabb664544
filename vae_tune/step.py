"""One training step: the loss of a minibatch and its gradient, the chain rule written out.

Autograd would give the same numbers (a test compares them); this saves its graph, its temporary tensors and about
half of the work of the cross-entropy, whose gradient needs the sigmoid that the loss is computed from. All large
results go into buffers that live as long as the training. Where the encoder is linear, its two layers are taken
together, which saves most of its multiplications.

Legend: ``batch`` images, ``pixels`` per image, ``rows`` of a buffer; ``grad_x`` is the gradient of the loss in ``x``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vae_tune.config import Activation, Precision, TrialConfig
from vae_tune.model import VAE, Encoder
from vae_tune.objective import bernoulli, kl
from vae_tune.parameters import gradient

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
    "relu": lambda grad, _, out: torch.ops.aten.threshold_backward(grad, out, 0, grad_input=grad),
    "gelu": lambda grad, before, _: torch.ops.aten.gelu_backward(grad, before),
    "tanh": lambda grad, _, out: torch.ops.aten.tanh_backward(grad, out),
    "elu": lambda grad, _, out: torch.ops.aten.elu_backward(grad, 1, 1, 1, True, out),
}
"""From the gradient in the values behind the activation to that in those before it."""


class Step:
    """Computes the mean negative ELBO of a minibatch and leaves its gradient in the model's parameters."""

    def __init__(self, model: VAE, config: TrialConfig, rows: int):
        """Allocate the gradients, and buffers for minibatches of up to ``rows`` images."""
        decoder, precision = model.decoder, config.precision
        joint = saves_products(model, config, rows)
        self._encoder = _JointEncoder(model.encoder, rows) if joint else _LayeredEncoder(model.encoder, config, rows)
        self._decoder = [_Dense(layer, config.decoder_activation, rows, precision) for layer in decoder.hidden]
        self._logits = _Dense(decoder.logits, "linear", rows, precision)

    @torch.no_grad()
    def __call__(self, x: Tensor, noise: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Return the mean negative ELBO in nats per image; every parameter's ``grad`` is overwritten.

        Args:
            x: (batch, pixels) in [0, 1].
            noise: (batch, latent_size), standard normal.
            kl_weight: weight of the KL in what the gradient is of; in what is returned it is 1.
        """
        mean, log_variance = self._encoder.forward(x)
        deviation = (0.5 * log_variance).exp_()
        decoded = _forward(self._decoder, torch.addcmul(mean, deviation, noise))
        reconstruction, grad_logits = bernoulli(self._logits.forward(decoded[-1]), x)
        variance = deviation.square()
        loss = reconstruction.add_(kl(mean, log_variance, variance)).mean()

        grad_z = _backward([*self._decoder, self._logits], decoded, grad_logits.div_(len(x)))
        share = kl_weight / len(x)
        grad_mean = torch.add(grad_z, mean, alpha=share)
        grad_log_variance = variance.sub_(1).mul_(share).addcmul_(grad_z, deviation.mul_(noise)).mul_(0.5)
        self._encoder.backward(grad_mean, grad_log_variance)
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


class _LayeredEncoder:
    """The encoder, layer by layer."""

    def __init__(self, encoder: Encoder, config: TrialConfig, rows: int):
        precision = config.precision
        self._hidden = [_Dense(layer, config.encoder_activation, rows, precision) for layer in encoder.hidden]
        self._mean = _Dense(encoder.mean, "linear", rows, precision)
        self._log_variance = _Dense(encoder.log_variance, "linear", rows, precision)
        self._values: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (batch, latent_size), in buffers that the next call overwrites."""
        self._values = _forward(self._hidden, x)
        return self._mean.forward(self._values[-1]), self._log_variance.forward(self._values[-1])

    def backward(self, grad_mean: Tensor, grad_log_variance: Tensor) -> None:
        """Write the gradients of all weights and biases."""
        *inputs, hidden = self._values
        grad_hidden = self._mean.backward(grad_mean, hidden)
        grad_hidden += self._log_variance.backward(grad_log_variance, hidden)
        _backward(self._hidden, inputs, grad_hidden, to_input=False)


class _JointEncoder:
    """An encoder that is linear: x -> U (W x + b) + c, with both heads in U, seen as x -> (U W) x + (U b + c).

    W has hidden_width rows and U twice latent_size. As U has fewer rows than a minibatch, U W and the gradients, U'G
    in W and G W' in U, where G is the gradient in U W, take fewer multiplications than the images' way through W.
    """

    def __init__(self, encoder: Encoder, rows: int):
        (hidden,) = encoder.hidden
        assert isinstance(hidden, nn.Linear)
        self._hidden, self._heads = hidden, (encoder.mean, encoder.log_variance)
        latents, width = encoder.mean.weight.shape
        new = hidden.weight.new_empty
        self._weight, self._grad_weight = new(2 * latents, hidden.in_features), new(2 * latents, hidden.in_features)
        self._weight_t = self._weight.t()
        self._output, self._grad_output = new(rows, 2 * latents), new(rows, 2 * latents)
        self._grad_heads, self._grad_bias = new(2 * latents, width), new(2 * latents)
        self._head_weights = torch.empty_like(self._grad_heads)
        self._x = new(0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (batch, latent_size), in a buffer that the next call overwrites."""
        self._x = x
        torch.cat([head.weight for head in self._heads], out=self._head_weights)
        bias = torch.cat([head.bias for head in self._heads]).addmv_(self._head_weights, self._hidden.bias)
        torch.mm(self._head_weights, self._hidden.weight, out=self._weight)
        mean, log_variance = torch.addmm(bias, x, self._weight_t, out=_rows(self._output, x)).chunk(2, dim=1)
        return mean, log_variance

    def backward(self, grad_mean: Tensor, grad_log_variance: Tensor) -> None:
        """Write the gradients of all weights and biases."""
        grad = torch.cat([grad_mean, grad_log_variance], dim=1, out=_rows(self._grad_output, grad_mean))
        weight, bias = self._hidden.weight, self._hidden.bias
        head_weights_t = self._head_weights.t()
        torch.mm(grad.t(), self._x, out=self._grad_weight)
        torch.sum(grad, 0, out=self._grad_bias)
        torch.mm(head_weights_t, self._grad_weight, out=gradient(weight))
        torch.mv(head_weights_t, self._grad_bias, out=gradient(bias))
        torch.mm(self._grad_weight, weight.t(), out=self._grad_heads).addr_(self._grad_bias, bias)
        for head, grad_weight, grad_bias in zip(
            self._heads, self._grad_heads.chunk(2), self._grad_bias.chunk(2), strict=True
        ):
            gradient(head.weight).copy_(grad_weight)
            gradient(head.bias).copy_(grad_bias)


class _Dense:
    """A linear layer and the activation behind it."""

    def __init__(self, linear: nn.Module, activation: Activation, rows: int, precision: Precision):
        assert isinstance(linear, nn.Linear)
        self._bias, self._weight = linear.bias.detach(), linear.weight.detach()
        self._weight_t = self._weight.t()
        self._activation = activation
        self._precision = precision
        self._grad_weight = gradient(linear.weight)
        self._grad_bias = gradient(linear.bias)
        self._output = linear.weight.new_empty(rows, linear.out_features)
        self._grad_input = linear.weight.new_empty(rows, linear.in_features)
        self._before = torch.empty_like(self._output) if activation == "gelu" else self._output

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, in) to (batch, out), in a buffer that the next call overwrites."""
        output, before = _rows(self._output, x), _rows(self._before, x)
        if self._precision == "float32":
            torch.addmm(self._bias, x, self._weight_t, out=before)
        else:
            self._mm(x, self._weight_t, before).add_(self._bias)
        return _ACTIVATIONS[self._activation](before, output)

    def backward(self, grad_output: Tensor, x: Tensor, *, to_input: bool = True) -> Tensor:
        """Write the gradients of weight and bias; return that of ``x``, in a buffer that the next call overwrites.

        ``grad_output`` is used up.
        """
        grad = _GRADIENTS[self._activation](grad_output, _rows(self._before, x), _rows(self._output, x))
        self._mm(grad.t(), x, self._grad_weight)
        torch.sum(grad, 0, out=self._grad_bias)
        return self._mm(grad, self._weight, _rows(self._grad_input, x)) if to_input else grad

    def _mm(self, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        if self._precision == "float32":
            return torch.mm(a, b, out=out)
        return out.copy_(torch.mm(a.bfloat16(), b.bfloat16()))


def _rows(buffer: Tensor, like: Tensor) -> Tensor:
    """Return as many rows of ``buffer`` as ``like`` has."""
    return buffer if len(buffer) == len(like) else buffer[: len(like)]


def _forward(layers: list[_Dense], x: Tensor) -> list[Tensor]:
    """Return the input of each layer, and the output of the last."""
    values = [x]
    for layer in layers:
        values.append(layer.forward(values[-1]))
    return values


def _backward(layers: list[_Dense], inputs: list[Tensor], grad: Tensor, *, to_input: bool = True) -> Tensor:
    """Go back through ``layers``, which saw ``inputs``; return the gradient of the first one's input."""
    for number, (layer, x) in reversed(list(enumerate(zip(layers, inputs, strict=True)))):
        grad = layer.backward(grad, x, to_input=to_input or number > 0)
    return grad
