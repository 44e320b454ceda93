"""What cannot fit in memory is refused before it is allocated."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import config as configs
from keras_genmnist import memory, models, training
from keras_genmnist.errors import UsageError
from tests import tiny

GB = 10**9


def machine(root, available=8 * 2**20, cgroup="", **limits):
    """A machine with so many KiB, a process in `cgroup`, and files of limits by their path under /sys/fs/cgroup."""
    for path, text in {
        "proc/meminfo": f"MemTotal:       99999999 kB\nMemAvailable:   {available} kB\n",
        "proc/self/cgroup": cgroup,
        **{f"sys/fs/cgroup/{path}": f"{limit}\n" for path, limit in limits.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


UNIFIED, SPLIT = "0::/a/b\n", "4:cpu,cpuacct:/\n9:memory:/docker/0\n0::/\n"


@pytest.mark.parametrize(
    "cgroup, limits, expected",
    [
        ("", {}, 8 * 2**30),
        ("0::/\n", {"memory.max": "max"}, 8 * 2**30),
        ("0::/\n", {"memory.max": 5 * GB}, 5 * GB),
        (UNIFIED, {"a/memory.max": 3 * GB, "a/b/memory.max": "max"}, 3 * GB),
        (UNIFIED, {"a/memory.max": 3 * GB, "a/b/memory.max": 2 * GB}, 2 * GB),
        (UNIFIED, {"a/b/memory.max": 99 * GB}, 8 * 2**30),
        (SPLIT, {"memory/docker/0/memory.limit_in_bytes": 4 * GB}, 4 * GB),
        (SPLIT, {"memory/memory.limit_in_bytes": 6 * GB}, 6 * GB),  # a container that sees no more than its own
        (SPLIT, {"memory/memory.limit_in_bytes": 9223372036854771712}, 8 * 2**30),
    ],
)
def test_available_is_what_the_system_and_the_cgroups_leave(cgroup, limits, expected, tmp_path):
    assert memory.available(machine(tmp_path, cgroup=cgroup, **limits)) == expected


def test_available_here_is_more_than_the_tests_need():
    assert 10**8 < memory.available() < 10**14


def test_available_of_another_system_is_no_limit(tmp_path):
    assert memory.available(tmp_path) > 10**18


# In 1 GB.
TOO_LARGE = [
    ("vae", {"hidden_size": 10**9}, r"whose kernel is 784 x 1000000000 would take at least 3.1 TB"),
    ("vae", {"hidden_size": 10**4, "latent_size": 10**6}, r"kernel is 10000 x 2000000 would take at least 80.\d GB"),
    (
        "vae",
        {"prior": "mixture", "prior_components": 10**9},
        "mixture_logits is 1000000000 would take .* 4.0 GB",
    ),
    ("vae", {"prior": "vamp", "prior_components": 10**9}, r"pseudo_images is 1000000000 x 28 x 28 x 1 .* 3.1 TB"),
    ("vae_conv", {"encoder_channels": 10**4}, "kernel is 3 x 3 x 10000 x 10000 would take at least 3.6 GB"),
    ("gan", {"hidden_size": 10**9}, "kernel is 2 x 1000000000 would take at least 8.0 GB"),
    ("ladder", {"num_layers": 2, "hidden_size": 10**9}, "kernel is 784 x 1000000000 would take at least 3.1 TB"),
    ("pixelcnn", {"features": 10**4}, "GB"),
]


@pytest.mark.parametrize("name, changes, said", TOO_LARGE, ids=[f"{n}-{list(c)[-1]}" for n, c, _ in TOO_LARGE])
def test_model_too_large_for_the_memory_is_refused_before_it_is_made(name, changes, said, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: GB)
    with pytest.raises(UsageError, match=said) as refused:
        models.build(tiny.config(name, **changes))
    assert "memory" in str(refused.value) and "there are" in str(refused.value) and "\n" not in str(refused.value)


def size_of(model) -> int:
    """The bytes of its weights and of the sums of its metrics."""
    sums = [variable for metric in model.metrics for variable in metric.variables]
    return sum(4 * int(tf.size(variable)) for variable in [*model.weights, *sums])


def test_model_that_fits_is_not_refused(monkeypatch):
    model = models.build(tiny.config("vae"))
    size = size_of(model)
    monkeypatch.setattr(memory, "available", lambda: size)
    assert models.build(tiny.config("vae")).num_parameters == model.num_parameters
    monkeypatch.setattr(memory, "available", lambda: size - 1)
    with pytest.raises(UsageError, match=f"at least {size:,} bytes of memory.*there are {size - 1:,} bytes"):
        models.build(tiny.config("vae"))


def test_variables_made_so_far_are_not_counted_twice(monkeypatch):
    model = models.build(tiny.config("vae"))
    left = iter([size_of(model)])  # before the first variable is made; after it there is less
    monkeypatch.setattr(memory, "available", lambda: next(left, 0))
    assert models.build(tiny.config("vae")).num_parameters == model.num_parameters


def test_training_needs_the_state_of_the_optimizer_and_the_activations(monkeypatch, tmp_path):
    run = tiny.begin(tmp_path / "run", ema_decay=0.5, bound="iwae", train_draws=7)
    model = models.build(run.config)
    trained, all_ = (sum(4 * int(tf.size(w)) for w in ws) for ws in (model.trainable_weights, model.weights))
    needed = 3 * trained + all_ + 4 * 7 * 1000 * 784 * 4
    found = []
    monkeypatch.setattr(memory, "available", lambda: found[0] if found else 10**12)
    built = models.build

    def building(*arguments):
        model = built(*arguments)
        found.append(needed)
        return model

    monkeypatch.setattr(models, "build", building)
    training.Training(run)
    needed -= 1
    found.clear()
    with pytest.raises(UsageError, match=r"batch_size=1000 and config\.train_draws=7 would take at least"):
        training.Training(run)


def test_draws_too_many_for_the_memory_are_refused(tmp_path):
    run = tiny.begin(tmp_path / "run", bound="iwae", train_draws=1_000_000_000)
    with pytest.raises(UsageError, match=r"config\.train_draws=1000000000.* TB of memory.*there are"):
        training.Training(run)


def test_gpu_has_memory_of_its_own(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    assert models.build(tiny.config("vae")).num_parameters > 1


# Sizes that no machine has


FIELDS = [
    (name, field)
    for name in ("vae", "gan", "ladder", "pixelcnn")
    for field, value in configs.load(name).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
]


@pytest.mark.parametrize("name, field", FIELDS)
def test_every_number_of_a_config_has_a_range(name, field, tmp_path):
    """None is built, or trained for ever, by a value that cannot be meant; all are refused by name."""
    config = tiny.config(name)
    absurd = [10**20, 2**31, -1, -(10**20)] if isinstance(config[field], int) else [1e39, 1e-46, -1e39, -1.0]
    absurd += [float("nan"), float("inf")] if isinstance(config[field], float) else []
    for value in absurd:
        config = tiny.config(name)
        config[field] = value
        with pytest.raises(UsageError, match=rf"config\.{field}={value}".replace("+", r"\+")):
            training.check_config(config)
            models.build(config)


LIMITED = ("layers", "_steps", "reflections", "flow_size", "prior_size")


@pytest.mark.parametrize("name, field", [(name, field) for name, field in FIELDS if field.endswith(LIMITED)])
def test_number_of_layers_and_steps_is_limited(name, field):
    # Each is a loop in Python, or the side of a square in numpy.
    with pytest.raises(UsageError, match=rf"config\.{field}=1000000 is out of range: give .*10000?$"):
        models.build(tiny.config(name, **{field: 1_000_000}))


@pytest.mark.skipif(
    not memory.Path("/proc/self/status").exists(), reason="what else tells the peak counts the parent's"
)
def test_peak_is_of_this_process_and_not_of_the_one_that_started_it():
    peaks = np.ones(100_000_000, np.float64).sum() and memory.peak()
    code = "import sys; sys.modules['tensorflow'] = sys; from keras_genmnist import memory; print(memory.peak())"
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=tiny.environment()
    )
    assert 5_000_000 < int(child.stdout) < 200_000_000 < 800_000_000 < peaks
