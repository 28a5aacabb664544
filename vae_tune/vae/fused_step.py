"""One training step of the MLP with the Bernoulli likelihood: loss and gradient, the chain rule written out.

Autograd gives the same numbers (a test compares them). This saves its graph, its temporary tensors and about half of
the work of the cross-entropy, whose gradient needs the sigmoid that the loss is computed from. All large results go
into buffers that live as long as the training, and every view of them is made once: small networks, and a GPU, wait
for Python more than for the arithmetic. Where the encoder is linear, its two layers are computed as one, which saves
most of its multiplications.

Legend: ``batch`` images, ``pixels`` per image; ``grad_x`` is the gradient of the loss in ``x``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_tune.config.settings import Activation, TrialConfig
from vae_tune.vae.flat_parameters import gradient, stacked
from vae_tune.vae.likelihoods.bernoulli import Bernoulli, cross_entropy
from vae_tune.vae.model import VAE
from vae_tune.vae.networks.mlp import MLP
from vae_tune.vae.products import products_for

_aten = torch.ops.aten

_ACTIVATIONS: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda before, _: before,
    "relu": lambda before, _: before.clamp_min_(0),
    "gelu": lambda before, out: _aten.gelu.out(before, out=out),
    "tanh": lambda before, _: before.tanh_(),
    "elu": lambda before, _: nn.functional.elu_(before),
}
"""From values before an activation to those after it, in the same buffer; gelu's gradient needs both."""

_GRADIENTS: dict[Activation, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda grad, _, __: grad,
    "relu": lambda grad, _, out: _aten.threshold_backward.grad_input(grad, out, 0, grad_input=grad),
    "gelu": lambda grad, before, _: _aten.gelu_backward.grad_input(grad, before, grad_input=grad),
    "tanh": lambda grad, _, out: _aten.tanh_backward.grad_input(grad, out, grad_input=grad),
    "elu": lambda grad, _, out: _aten.elu_backward.grad_input(grad, 1, 1, 1, True, out, grad_input=grad),
}
"""From the gradient in the values after an activation to that in those before it, in the same buffer."""


def fits(model: VAE, config: TrialConfig) -> bool:
    """Whether :class:`FusedStep` computes the objective of ``config`` on ``model``; else autograd has to."""
    parts = isinstance(model.network, MLP) and isinstance(model.likelihood, Bernoulli)
    return parts and config.iwae_samples == 1 and config.free_bits == 0


class FusedStep:
    """Computes the mean negative ELBO of a minibatch and leaves its gradient in the model's parameters."""

    def __init__(self, model: VAE, config: TrialConfig):
        """Take a ``model`` whose parameters are flattened."""
        assert isinstance(model.network, MLP)
        self._network = model.network
        self._config = config
        self._minibatches: dict[int, _Minibatch] = {}

    def __call__(self, x: Tensor, noise: Tensor, kl_weight: float = 1.0) -> Tensor:
        """Return the mean negative ELBO in nats per image, at KL weight 1; every parameter's ``grad`` is overwritten.

        ``x`` is (batch, channels, height, width) in [0, 1], ``noise`` (batch, latent_size), standard normal.
        """
        batch = len(x)
        if batch not in self._minibatches:  # of the first minibatch's size, and of an epoch's last
            self._minibatches[batch] = _Minibatch(self._network, self._config, batch)
        return self._minibatches[batch].step(x.flatten(1), noise, kl_weight)


