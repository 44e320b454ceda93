"""The benchmark's VAE in PyTorch, eager: 784-400-20-400-784, batch 100, Adam 1e-3, dynamic Bernoulli binarization.

Usage: python torch_vae.py IMAGES.npy, uint8 [N, 784].  One epoch that does not count, then three that do; prints one
line of JSON: the median images_per_second of the three, and the last one's mean elbo, nats per image.
"""

import json
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

BATCH_SIZE, HIDDEN_SIZE, LATENT_SIZE, COUNTED_EPOCHS = 100, 400, 20, 3


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, HIDDEN_SIZE), nn.ReLU(), nn.Linear(HIDDEN_SIZE, 2 * LATENT_SIZE))
        self.decoder = nn.Sequential(nn.Linear(LATENT_SIZE, HIDDEN_SIZE), nn.ReLU(), nn.Linear(HIDDEN_SIZE, 784))

    def elbo(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        variance = log_variance.exp()
        z = mean + variance.sqrt() * torch.randn_like(mean)
        log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (variance + mean**2 - 1 - log_variance).sum()
        return (log_likelihood - kl) / len(x)


def train_epoch(model, optimizer, images):
    # One gather an epoch costs less than one a step.
    batches = images[torch.randperm(len(images))].split(BATCH_SIZE)
    total = torch.zeros(())
    for batch in batches:
        optimizer.zero_grad()
        elbo = model.elbo(torch.bernoulli(batch))
        (-elbo).backward()
        optimizer.step()
        total += elbo.detach()
    return total.item() / len(batches)


def main():
    images = torch.from_numpy(np.load(sys.argv[1])).float() / 255
    images = images[: len(images) // BATCH_SIZE * BATCH_SIZE]
    torch.manual_seed(0)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train_epoch(model, optimizer, images)
    rates = []
    for _ in range(COUNTED_EPOCHS):
        start = time.perf_counter()
        elbo = train_epoch(model, optimizer, images)
        rates.append(len(images) / (time.perf_counter() - start))
    print(json.dumps({"images_per_second": statistics.median(rates), "objective": elbo}))


if __name__ == "__main__":
    main()
