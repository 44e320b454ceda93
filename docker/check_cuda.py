"""Ask TensorFlow's own loader for every CUDA library it opens by name, as it does on a machine with a GPU.

On a machine without one TensorFlow stops at the missing driver (libcuda.so.1, which comes from the host) before it
looks for the others, so a library that is absent from an image would only be noticed by its users.
"""

import ctypes
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # keeps its warning that a library could not be opened, and why

import tensorflow as tf

LIBRARIES = ["CudaRuntime", "Cublas", "CublasLt", "Cudnn", "Cufft", "Cupti", "Cusolver", "Cusparse", "Nccl"]


class StatusOrHandle(ctypes.Structure):
    """absl::StatusOr<void*>, which C++ returns through a pointer handed over as the first argument."""

    _fields_ = [("status", ctypes.c_uint64), ("handle", ctypes.c_void_p)]

    def ok(self) -> bool:
        return self.status == 1  # absl::Status keeps OK as this word, anything else as a pointer


framework = ctypes.CDLL(os.path.join(tf.sysconfig.get_lib(), "libtensorflow_framework.so.2"))
missing = []
for name in LIBRARIES:
    symbol = f"Get{name}DsoHandle"
    result = StatusOrHandle()
    framework[f"_ZN3tsl8internal9DsoLoader{len(symbol)}{symbol}Ev"](ctypes.byref(result))
    print(f"{name:12} {'loads' if result.ok() else 'MISSING'}")
    if not result.ok():
        missing.append(name)
sys.exit(f"missing: {', '.join(missing)}" if missing else 0)
