"""The benchmark's convolutional VAE in PyTorch: the networks of configs/vae_conv.py, batch 100, Adam 1e-3.

Usage: python torch_vae_conv.py IMAGES.npy eager|compile, uint8 [N, 784].  One epoch that does not count, then two that
do; prints one line of JSON: the median images_per_second of the two, and the last one's mean ELBO.
"""

import sys

import numpy as np
import torch
from epochs import timed
from torch import nn
from torch.nn import functional as F

BATCH_SIZE, LATENT_SIZE, HIDDEN_SIZE, ENCODER, DECODER = 100, 32, 256, 16, 32


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x):
        return x + self.second(F.elu(self.first(F.elu(x))))


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, ENCODER, 5, stride=2, padding=2),
            Residual(ENCODER),
            nn.ELU(),
            nn.Conv2d(ENCODER, 2 * ENCODER, 3, stride=2, padding=1),
            Residual(2 * ENCODER),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(7 * 7 * 2 * ENCODER, HIDDEN_SIZE),
            nn.ELU(),
            nn.Linear(HIDDEN_SIZE, 2 * LATENT_SIZE),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_SIZE, HIDDEN_SIZE),
            nn.ELU(),
            nn.Linear(HIDDEN_SIZE, 7 * 7 * 2 * DECODER),
            nn.Unflatten(1, (2 * DECODER, 7, 7)),
            nn.ELU(),
            nn.ConvTranspose2d(2 * DECODER, DECODER, 4, stride=2, padding=1),
            nn.ELU(),
            nn.ConvTranspose2d(DECODER, 1, 4, stride=2, padding=1),
        )

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        variance = log_variance.exp()
        z = mean + variance.sqrt() * torch.randn_like(mean)
        log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (variance + mean**2 - 1 - log_variance).sum()
        return (log_likelihood - kl) / len(x)


def main():
    images = torch.from_numpy(np.load(sys.argv[1])).float().reshape(-1, 1, 28, 28) / 255
    torch.manual_seed(0)
    model = VAE().to(memory_format=torch.channels_last)
    elbo = torch.compile(model) if sys.argv[2] == "compile" else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(batch):
        optimizer.zero_grad()
        loss = -elbo(torch.bernoulli(batch).to(memory_format=torch.channels_last))
        loss.backward()
        optimizer.step()
        return -loss.detach()

    timed(step, images, BATCH_SIZE)


if __name__ == "__main__":
    main()