class _Minibatch:
    """The buffers for minibatches of one size, and a step that uses them."""

    def __init__(self, network: MLP, config: TrialConfig, batch: int):
        encoder, decoder = network.encoder, network.decoder
        pairs = zip(_linear(encoder.mean), _linear(encoder.log_variance), strict=True)
        heads = _Linear(*(stacked(*pair) for pair in pairs))
        inner = [_linear(layer) for layer in encoder.hidden]
        outer = [_linear(layer) for layer in (*decoder.hidden, decoder.logits)]
        latents = heads.weight.new_empty(5, batch, config.latent_size)
        self._z, self._grad_z, self._deviation, self._excess, self._twice_kl = latents
        self._encoder: Sequence[_JointEncoder | _Dense] = (
            [_JointEncoder(inner[0], heads, batch)]
            if saves_products(network, config, batch)
            else _dense_layers([*inner, heads], encoder.activation_name, None, batch, config)
        )
        self._decoder = _dense_layers(outer, config.decoder_activation, self._grad_z, batch, config)
        self._mean, self._log_variance = self._encoder[-1].output.chunk(2, dim=1)
        self._logits = self._decoder[-1].output
        self._scratch = torch.empty_like(self._logits)

    def step(self, x: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
        """Take the step of :class:`FusedStep` on ``x``: (batch, pixels)."""
        mean, log_variance, deviation, excess = self._mean, self._log_variance, self._deviation, self._excess
        share = 1 / len(x)
        _forward(self._encoder, x)
        torch.mul(log_variance, 0.5, out=deviation).exp_()
        _forward(self._decoder, torch.addcmul(mean, deviation, noise, out=self._z))
        reconstruction, grad_logits = cross_entropy(self._logits, x, gradient=self._logits, scratch=self._scratch)
        torch.mul(deviation, deviation, out=excess).sub_(1)  # of the variance over the prior's
        twice_kl = torch.addcmul(excess, mean, mean, out=self._twice_kl).sub_(log_variance)
        loss = reconstruction.add_(twice_kl.sum(dim=-1), alpha=0.5).mean()

        grad_logits.mul_(share)
        _backward(self._decoder)
        # the gradients in mean and log-variance, over their buffers, as they are used up
        torch.add(self._grad_z, mean, alpha=kl_weight * share, out=mean)
        excess.mul_(0.5 * kl_weight * share)
        torch.addcmul(excess, self._grad_z, deviation.mul_(noise), value=0.5, out=log_variance)
        _backward(self._encoder)
        return loss


def saves_products(network: MLP, config: TrialConfig, batch: int) -> bool:
    """Whether :class:`_JointEncoder` can be used and takes less time than layer by layer.

    It computes in float32, where a multiplication costs twice as much as in bfloat16: there the product of two weights
    would be rounded once more.
    """
    if network.encoder.activation_name != "linear" or config.hidden_layers > 1:
        return False
    latents, width = network.encoder.mean.weight.shape
    heads, pixels = 2 * latents, network.decoder.logits.out_features
    layered = 2 * batch * pixels * width + 3 * batch * width * heads
    joint = 3 * heads * width * pixels + 2 * batch * pixels * heads
    return joint * (2 if config.precision == "bfloat16" else 1) < layered


class _Linear(NamedTuple):
    """Weight and bias of a linear layer, and the tensors for their gradients."""

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
    """A linear encoder x -> U (W x + b) + c, with both heads in U, computed as x -> (U W) x + (U b + c).

    W has hidden_width rows and U 2 latent_size. As U has fewer rows than a minibatch, U W and the gradients, U'G in W
    and G W' in U, where G is the gradient in U W, take fewer multiplications than images that pass through W.
    """

    def __init__(self, hidden: _Linear, heads: _Linear, batch: int):
        self.output = hidden.weight.new_empty(batch, len(heads.weight))
        """Mean and log-variance, (batch, 2 latent_size); before :meth:`backward` their gradient."""
        self._hidden, self._heads = hidden, heads
        self._weight = hidden.weight.new_empty(len(heads.weight), hidden.weight.shape[1])
        self._grad_weight = torch.empty_like(self._weight)
        self._bias = torch.empty_like(heads.bias)
        self._weight_t, self._heads_t, self._hidden_t = self._weight.t(), heads.weight.t(), hidden.weight.t()
        self._grad_t = self.output.t()
        self._x = hidden.weight
        self._mm, self._addmm = products_for(hidden.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, pixels) to the output."""
        self._x = x
        hidden, heads = self._hidden, self._heads
        self._mm(heads.weight, hidden.weight, self._weight)
        torch.addmv(heads.bias, heads.weight, hidden.bias, out=self._bias)
        return self._addmm(self._bias, x, self._weight_t, self.output)

    def backward(self) -> None:
        """Write the gradients of all weights and biases."""
        hidden, heads, grad_weight = self._hidden, self._heads, self._grad_weight
        self._mm(self._grad_t, self._x, grad_weight)
        torch.sum(self.output, 0, out=heads.grad_bias)
        self._mm(self._heads_t, grad_weight, hidden.grad_weight)
        torch.mv(self._heads_t, heads.grad_bias, out=hidden.grad_bias)
        self._mm(grad_weight, self._hidden_t, heads.grad_weight).addr_(heads.grad_bias, hidden.bias)


def _forward(layers: Sequence[_JointEncoder | _Dense], x: Tensor) -> None:
    for layer in layers:
        x = layer.forward(x)


def _backward(layers: Sequence[_JointEncoder | _Dense]) -> None:
    for layer in reversed(layers):
        layer.backward()


def _dense_layers(
    linears: Sequence[_Linear], activation: Activation, grad_input: Tensor | None, batch: int, config: TrialConfig
) -> list[_Dense]:
    """Return layers with ``activation`` after each but the last; ``grad_input`` gets the gradient in their input."""
    layers: list[_Dense] = []
    for linear in linears:
        after = None if linear is linears[-1] else activation
        layers.append(_Dense(linear, after, grad_input, batch, config))
        grad_input = layers[-1].grad
    return layers


class _Dense:
    """A linear layer and the activation after it; the last one has none, and its gradient overwrites its output."""

    def __init__(
        self,
        linear: _Linear,
        activation: Activation | None,
        grad_input: Tensor | None,
        batch: int,
        config: TrialConfig,
    ):
        self.output = linear.weight.new_empty(batch, len(linear.weight))
        self.grad = torch.empty_like(self.output) if activation else self.output
        """The gradient in the output, to be written before :meth:`backward`, which overwrites it."""
        self._linear = linear
        self._activate, self._differentiate = _ACTIVATIONS[activation or "linear"], _GRADIENTS[activation or "linear"]
        self._before = torch.empty_like(self.output) if activation == "gelu" else self.output
        self._grad_input = grad_input
        self._rounds = config.precision == "bfloat16"
        factor = torch.bfloat16 if self._rounds else linear.weight.dtype
        self._weight, self._factor = linear.weight.to(factor), self.grad.to(factor)
        """Weight and gradient in the type of the products: the tensors themselves, or copies."""
        self._weight_t, self._factor_t = self._weight.t(), self._factor.t()
        self._x = self._weight
        mm, self._addmm = products_for(self._weight)
        self._mm = _mm_rounded if self._rounds else mm

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``: (batch, in) to the output."""
        if self._rounds:
            self._x = x.to(torch.bfloat16)
            self._weight.copy_(self._linear.weight)
            self._before.copy_(torch.mm(self._x, self._weight_t)).add_(self._linear.bias)
        else:
            self._x = x
            self._addmm(self._linear.bias, x, self._weight_t, self._before)
        return self._activate(self._before, self.output)

    def backward(self) -> None:
        """Write the gradients of weight and bias, and that of the input unless it is not needed."""
        grad = self._differentiate(self.grad, self._before, self.output)
        torch.sum(grad, 0, out=self._linear.grad_bias)
        if self._rounds:
            self._factor.copy_(grad)
        self._mm(self._factor_t, self._x, self._linear.grad_weight)
        if self._grad_input is not None:
            self._mm(self._factor, self._weight, self._grad_input)


def _mm_rounded(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write the product of two matrices, rounded to their own type."""
    return out.copy_(torch.mm(a, b))
