"""`genmnist export`: a run as a SavedModel that needs neither this package nor TFP nor Keras."""

import json
import os
import shutil
from pathlib import Path

import tensorflow as tf

from keras_genmnist import data, files, runs
from keras_genmnist.errors import UsageError
from keras_genmnist.runs import Run


def export(run: Run, out: Path) -> Path:
    """Writes the run's scored weights and signatures to out/NAME/VERSION/, the next free version number.

    A plain tf.Module of variables and functions: a Keras model that holds TFP layers cannot be saved as SavedModel.

    Args:
      run: a trained run.
      out: the folder of all exports.
    Returns:
      The version directory.
    Raises:
      UsageError: if it cannot be written.
      Fault: if the run's weights are damaged, or no epoch is finished.
    """
    model = runs.load_model(run)
    signatures = model.signatures()
    module = tf.Module()
    module.weights = model.weights
    for name, function in signatures.items():
        setattr(module, name, function)
    folder = out / run.name
    # A server polls the folder for numbers: the directory gets one only when it is whole.
    beside = folder / f".writing-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tf.saved_model.save(module, str(beside), {"serving_default": signatures["sample_rows"], **signatures})
        record = {
            "model": run.name,
            "dataset": run.config.dataset,
            "binarization": data.binarization_label(run.config.dataset, run.config.binarization),
            "config": run.config.to_dict(),
            "commit": run.commit,
        }
        (beside / "assets.extra").mkdir()
        (beside / "assets.extra" / "genmnist.json").write_text(json.dumps(record, indent=2))
        version = 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdigit()), default=0)
        target = folder / str(version)
        beside.rename(target)
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {files.reason(folder, error)}; give an --out you may write to"
        ) from error
    except tf.errors.OpError as error:
        raise UsageError(f"cannot write {folder}: {error.message}; give an --out you may write to") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target
