"""Deep generative models of MNIST in TensorFlow and TensorFlow Probability."""

import os

# Before TensorFlow is imported anywhere: its C++ log and oneDNN notices are noise beside a progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.1.0"
