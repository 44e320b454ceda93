"""What the studies beside it share: `genmnist` from Python."""

import subprocess
import sys


def genmnist(*arguments: str) -> None:
    """Runs `genmnist` with these arguments, or ends with its error."""
    subprocess.run([sys.executable, "-m", "keras_genmnist", *arguments], check=True)
