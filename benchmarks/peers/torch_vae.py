"""The benchmark's VAEs in PyTorch, batch 100, Adam 1e-3, dynamic Bernoulli binarization.

Usage: python torch_vae.py IMAGES.npy mlp|conv eager|compile, uint8 [N, 784].  `mlp` is 784-400-20-400-784, `conv` has
the networks of configs/vae_conv.py, channels last.  One epoch that does not count, then two that do; prints one line of
JSON: the median images_per_second of the two, and the last one's mean ELBO, nats per image.
"""

import sys

import numpy as np
import torch
from epochs import timed
from torch import nn
from torch.nn import functional as F

BATCH_SIZE = 100


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x):
        return x + self.second(F.elu(self.first(F.elu(x))))


def mlp(hidden=400, latent=20):
    """The layers of the encoder and of the decoder."""
    return (
        [nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)],
        [nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 784), nn.Unflatten(1, (1, 28, 28))],
    )


def conv(hidden=256, latent=32, encoder=16, decoder=32, outputs=1):
    """As `mlp`, with so many outputs of the decoder for each pixel."""
    halvings = [nn.Conv2d(1, encoder, 5, stride=2, padding=2), Residual(encoder), nn.ELU()]
    halvings += [nn.Conv2d(encoder, 2 * encoder, 3, stride=2, padding=1), Residual(2 * encoder), nn.ELU()]
    doublings = [nn.ConvTranspose2d(2 * decoder, decoder, 4, stride=2, padding=1), nn.ELU()]
    doublings += [nn.ConvTranspose2d(decoder, outputs, 4, stride=2, padding=1)]
    coarse = [nn.Linear(7 * 7 * 2 * encoder, hidden), nn.ELU(), nn.Linear(hidden, 2 * latent)]
    fine = [nn.Linear(latent, hidden), nn.ELU(), nn.Linear(hidden, 7 * 7 * 2 * decoder)]
    return (
        [*halvings, nn.Flatten(), *coarse],
        [*fine, nn.Unflatten(1, (2 * decoder, 7, 7)), nn.ELU(), *doublings],
    )


class VAE(nn.Module):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)

    def forward(self, x):
        """The mean ELBO of images [B, 1, 28, 28]."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        variance = log_variance.exp()
        z = mean + variance.sqrt() * torch.randn_like(mean)
        log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (variance + mean**2 - 1 - log_variance).sum()
        return (log_likelihood - kl) / len(x)


def main():
    images = torch.from_numpy(np.load(sys.argv[1])).float().reshape(-1, 1, 28, 28) / 255
    torch.manual_seed(0)
    model = VAE(*{"mlp": mlp, "conv": conv}[sys.argv[2]]()).to(memory_format=torch.channels_last)
    elbo = torch.compile(model) if sys.argv[3] == "compile" else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(batch):
        optimizer.zero_grad()
        objective = elbo(torch.bernoulli(batch).to(memory_format=torch.channels_last))
        (-objective).backward()
        optimizer.step()
        return objective.detach()

    timed(step, images, BATCH_SIZE)


if __name__ == "__main__":
    main()
