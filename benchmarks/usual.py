"""The usual way to train a VAE: as PyTorch's own example does, with the layers that this project started from.

https://github.com/pytorch/examples/blob/main/vae/main.py

Nothing here is vae_tune's but the place of MNIST, so that what vae_tune is compared with takes none of its shortcuts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from vae_tune.config.cache_folder import cache_dir

PIXELS = 784
VALIDATION = range(50_000, 60_000)
"""The images to validate with, of MNIST's training images: as in vae_tune, the last."""
CPU = torch.device("cpu")
Batches = DataLoader[tuple[Tensor, Tensor]]


class VAE(nn.Module):
    """An encoder with two heads, linear or with ReLU as PyTorch's example has it, and a ReLU decoder."""

    def __init__(self, hidden_width: int, latent_size: int, hidden_layers: int = 1, activation: str = "linear"):
        super().__init__()
        self.encoder = _layers(PIXELS, hidden_width, hidden_layers)
        self.mean = nn.Linear(hidden_width, latent_size)
        self.log_variance = nn.Linear(hidden_width, latent_size)
        self.decoder = _layers(latent_size, hidden_width, hidden_layers)
        self.logits = nn.Linear(hidden_width, PIXELS)
        self.relu = {"linear": False, "relu": True}[activation]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x``: (batch, pixels) to the reconstructed pixels, mean and log-variance."""
        hidden = x
        for layer in self.encoder:
            hidden = torch.relu(layer(hidden)) if self.relu else layer(hidden)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        deviation = torch.exp(0.5 * log_variance)
        z = mean + torch.randn_like(deviation) * deviation
        for layer in self.decoder:
            z = torch.relu(layer(z))
        return torch.sigmoid(self.logits(z)), mean, log_variance


def _layers(size: int, width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width if layer else size, width) for layer in range(count))


def batches(images: range, size: int, device: torch.device = CPU, *, shuffle: bool) -> Batches:
    """Load those of MNIST's training images."""
    mnist = datasets.MNIST(cache_dir(), train=True, transform=transforms.ToTensor())
    on_gpu = {"num_workers": 1, "pin_memory": True} if device.type == "cuda" else {}  # as the example has it
    return DataLoader(Subset(mnist, images), batch_size=size, shuffle=shuffle, **on_gpu)  # type: ignore[arg-type]


def train_epoch(model: VAE, loader: Batches, optimizer: torch.optim.Optimizer, device: torch.device = CPU) -> float:
    """Take one pass over the images; return the mean loss in nats per image."""
    total, count = 0.0, 0
    for images, _ in loader:
        optimizer.zero_grad()
        loss = _loss(model, images.to(device))
        loss.backward()
        total += loss.item()
        count += len(images)
        optimizer.step()
    return total / count


@torch.no_grad()
def validate(model: VAE, loader: Batches, device: torch.device = CPU) -> float:
    """Return the negative ELBO in nats per image."""
    total, count = 0.0, 0
    for images, _ in loader:
        total += _loss(model, images.to(device)).item()
        count += len(images)
    return total / count


def _loss(model: VAE, images: Tensor) -> Tensor:
    """Return the sum of reconstruction and KL over the images."""
    x = images.view(-1, PIXELS)
    output, mean, log_variance = model(x)
    reconstruction = functional.binary_cross_entropy(output, x, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
    return reconstruction + divergence
