"""The benchmark's PixelVAE in PyTorch: the networks of configs/pixelvae.py, batch 100, Adam 1e-3.

Usage: python torch_pixelvae.py IMAGES.npy eager|compile, uint8 [N, 784].  One epoch that does not count, then two that
do; prints one line of JSON: the median images_per_second of the two, and the last one's mean ELBO, nats per image.
"""

import math
import sys

import numpy as np
import torch
from epochs import timed
from torch import nn
from torch.nn import functional as F
from torch_pixelcnn import gated_layers, head
from torch_vae import conv

BATCH_SIZE, LATENTS, CONTEXT, FREE_BITS = 100, 32, 100, 8.0
FEATURES, LAYERS, FIRST_SIZE, SIZE = 24, 4, 5, 3
FLOW_SIZE, FLOW_STEPS, PRIOR_SIZE, PRIOR_STEPS = 320, 2, 256, 8


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs), nn.ReLU()


class Masked(nn.Linear):
    """A layer of which an output of degree d sees the inputs of lower degrees, or of its own too."""

    def __init__(self, inputs, outputs, own):
        super().__init__(len(inputs), len(outputs))
        above = outputs[:, None] >= inputs[None] if own else outputs[:, None] > inputs[None]
        self.register_buffer("mask", above.float())
        self.told = nn.Linear(CONTEXT, len(outputs), bias=False)

    def forward(self, values, context):
        return F.linear(values, self.weight * self.mask, self.bias) + self.told(context)


class Made(nn.Module):
    """Two numbers for each latent, given those before it and a context."""

    def __init__(self):
        super().__init__()
        latents = torch.arange(1, LATENTS + 1)
        units = torch.linspace(1, LATENTS - 1, FLOW_SIZE).round()
        first, second = Masked(latents, units, own=True), Masked(units, units, own=True)
        self.layers = nn.ModuleList([first, second, Masked(units, latents.repeat(2), own=False)])

    def forward(self, z, context):
        first, second, last = self.layers
        return last(F.silu(second(F.silu(first(z, context)), context)), context).chunk(2, dim=1)


class PixelVAE(nn.Module):
    def __init__(self):
        super().__init__()
        encoder, decoder = conv(latent=LATENTS, outputs=FEATURES)
        *encoder, moments = encoder
        self.encoder, self.decoder, self.moments = nn.Sequential(*encoder), nn.Sequential(*decoder), moments
        self.context = nn.Sequential(nn.Linear(moments.in_features, CONTEXT), nn.ELU())
        self.mades = nn.ModuleList(Made() for _ in range(FLOW_STEPS))
        half = LATENTS // 2
        self.couplings = nn.ModuleList(
            nn.Sequential(*linear(half, PRIOR_SIZE), *linear(PRIOR_SIZE, PRIOR_SIZE), nn.Linear(PRIOR_SIZE, 2 * half))
            for _ in range(PRIOR_STEPS)
        )
        self.gated = gated_layers(FEATURES, LAYERS, FIRST_SIZE, SIZE)
        self.contexts = nn.ModuleList(nn.Conv2d(4 * FEATURES, 4 * FEATURES, 1, bias=False) for _ in self.gated)
        self.head = head(FEATURES)
        for weight in self.parameters():  # as Keras begins: with the default of PyTorch it learns less in three epochs
            (nn.init.xavier_uniform_ if weight.dim() > 1 else nn.init.zeros_)(weight)
        for coupling in self.couplings:
            nn.init.zeros_(coupling[-1].weight)
        self.register_buffer("powers", torch.tensor([8, 4, 2, 1])[None, :, None, None])

    def log_prior(self, z):
        log_det = 0
        for number, coupling in enumerate(self.couplings):
            halves = z.chunk(2, dim=1)
            kept, moved = halves[number % 2], halves[1 - number % 2]
            shift, log_scale = coupling(kept).chunk(2, dim=1)
            log_scale = 4 * torch.tanh(log_scale / 4)
            moved = (moved - shift) * torch.exp(-log_scale)
            log_det = log_det - log_scale.sum(dim=1)
            z = torch.cat([moved, kept] if number % 2 else [kept, moved], dim=1)
        return log_det - 0.5 * (z**2 + math.log(2 * math.pi)).sum(dim=1)

    def forward(self, x):
        """The mean ELBO of images [B, 1, 28, 28], with free bits, and without."""
        features = self.encoder(x)
        mean, scale = self.moments(features).chunk(2, dim=1)
        scale, noise, context = F.softplus(scale), torch.randn_like(mean), self.context(features)
        z = mean + scale * noise
        log_posterior = -(0.5 * (noise**2 + math.log(2 * math.pi)) + scale.log()).sum(dim=1)
        for number, made in enumerate(self.mades):
            z = z.flip(1) if number % 2 else z
            m, s = made(z, context)
            s = s + 2
            z = torch.sigmoid(s) * z + torch.sigmoid(-s) * m
            log_posterior = log_posterior - F.logsigmoid(s).sum(dim=1)
            z = z.flip(1) if number % 2 else z
        kl = (log_posterior - self.log_prior(z)).mean()
        told, places = F.pixel_unshuffle(self.decoder(z), 2), F.pixel_unshuffle(x, 2)
        vertical = horizontal = 2 * places - 1
        for layer, project in zip(self.gated, self.contexts, strict=True):
            vertical, horizontal = layer(vertical, horizontal, project(told))
        pattern = (places.long() * self.powers).sum(dim=1)
        log_likelihood = -F.cross_entropy(self.head(horizontal), pattern, reduction="sum") / len(x)
        return log_likelihood - kl.clamp(min=FREE_BITS), log_likelihood - kl


def main():
    images = torch.from_numpy(np.load(sys.argv[1])).float().reshape(-1, 1, 28, 28) / 255
    torch.manual_seed(0)
    model = PixelVAE().to(memory_format=torch.channels_last)
    bounds = torch.compile(model) if sys.argv[2] == "compile" else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(batch):
        optimizer.zero_grad()
        objective, elbo = bounds(torch.bernoulli(batch).to(memory_format=torch.channels_last))
        (-objective).backward()
        optimizer.step()
        return elbo.detach()

    timed(step, images, BATCH_SIZE)


if __name__ == "__main__":
    main()
