"""Several replicas of a model: the numbers of one, up to the order of sums."""

import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import cluster, runs, training
from tests import tiny

# Each with what replicas would get wrong if they took their rows of a batch for all of it.
MODELS = {
    "vae": {"norm": "batch", "ema_decay": 0.5, "clip_norm": 1.0, "weight_decay": 0.1},
    "gan, critic steps": {"critic_steps": 2, "loss": "wasserstein_gp", "gradient_penalty": 1.0},
    "vqvae": {"rate_weight": 0.5},
    "pixelcnn": {"soft_targets": True, "features": 16, "optimizer": "muon"},
}
OTHERS = {
    "vae, free bits": {"norm": "none", "free_bits": 0.5, "posterior": "iaf"},
    # Far from what the KL is: at it, what rounding says would turn the gradient around.
    "vae, capacity": {"norm": "layer", "capacity": 30.0, "train_draws": 2},
    "vae, dreg": {"norm": "none", "bound": "iwae", "gradient": "dreg", "train_draws": 3},
    "pixelvae": {"pixelcnn_orders": 4},
    # Without its warm-up, in which a hidden unit comes so near to 0 that rounding says whether the rectifier is open.
    "ladder": {"norm": "layer", "dropout": 0.3, "bottom_up_noise": 0.1, "warmup_epochs": 0},
    "gan": {},
    "dcgan": {"discriminator_norm": "spectral"},
    "masked_diffusion": {},
    "flow_matching": {},
}
STEPS = 51  # 17 epochs of 3


def trained(workdir: Path, name: str, devices: str | None, **changes) -> dict[str, np.ndarray]:
    """The state after STEPS steps, of batches of 12, of which a fourth and a half are whole numbers of images."""
    run = tiny.begin_small(workdir, name.split(",")[0], **changes)
    run.config.update({"batch_size": 12, "epochs": 17})
    runs.record(run)
    strategy = cluster.strategy(devices, None, None, run.config.batch_size)
    training.train(run, time.time(), strategy=strategy)
    newest = max(run.checkpoints.glob("ckpt-*.index"), key=lambda path: int(path.stem.removeprefix("ckpt-")))
    reader = tf.train.load_checkpoint(str(newest.with_suffix("")))
    # Weights and their averages; Adam's moments are as small as the differences.
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("average/")]
    return {name: np.asarray(reader.get_tensor(name)) for name in names}


def assert_as_one(name: str, tmp_path: Path, devices: list[str], **changes) -> None:
    one, *others = (trained(tmp_path / d.replace(":", ""), name, d, **changes) for d in ["cpu", *devices])
    for other in others:
        assert one.keys() == other.keys()
        for variable, values in one.items():
            np.testing.assert_allclose(other[variable], values, rtol=1e-5, atol=1e-5, err_msg=variable)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_several_replicas_train_as_one(name, tmp_path):
    assert_as_one(name, tmp_path, ["cpu:2", "cpu:4"] if name == "vae" else ["cpu:2"], **MODELS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_replicas_of_other_models_train_as_one(name, tmp_path):
    assert_as_one(name, tmp_path, ["cpu:2"], **OTHERS[name])
