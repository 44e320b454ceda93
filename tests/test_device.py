"""What is set where there is a GPU; the devices are faked where TensorFlow lists them."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from keras_genmnist import cli, device, models
from tests import tiny

eager = tiny.eager
ROOT = Path(__file__).parent.parent
GPUS = [SimpleNamespace(name=f"/physical_device:GPU:{number}") for number in range(2)]


@pytest.fixture
def machine(monkeypatch):
    """Gives the machine GPUs, of which TensorFlow can use some; returns what was set, in order."""
    done = []

    def machine(there, usable):
        monkeypatch.setattr(device, "gpu_is_there", lambda: there)
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: usable if kind == "GPU" else [])
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind=None: usable if kind == "GPU" else [])
        details = {"device_name": "NVIDIA H100"}
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
        monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: done.append("determinism"))
        growth = tf.config.experimental
        monkeypatch.setattr(growth, "set_memory_growth", lambda gpu, on: done.append((gpu.name, on)))
        return done

    return machine


def test_gpu_is_made_deterministic_and_takes_no_more_memory_than_it_needs(machine):
    done = machine(True, GPUS)
    device.prepare()
    assert done == ["determinism", *((gpu.name, True) for gpu in GPUS)]


def test_cpu_is_left_as_it_is(machine):
    done = machine(False, [])
    device.prepare()
    assert done == []
    assert tf.config.threading.get_inter_op_parallelism_threads() == 1


def test_gpu_is_set_up_before_anything_is_built(machine, monkeypatch, tmp_path):
    done = machine(True, GPUS[:1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "build", lambda *arguments: done.append("built") or sys.exit(0))
    monkeypatch.setattr(sys, "argv", ["genmnist", "train", *tiny.flags()])
    with pytest.raises(SystemExit):
        cli.main()
    assert done == ["determinism", (GPUS[0].name, True), "built"]


def test_description_names_the_device_the_threads_and_the_precision(machine):
    machine(False, [])
    assert re.fullmatch(r"\d+ threads? of the CPU, float32", device.description())
    machine(True, GPUS[:1])
    assert re.fullmatch(
        r"NVIDIA H100 and \d+ threads? of the CPU, float32 with products in TensorFloat-32 .*", device.description()
    )


def test_first_line_of_a_training_names_the_device(tmp_path, capsys, eager):
    tiny.train(tiny.begin(tmp_path / "run", epochs=1))
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("training vae") and first.endswith(f"on {device.description()}")


NO_DRIVER = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1.0 1 cudart_stub.cc:31] Could not find cuda drivers on this machine, GPU will not be used.
E0000 00:00:1.0 1 cuda_platform.cc:52] failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)
"""
NO_LIBRARY = """I0000 00:00:1.0 1 cpu_feature_guard.cc:227] This binary is optimized to use available CPU instructions.
W0000 00:00:1.0 1 gpu_device.cc:2365] Cannot dlopen some GPU libraries. Please make sure the missing libraries
Skipping registering GPU devices...
"""


@pytest.mark.parametrize(
    "said, reason",
    [
        (NO_DRIVER, "failed call to cuInit: INTERNAL: UNKNOWN ERROR (303)"),
        (NO_DRIVER.rsplit("\n", 2)[0], "Could not find cuda drivers on this machine, GPU will not be used."),
        (NO_LIBRARY, "Cannot dlopen some GPU libraries."),
        ("", "TensorFlow does not say why"),
    ],
)
def test_gpu_that_cannot_be_used_is_told_with_the_reason(said, reason, machine, monkeypatch):
    machine(True, [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert reason in device.why_unused(said) and "\n" not in device.why_unused(said)
    assert "make GPU=1" not in device.why_unused(said)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert reason in device.why_unused(said) and "make GPU=1" in device.why_unused(said)
    monkeypatch.setattr(tf.test, "is_built_with_cuda", lambda: False)
    assert "built without CUDA" in device.why_unused(said)


@pytest.mark.parametrize("there, usable", [(False, []), (True, GPUS)])
def test_nothing_is_told_where_there_is_no_gpu_or_it_is_used(there, usable, machine):
    machine(there, usable)
    assert device.why_unused(NO_DRIVER) is None


@pytest.mark.slow
def test_command_line_tells_once_what_tensorflow_says(tmp_path):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow can use the GPU of this machine")
    lister = tmp_path / "nvidia-smi"
    lister.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    lister.chmod(0o755)
    environment = tiny.environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    command = [sys.executable, "-m", "keras_genmnist", "evaluate", "--workdir=nowhere"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    told, refused = ended.stderr.splitlines()
    assert re.fullmatch(r"genmnist: this machine has a GPU, and TensorFlow cannot use it \(.*\)", told)
    assert "does not say" not in told
    assert refused.startswith("genmnist: no run in nowhere")


def test_gpu_is_looked_for_in_dev_and_by_nvidia_smi(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found, listed = [], [""]
    monkeypatch.setattr(device.Path, "glob", lambda self, pattern: found)
    monkeypatch.setattr(device.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout=listed[0]))
    assert not device.gpu_is_there()
    listed[0] = "GPU 0: NVIDIA H100 (UUID: GPU-1)\n"
    assert device.gpu_is_there()
    found.append("/dev/nvidia0")
    monkeypatch.setattr(device.subprocess, "run", lambda *a, **k: 1 / 0)  # need not be asked
    assert device.gpu_is_there()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not device.gpu_is_there()


# Installation


def make(*arguments: str) -> str:
    """What `make ARGUMENTS` would do, where nothing is installed."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("M") and name != "GPU"}
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True).stdout


def test_make_installs_the_cuda_libraries_only_where_they_are_asked_for():
    for target in ("demo", "test", "train"):
        assert "install --quiet --require-hashes -r requirements/dev.lock\n" in make(target)
        assert "-r requirements/dev.lock -r requirements/gpu.lock\n" in make("GPU=1", target)
    assert ".venv/.installed-gpu" in make("GPU=1", "demo") and "gpu" not in make("demo")


def test_locks_that_are_installed_together_agree():
    # pip takes a package from two locks only if both pin one version.
    pins = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / f"{name}.lock").read_text(), re.M))
        for name in ("dev", "gpu")
    ]
    shared = pins[0].keys() & pins[1].keys()
    assert len(shared) > 50 and {name: pins[0][name] for name in shared} == {name: pins[1][name] for name in shared}
