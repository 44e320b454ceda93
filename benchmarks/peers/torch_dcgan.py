"""The benchmark's DCGAN in PyTorch: the networks of configs/dcgan.py, batch 100, Adam 2e-4 with beta_1 0.5.

Usage: python torch_dcgan.py IMAGES.npy eager|compile, uint8 [N, 784].  One epoch that does not count, then two that
do; prints one line of JSON: the median images_per_second of the two, and the last one's mean loss of the discriminator.
"""

import sys

import numpy as np
import torch
from epochs import timed
from torch import nn
from torch.nn import functional as F

BATCH_SIZE, CHANNELS, HIDDEN_SIZE, LATENT_SIZE = 100, 32, 512, 100


def generator():
    return nn.Sequential(
        nn.Linear(LATENT_SIZE, HIDDEN_SIZE, bias=False),
        nn.BatchNorm1d(HIDDEN_SIZE),
        nn.ReLU(),
        nn.Linear(HIDDEN_SIZE, 7 * 7 * 2 * CHANNELS, bias=False),
        nn.Unflatten(1, (2 * CHANNELS, 7, 7)),
        nn.BatchNorm2d(2 * CHANNELS),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * CHANNELS, CHANNELS, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.ConvTranspose2d(CHANNELS, 1, 4, stride=2, padding=1),
        nn.Sigmoid(),
    )


def discriminator():
    return nn.Sequential(
        nn.Conv2d(1, CHANNELS, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * CHANNELS),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 2 * CHANNELS, HIDDEN_SIZE, bias=False),
        nn.BatchNorm1d(HIDDEN_SIZE),
        nn.LeakyReLU(0.2),
        nn.Linear(HIDDEN_SIZE, 1),
    )


def main():
    images = torch.from_numpy(np.load(sys.argv[1])).float().reshape(-1, 1, 28, 28) / 255
    torch.manual_seed(0)
    networks = [network.to(memory_format=torch.channels_last) for network in (generator(), discriminator())]
    g_optimizer, d_optimizer = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in networks)
    g, d = map(torch.compile, networks) if sys.argv[2] == "compile" else networks

    def step(real):
        fake = g(torch.randn(BATCH_SIZE, LATENT_SIZE))
        d_optimizer.zero_grad()
        loss = F.softplus(-d(real)).mean() + F.softplus(d(fake.detach())).mean()
        loss.backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        F.softplus(-d(fake)).mean().backward()
        g_optimizer.step()
        return loss.detach()

    timed(step, images, BATCH_SIZE)


if __name__ == "__main__":
    main()
