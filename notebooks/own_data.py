# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Images of your own: from a .npz file to the explorer
#
# This notebook draws 3,000 small pictures of four shapes, stores them as a `.npz` file, trains a variational
# autoencoder on them, looks at what it has learned, exports it, and serves it. Replace the first section by your own
# images to do the same with them. It runs in about a minute on two CPU cores.

# %%
# In Colab this installs the package. Put the address of your copy of the repository here.
REPOSITORY = "https://github.com/OWNER/keras_genmnist"

import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"git+{REPOSITORY}"], check=True)

# %%
import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, Markdown

import keras_genmnist as gm

EPOCHS = int(os.environ.get("NOTEBOOK_EPOCHS", 30))  # for a shorter run of this notebook: NOTEBOOK_EPOCHS=1
WORK = Path("runs/own_data")
shutil.rmtree(WORK, ignore_errors=True)  # so that nothing of an earlier session is continued
WORK.mkdir(parents=True)

# %% [markdown]
# ## 1. A .npz file of images
#
# What is needed is an array of images, of whole numbers from 0 to 255 or of numbers from 0 to 1, and labels if there
# are any. They may be names. Images from 8 x 8 to 64 x 64 pixels are accepted, grey or in colour; the shapes here are
# 32 x 32. A folder of PNG or JPEG files would do as well.

# %%
SIZE, NAMES = 32, ("disc", "square", "triangle", "cross")
rng = np.random.default_rng(1)


def draw(name):
    """One shape somewhere near the middle, slightly turned, uint8 [SIZE, SIZE]."""
    x, y = np.meshgrid(*2 * [np.arange(SIZE) - (SIZE - 1) / 2])
    x, y = x - rng.uniform(-2, 2), y - rng.uniform(-2, 2)
    angle, r = rng.uniform(-0.2, 0.2), rng.uniform(7, 11)
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    outside = {  # how far a pixel lies outside the shape
        "disc": np.hypot(x, y) - r,
        "square": np.maximum(abs(x), abs(y)) - 0.85 * r,
        "triangle": np.maximum(y, abs(x) * 0.866 - 0.5 * y) - 0.6 * r,
        "cross": np.minimum(np.maximum(abs(x) - r, abs(y) - 0.3 * r), np.maximum(abs(x) - 0.3 * r, abs(y) - r)),
    }[name]
    return (255 * np.clip(0.5 - outside, 0, 1)).astype(np.uint8)


labels = rng.choice(NAMES, 3000)
images = np.stack([draw(name) for name in labels])
np.savez_compressed(WORK / "shapes.npz", images=images, labels=labels)

# %% [markdown]
# ## 2. What the library makes of it
#
# The images are put in a random order, which is always the same for the same number of images. Then the last sixth
# becomes the test split, and the last sixth of the rest the validation split. Mistakes that are often made, such as
# inverted images or values on two scales, are named in one line.

# %%
data = gm.datasets.load(str(WORK / "shapes.npz"))
figure, axes = plt.subplots(2, 10, figsize=(8, 1.9), layout="constrained")
for axis, picture, label in zip(axes.flat, data.train.images, data.train.labels, strict=False):
    axis.imshow(picture, cmap="gray")
    axis.set_title(data.spec.class_names[label], fontsize=8)
    axis.set_axis_off()
Markdown(
    f"`{data.name}`: {len(data.train.images):,} training, {len(data.validation.images):,} validation and "
    f"{len(data.test.images):,} test images of shape {data.spec.image_shape}, in {data.spec.num_classes} classes: "
    f"{', '.join(data.spec.class_names)}."
)

# %% [markdown]
# ## 3. Training
#
# `vae_2d` has two latents, so that its latent space can be drawn. Any other name that `genmnist list` prints will do.
# The same from the command line: `genmnist train --model=vae_2d --config.dataset=shapes.npz`.

# %%
run = gm.train(
    "vae_2d",
    dataset=str(WORK / "shapes.npz"),
    workdir=WORK / "shapes",
    epochs=EPOCHS,
    hidden_size=200,
    batch_size=50,
    jit_compile=False,  # compiling a network this small takes longer than training it
)

# %%
run.figure("training_curves")

# %% [markdown]
# ## 4. Figures

# %%
run.figure("samples")

# %%
run.figure("reconstructions")

# %%
run.figure("latent_means")

# %%
run.figure("latent_grid")

# %% [markdown]
# ## 5. The latents as features
#
# `encode` gives the posterior of any image. Two numbers say a good deal about a picture of 1,024 pixels: how often is
# a test image nearest to the mean of its own class? `genmnist encode --workdir=... --images=... --out=codes.csv`
# writes the same numbers to a file.

# %%
codes = {
    split.name: run.model.encode(split.binary.astype(np.float32))["mean"].numpy() for split in (data.train, data.test)
}
centres = np.stack([codes["train"][data.train.labels == number].mean(axis=0) for number in range(len(NAMES))])
nearest = np.linalg.norm(codes["test"][:, None] - centres, axis=-1).argmin(axis=1)
accuracy = float((nearest == data.test.labels).mean())
Markdown(
    f"Of {len(nearest)} test images, {accuracy:.0%} are nearest to the mean of their own class; by chance it would be "
    f"about {1 / len(NAMES):.0%}."
)

# %% [markdown]
# ## 6. Export, and the explorer
#
# An export is a SavedModel: it needs TensorFlow, but not this package. `genmnist serve` serves it over HTTP, with an
# explorer of the latent space in the browser. In a terminal, start it by
#
# ```
# genmnist serve --export=runs/own_data/exports/shapes
# ```
#
# and open the address that it prints. Here it is started on a free port, asked for one thing, and stopped.

# %%
export = run.export(WORK / "exports")
command = [sys.executable, "-m", "keras_genmnist", "serve", f"--export={export.parent}", "--port=0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
        said = {}
        for line in server.stdout:  # "listening on ADDRESS" and "serving shapes version 1"
            verb, *_, last = line.split()
            said[verb] = last
            if {"listening", "serving"} <= said.keys():
                break
        address = said["listening"]
        with urllib.request.urlopen(f"{address}/v1/models/shapes") as reply:
            state = json.load(reply)["model_version_status"][0]["state"]
        with urllib.request.urlopen(f"{address}/v1/models/shapes/sample.png?num_samples=16&seed=7") as reply:
            sheet = reply.read()
    finally:
        server.terminate()
Markdown(f"The model `shapes` was {state}, and this is what it drew:")

# %%
Image(sheet, width=256)
