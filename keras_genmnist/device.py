"""The device that TensorFlow computes on, set up so that what is computed on it repeats bit for bit."""

import contextlib
import ctypes
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import tensorflow as tf


def prepare() -> None:
    """Sets TensorFlow up; before anything is built.

    Of the CPU, one operation at a time: the default threading adds gradients in an order that varies.  It costs nothing
    on two cores.  Of a GPU, operations that always add in one order, and no more of its memory than is needed.

    Where TensorFlow has computed something already, as in a notebook, it stays as it is.

    Its logger tells of errors alone: it warns of tracing, which every fit and every shape of a figure needs anew, and
    says where it writes a SavedModel.
    """
    tf.get_logger().setLevel("ERROR")
    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
    if gpu_is_there():
        _load_cusolver()
    if gpus := tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)


def use_threads(number: int) -> None:
    """Has each operation use so many threads of the CPU, of processes that share it; before anything is computed."""
    with contextlib.suppress(RuntimeError):  # it is too late, as in a notebook
        tf.config.threading.set_intra_op_parallelism_threads(number)


def description(precision: str = "float32") -> str:
    """What is computed on, in words: the device, the threads of the CPU, and the precision."""
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    threads = tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))
    cpu = f"{threads} thread{'s' * (threads != 1)} of the CPU"
    if gpus and tf.config.experimental.tensor_float_32_execution_enabled():
        precision += " with products in TensorFloat-32 where the GPU has it"
    return f"{' and '.join([*gpus, cpu])}, {precision}"


def gpu_is_there() -> bool:
    """Whether the machine has an NVIDIA GPU that is not hidden from this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.startswith("GPU ")


def why_unused(said: str) -> str | None:
    """Why a GPU that is there is not used, in one line; None where it is used, or there is none.

    Args:
      said: what TensorFlow's C++ code wrote while it looked for devices.
    """
    if not gpu_is_there() or tf.config.list_physical_devices("GPU"):
        return None
    messages = re.findall(r"^[WEF]\d{4} .*?\] (.*)", said, re.M) or re.findall(r"^I\d{4} .*?\] (.*)", said, re.M)
    about = [message for message in messages if re.search(r"gpu|cuda|cuinit|cudnn|dlopen|nvidia", message, re.I)]
    reason = about[-1].strip() if about else "TensorFlow does not say why"
    if not tf.test.is_built_with_cuda():
        reason = "this TensorFlow was built without CUDA"
    elif importlib.util.find_spec("nvidia") is None:
        reason += "; its CUDA libraries are not installed: see `make GPU=1`"
    return f"this machine has a GPU, and TensorFlow cannot use it ({reason})"


def _load_cusolver() -> None:
    # TensorFlow 2.21 opens it from a library whose RUNPATH leaves its folder out, and without it ignores every GPU.
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations if spec else ():
        for library in Path(place).glob("cusolver/lib/libcusolver.so.*"):
            ctypes.CDLL(str(library))
