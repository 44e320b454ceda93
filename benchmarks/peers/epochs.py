"""What PyTorch's peers share: epochs of shuffled batches, and the line that tells how fast they were."""

import json
import statistics
import time

import torch

COUNTED_EPOCHS = 2


def timed(step, images, batch_size):
    """Trains one epoch that does not count and COUNTED_EPOCHS that do, and prints one line of JSON.

    Args:
      step: a batch -> what is maximised, or minimised.
      images: [N, ...]; those left over by whole batches are left out.
      batch_size: of `step`.
    """
    images, rates = images[: len(images) // batch_size * batch_size], []
    for _ in range(1 + COUNTED_EPOCHS):
        start = time.perf_counter()
        # One gather an epoch costs less than one a step.
        batches = images[torch.randperm(len(images))].split(batch_size)
        objective = (sum(step(batch) for batch in batches) / len(batches)).item()
        rates.append(len(images) / (time.perf_counter() - start))
    print(json.dumps({"images_per_second": statistics.median(rates[1:]), "objective": objective}))
