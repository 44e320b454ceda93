"""The benchmark's PixelCNN in PyTorch: the network of configs/pixelcnn.py, batch 16, Adam 2e-3.

Usage: python torch_pixelcnn.py IMAGES.npy eager|compile, uint8 [N, 784].  One epoch that does not count, then two that
do; prints one line of JSON: the median images_per_second of the two, and the last one's mean NLL.
"""

import itertools
import sys

import numpy as np
import torch
from epochs import timed
from torch import nn
from torch.nn import functional as F

BATCH_SIZE, FEATURES, LAYERS, FIRST_SIZE, SIZE, POSITIONS, ORDERS, GRID = 16, 48, 4, 7, 5, 8, 8, 14


def gate(values):
    a, b = values.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


class Gated(nn.Module):
    """A layer of F maps, which is told 4 F numbers for each place."""

    def __init__(self, inputs, features, size, first):
        super().__init__()
        self.reach, self.first = size // 2, first
        self.vertical = nn.Conv2d(inputs, 2 * features, (self.reach + 1, size))
        self.horizontal = nn.Conv2d(inputs, 2 * features, (1, self.reach if first else self.reach + 1))
        self.link = nn.Conv2d(2 * features, 2 * features, 1)
        self.mix = nn.Conv2d(features, features, 1)

    def forward(self, vertical, horizontal, told):
        own, across = told.chunk(2, dim=1)
        seen = self.vertical(F.pad(vertical, (self.reach, self.reach, self.reach, 0))) + own
        above = self.link(F.pad(seen, (0, 0, 1, 0))[:, :, :-1]) + across
        left = F.pad(horizontal, (self.reach, 0))
        output = self.mix(gate(self.horizontal(left[..., :-1] if self.first else left) + above))
        return gate(seen), output if self.first else output + horizontal


def gated_layers(features, count, first_size, size):
    """The layers of a PixelCNN over patches of 2 x 2."""
    sizes = [first_size] + (count - 1) * [size]
    return nn.ModuleList(Gated(features if i else 4, features, size, first=i == 0) for i, size in enumerate(sizes))


def head(features):
    """From the maps of the last layer to the logits of the 16 patterns of a patch."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(features, features, 1), nn.ReLU(), nn.Conv2d(features, 16, 1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(FEATURES, 3 * FEATURES, bias=False)
        self.mix = nn.Linear(FEATURES, FEATURES)

    def forward(self, maps):
        queries, keys, values = self.project(maps.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        found = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return maps + self.mix(found).transpose(1, 2).reshape(maps.shape)


class PixelCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(0.1 * torch.randn(1, POSITIONS, GRID, GRID))
        self.gated = gated_layers(FEATURES, LAYERS, FIRST_SIZE, SIZE)
        contexts = (nn.Conv2d(POSITIONS + ORDERS, 4 * FEATURES, 1, bias=False) for _ in self.gated)
        self.contexts = nn.ModuleList(contexts)
        self.attention = nn.ModuleList(Attention() for _ in range(LAYERS // 2))
        self.head = head(FEATURES)
        self.register_buffer("bits", torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))))  # [16, 4]

    def forward(self, x, levels, order):
        """The mean NLL of patches whose pixels are drawn with the probabilities `levels`, given bits x."""
        places, levels = F.pixel_unshuffle(x, 2), F.pixel_unshuffle(levels, 2)
        order = F.one_hot(order, ORDERS).float()[:, :, None, None]
        vertical = horizontal = 2 * places - 1
        for number, (layer, context) in enumerate(zip(self.gated, self.contexts, strict=True)):
            by_place, by_order = context.weight.split([POSITIONS, ORDERS], dim=1)
            told = F.conv2d(self.positions, by_place) + F.conv2d(order, by_order)
            vertical, horizontal = layer(vertical, horizontal, told)
            if number % 2:
                horizontal = self.attention[number // 2](horizontal)
        bits = self.bits[None, :, :, None, None]
        shares = torch.where(bits > 0.5, levels[:, None], 1 - levels[:, None]).prod(dim=2)
        return -(shares * self.head(horizontal).log_softmax(dim=1)).sum() / len(x)


def turned(images, order):
    """Images [B, 1, H, W], each in the order of its own number: reflected, and from 4 on transposed."""
    places = torch.arange(28 * 28).reshape(28, 28)
    upright = [places, places.flip(1), places.flip(0), places.flip(0, 1)]
    permutations = torch.stack([own.flatten() for own in (*upright, *(own.t() for own in upright))])
    return images.flatten(1).gather(1, permutations[order]).reshape(images.shape)


def main():
    images = torch.from_numpy(np.load(sys.argv[1])).float().reshape(-1, 1, 28, 28) / 255
    torch.manual_seed(0)
    model = PixelCNN().to(memory_format=torch.channels_last)
    loss_of = torch.compile(model) if sys.argv[2] == "compile" else model
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def step(levels):
        optimizer.zero_grad()
        order = torch.randint(ORDERS, (len(levels),))
        levels = turned(levels, order)
        loss = loss_of(torch.bernoulli(levels), levels, order)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    timed(step, images, BATCH_SIZE)


if __name__ == "__main__":
    main()
