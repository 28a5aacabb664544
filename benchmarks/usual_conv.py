"""The usual way to train the network of ``--model conv``: PyTorch's layers one by one, in a process of its own.

    python benchmarks/usual_conv.py [--images 6400] [--batch-size 128]

Prints the CPU seconds of an epoch on one thread: NCHW, float32, unfused Adam, ``DataLoader`` over tensors. Nothing
here is vae_tune's but the images.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from vae_tune.config.settings import DataConfig
from vae_tune.images.datasets import load_images


class ConvVAE(nn.Module):
    """Conv(channels, residual_blocks=0) for images of 28 x 28, with its reparameterisation."""

    def __init__(self, channels: int, latent_size: int):
        super().__init__()
        c, features = channels, 4 * channels * 4 * 4
        self.encoder = nn.Sequential(
            nn.Conv2d(1, c, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(c, c, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(c, 2 * c, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * c, 4 * c, 4, stride=2, padding=2),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.mean, self.log_variance = nn.Linear(features, latent_size), nn.Linear(features, latent_size)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, features),
            nn.SiLU(),
            nn.Unflatten(1, (4 * c, 4, 4)),
            nn.Upsample(size=7),
            nn.Conv2d(4 * c, 2 * c, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(size=14),
            nn.Conv2d(2 * c, c, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(size=28),
            nn.Conv2d(c, c, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(c, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x``: (batch, 1, 28, 28) to logits, mean and log-variance."""
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        deviation = torch.exp(0.5 * log_variance)
        return self.decoder(mean + torch.randn_like(deviation) * deviation), mean, log_variance


def train_epoch(model: ConvVAE, loader: DataLoader[tuple[Tensor, ...]], optimizer: torch.optim.Optimizer) -> None:
    """Take one pass over the images."""
    for (x,) in loader:
        optimizer.zero_grad()
        logits, mean, log_variance = model(x)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        loss = (reconstruction - 0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())) / len(x)
        loss.backward()
        loss.item()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6_400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--latent-size", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.from_numpy(load_images(DataConfig(train_size=options.images)).train) / 255
    model = ConvVAE(options.channels, options.latent_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=False)
    warm_up, epoch = (
        DataLoader(TensorDataset(part), batch_size=options.batch_size, shuffle=True)
        for part in (images[:1_000], images)
    )
    train_epoch(model, warm_up, optimizer)
    start = time.process_time()
    train_epoch(model, epoch, optimizer)
    print(time.process_time() - start)


if __name__ == "__main__":
    main()
