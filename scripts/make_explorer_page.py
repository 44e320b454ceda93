"""Writes docs/explorer.html: the latent plane of the pretrained vae_2d in one file that needs no server.

Usage: python scripts/make_explorer_page.py [OUT], in the root of the repository, after scripts/make_zoo.py.

The page is the panel that `genmnist serve` shows, made of the same files; what they ask of the server is computed in
the page by explorer_page/server.js, from the decoder's weights in float16 as the package has them.
"""

import base64
import json
import re
import sys
from pathlib import Path

import numpy as np
import tf_keras

from keras_genmnist import runs, serve, zoo
from keras_genmnist.models.vae import VAE

NAME = "vae_2d"
SERVED = Path(serve.__file__).parent / "static"
OWN = Path(__file__).parent / "explorer_page"
SCRIPTS = ["canvas.js", "means.js", "panel.js", "places.js", "plane.js", "text.js", "vectors.js"]  # those of SERVED
TEMPLATES = ["plane", "chip"]


def page() -> str:
    """The page as HTML."""
    means = json.loads((zoo.export(NAME) / "1" / "assets.extra" / "latent_means.json").read_text())
    model = runs.load_model(zoo.run(NAME))
    described = {"latent_size": model.latent_size, "image_shape": model.image_shape, "latent_means": means}
    scripts = [*(SERVED / name for name in SCRIPTS), OWN / "server.js", OWN / "between.js"]
    # From data: a module finds no other by a relative path, so each has its file's name as its own.
    modules = {path.name: path.read_text().replace('from "./', 'from "') for path in scripts}
    urls = {name: f"data:text/javascript;base64,{_base64(text.encode())}" for name, text in modules.items()}
    index = (SERVED / "index.html").read_text()
    parts = {
        "icon": _base64((SERVED / "icon.svg").read_bytes()),
        "css": (SERVED / "explorer.css").read_text() + (OWN / "page.css").read_text(),
        "imports": json.dumps({"imports": urls}),
        "templates": "\n\n    ".join(
            re.search(f'<template id="{name}">.*?</template>', index, re.DOTALL)[0] for name in TEMPLATES
        ),
        "given": json.dumps({"model": described, "layers": layers(model)}, separators=(",", ":")),
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], (OWN / "page.html").read_text())


def layers(model: VAE) -> list[dict]:
    """The decoder's fully connected layers, each y = (x weights) factors + shifts, with ReLU between them.

    Batch norm's statistics are in the factors and shifts, for the weights are exact in float16 as they are.
    """
    found = []
    for layer in model.decoder.network.layers:
        if isinstance(layer, tf_keras.layers.Dense):
            weights = layer.kernel.numpy()
            factors, shifts = np.ones(layer.units), layer.bias.numpy() if layer.use_bias else np.zeros(layer.units)
            found.append([weights, factors, shifts])
        elif isinstance(layer, tf_keras.layers.BatchNormalization):
            _, factors, shifts = found[-1]
            scale = 1 / np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
            found[-1][1:] = factors * scale, (shifts - layer.moving_mean.numpy()) * scale + layer.beta.numpy()
    return [
        {
            "inputs": weights.shape[0],
            "outputs": weights.shape[1],
            "weights": _base64(weights.astype("<f2").tobytes()),
            "factors": _base64(factors.astype("<f4").tobytes()),
            "shifts": _base64(shifts.astype("<f4").tobytes()),
        }
        for weights, factors, shifts in found
    ]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/explorer.html")
    out.write_text(page())
    print(f"wrote {out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
