"""Deep generative models of MNIST and of images like it, in TensorFlow and TensorFlow Probability.

>>> import keras_genmnist as gm
>>> data = gm.datasets.load("mnist_5k")
>>> model = gm.models.build("vae", data.spec, latent_size=2, hidden_size=8)
>>> model.compile(gm.optimizers.Adam(1e-3))
>>> history = model.fit(data.train.batches(1000), validation_data=data.validation.batches(500), verbose=0)
>>> sorted(history.history)
['elbo', 'kl', 'reconstruction', 'val_elbo', 'val_kl', 'val_reconstruction']
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Before TensorFlow is imported anywhere: its C++ log and oneDNN notices are noise beside a progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "1.0.0"
# What is public, and where it is: loaded when it is first used (PEP 562), for TensorFlow takes seconds.
PUBLIC = {
    "datasets": "keras_genmnist.datasets",
    "models": "keras_genmnist.models",
    "train": "keras_genmnist.api:train",
    "open": "keras_genmnist.api:open",
    "pretrained": "keras_genmnist.api:pretrained",
    "Trained": "keras_genmnist.api:Trained",
    "tune": "keras_genmnist.tuning:tune",
    "optimizers": "tf_keras.optimizers",
}
__all__ = list(PUBLIC)
if TYPE_CHECKING:  # for type checkers and editors, the same
    from tf_keras import optimizers as optimizers

    from keras_genmnist import datasets as datasets
    from keras_genmnist import models as models
    from keras_genmnist.api import Trained as Trained
    from keras_genmnist.api import open as open
    from keras_genmnist.api import pretrained as pretrained
    from keras_genmnist.api import train as train
    from keras_genmnist.tuning import tune as tune


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(PUBLIC)}")
    module, _, attribute = PUBLIC[name].partition(":")
    importlib.import_module("keras_genmnist.device").prepare()
    found = importlib.import_module(module)
    globals()[name] = getattr(found, attribute) if attribute else found  # so that this is asked once
    return globals()[name]


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
