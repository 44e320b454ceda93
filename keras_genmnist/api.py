"""What a notebook works with: `train` and `open` give a `Trained`, with all that the command line can do to a run.

What is done to a trained run is imported only when it is called: `train` needs neither matplotlib nor SciPy.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from keras_genmnist import cluster, datasets, files, models, runs, training
from keras_genmnist import config as configs
from keras_genmnist.datasets import Dataset, arrays
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.leftovers import released
from keras_genmnist.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Trained:
    """A trained run, as `train` and `open` return it.

    workdir: its directory.
    config: its config, a ConfigDict.
    """

    def __init__(self, run: Run):
        """
        Args:
          run: the run.
        """
        self._run = run

    def __repr__(self) -> str:
        return f"<run of {self._run.name} on {self._run.spec.name} in {self.workdir}>"

    @property
    def workdir(self) -> Path:
        return self._run.workdir

    @property
    def config(self) -> ConfigDict:
        return self._run.config

    @property
    def history(self) -> dict[str, list]:
        """What metrics.jsonl says, column by column as a History of Keras: {"elbo": [...], "val_elbo": [...], ...}."""
        rows = runs.history(self._run)
        return {column: [row.get(column) for row in rows] for column in rows[-1]}

    @cached_property
    def model(self) -> models.GenerativeModel:
        """The model with the weights that are scored: those of the best epoch."""
        return runs.load_model(self._run)

    @cached_property
    def data(self) -> Dataset:
        """The images that the run learned from."""
        return runs.load_data(self._run)

    def evaluate(
        self,
        num_draws: int | None = None,
        *,
        results: bool = False,
        proposal: str = "posterior",
        per_image: str | Path | None = None,
        devices: str | None = None,
    ) -> dict:
        """Scores the run, prints a table, writes metrics.json and returns what it holds, in nats.

        Args:
          num_draws: of the importance-weighted likelihood; 1000 by default, or quadrature for 1 or 2 latents.
          results, proposal, per_image: as of `keras_genmnist.evaluate.evaluate`.
          devices: as of `train`, which here share the images; all GPUs by default.
        Raises:
          UsageError, Fault: as `keras_genmnist.evaluate.evaluate`.
        """
        from keras_genmnist import evaluate

        return evaluate.evaluate(
            self._run,
            num_draws,
            results,
            proposal,
            None if per_image is None else Path(per_image),
            strategy=cluster.strategy(devices),
        )

    def figure(
        self, name: str, seed: int = 1, pairs: Sequence[tuple[int, int]] = (), label: str | None = None
    ) -> "Figure":
        """One of the run's figures: `samples`, `interpolation`, `reconstructions`, `latent_grid` and others.

        Args:
          name: of the figure; a wrong one is told with those that the model has.
          seed: of the samples and the interpolation.
          pairs: of test images, by their places in the split, that the interpolation is between.
          label: the class, by name or number, that a model which takes labels decodes latents in.
        Raises:
          UsageError: if there is no such figure of this model.
        """
        from keras_genmnist import figures

        ((_, figure),) = figures.draw(self._run, [name], seed, pairs, label)
        return figure

    def export(self, out: str | Path = "exports", format: str = "savedmodel") -> Path:
        """Writes a SavedModel to OUT/NAME/VERSION, with the name of the run's directory, and returns that path.

        Args:
          out: the folder of all exports.
          format: "savedmodel"; "tflite" or "onnx", to OUT/NAME_FORMAT/VERSION.
        Raises:
          UsageError: if the format is none, or cannot hold what the model computes.
        """
        from keras_genmnist import export

        return export.export(self._run, Path(out), format)


def train(
    model: str | ConfigDict | Callable | None = None,
    *,
    dataset: str | Dataset | None = None,
    workdir: str | Path | None = None,
    init_from: str | Path | None = None,
    devices: str | None = None,
    **fields: bool | int | float | str,
) -> Trained:
    """Trains a model, or goes on with its run where it stopped; what `genmnist train` does.

    >>> import keras_genmnist as gm
    >>> sizes = {"epochs": 1, "hidden_size": 8, "latent_size": 2}
    >>> run = gm.train("vae", dataset="mnist_5k", workdir="runs/mine", **sizes)  # doctest: +ELLIPSIS
    training vae on mnist_5k in runs/mine: ...
    >>> run.history["epoch"], run
    ([1], <run of vae on mnist_5k in runs/mine>)

    Args:
      model: the name of a config, see `genmnist list`; the path of a file with `get_config()` and perhaps
        `build(config, spec)`; a ConfigDict; or `build` itself, a function (config, spec) -> GenerativeModel, whose
        config is that of `keras_genmnist.config.training`.  None goes on with the run in `workdir`.
      dataset: a name or a path, see `datasets.load`; or a Dataset, a copy of which is kept beside the run.
      workdir: directory of the run; runs/NAME by default.
      init_from: the directory of a run of the same kind of model, whose weights training starts from.
      devices: what to train on: "all", the numbers of GPUs as "0,1", "cpu", or "cpu:4" for so many parts of the CPU;
        all GPUs by default, or as many as divide the batch.  See docs/scale.md, also for several machines.
      fields: values of the config's fields, as epochs=20.
    Raises:
      UsageError: if a value is not accepted, or the directory holds another run.
      Fault: if data or weights are damaged, or training diverges.
      KeyboardInterrupt: where it is interrupted, with everything saved.
    """
    started, builder, source = time.time(), None, None
    if model is None:
        if workdir is None:
            raise UsageError("give a model, or the workdir of a run to go on with")
        resumed = runs.load(Path(workdir))
        name, config, builder = resumed.name, resumed.config.copy_and_resolve_references(), resumed.builder
    elif isinstance(model, str):
        name, config = configs.title(model), configs.load(model)
        source = Path(model) if configs.is_path(model) and configs.builder(Path(model)) else None
    elif isinstance(model, ConfigDict):
        name, config = model.model, model.copy_and_resolve_references()
    else:
        name, builder = model.__name__, model
        config = configs.training(name, **fields)
    workdir = Path(workdir or Path("runs") / name)
    with _kept(dataset, workdir) if isinstance(dataset, Dataset) else contextlib.nullcontext(dataset) as dataset:
        given = fields | ({} if dataset is None else {"dataset": dataset})
        configs.change(config, **given)
        # A function has no name that another process could import it by: the record says what was asked for.
        asked = [repr(name), *(f"{field}={value!r}" for field, value in given.items())]
        asked += [f"init_from={str(init_from)!r}"] * bool(init_from)
        command = f"gm.train({', '.join(asked)})"
        try:
            begin(
                name,
                config,
                workdir,
                given,
                command,
                started,
                source=source,
                builder=builder,
                init_from=init_from,
                devices=devices,
            )
        except SystemExit as stopped:
            raise KeyboardInterrupt(f"stopped; go on with gm.train(workdir={str(workdir)!r})") from stopped
    return open(workdir, builder=builder)


def begin(
    name: str,
    config: ConfigDict,
    workdir: Path,
    given: Collection[str],
    command: str,
    started: float,
    *,
    source: Path | None = None,
    builder: Callable | None = None,
    init_from: str | Path | None = None,
    enough: Callable[[list[dict]], bool] = lambda rows: False,
    devices: str | None = None,
    workers: list[str] | None = None,
    index: int | None = None,
) -> None:
    """Trains what `config` says in `workdir`: begins a run, or goes on with the one that is there.

    Args:
      name: of the config.
      config: what is wanted.
      workdir: the run's directory.
      given: the fields that were asked for by name.
      command: what was typed, for the record.
      started: time.time() at the start of the process.
      source, builder: of a model of the user's own; see `runs.Run`.
      init_from: a run whose weights training starts from.
      enough: as of `training.train`.
      devices, workers, index: as of `cluster.strategy`.
    Raises:
      UsageError, Fault, SystemExit: as `training.train`.
    """
    strategy = cluster.strategy(devices, workers, index, config.batch_size)
    change: dict = {}
    if runs.exists(workdir):
        resumed = runs.load(workdir)
        if init_from and not (resumed.init_from and resumed.init_from.resolve() == Path(init_from).resolve()):
            raise UsageError(
                f"{workdir} was begun from {resumed.init_from or 'no other weights'}, not --init_from={init_from}: "
                f"give another --workdir, or go on as it is with {runs.resume(workdir)}"
            )
        if source and resumed.source and source.read_bytes() != resumed.source.read_bytes():
            raise UsageError(
                f"{source} is not what {workdir} was begun with, a copy of which is {resumed.source}: give another "
                f"--workdir, or go on as it is with {runs.resume(workdir)}"
            )
        change = runs.go_on(resumed, name, config, given)
        run = replace(resumed, config=config, builder=builder or resumed.builder)
    else:
        if cluster.is_chief(strategy):
            _require_room(workdir, config.dataset)
        other = runs.load(Path(init_from)).workdir if init_from else None
        run = Run(workdir, name, config, command, runs.commit(), source=source, init_from=other, builder=builder)
    if not cluster.is_chief(strategy):
        training.follow(run, strategy)
        return
    with runs.lock(workdir), released():
        change = change and {**change, "command": command}
        training.train(run, started, enough, change=change, strategy=strategy)


def _require_room(workdir: Path, dataset: str) -> None:
    """Raises UsageError if the directory holds more than a log and the data set's file, as a folder of images does."""
    found = sorted(workdir.iterdir()) if workdir.is_dir() else []
    others = [path.name for path in found if path != Path(dataset) and path.suffix not in (".log", ".txt")]
    if others := [name for name in others if not name.startswith(".")]:
        raise UsageError(
            f"{workdir} holds {others[0]}{' and other files' if others[1:] else ''} but no run: give a --workdir that "
            "is new or empty"
        )


def open(workdir: str | Path, *, builder: Callable | None = None) -> Trained:
    """The run in a directory.

    Args:
      workdir: of `train`, or of `genmnist train`.
      builder: of a model of the user's own that was given to `train` as a function: that function.
    Raises:
      UsageError: if there is no run.
      Fault: if its config is damaged.
    """
    return Trained(replace(runs.load(Path(workdir)), builder=builder))


def pretrained(name: str) -> Trained:
    """A model that comes with the package, trained on full MNIST, as `vae_2d`.

    >>> import keras_genmnist as gm
    >>> run = gm.pretrained("vae_2d")
    >>> run.model.sample(3, seed=1)["probabilities"].shape
    TensorShape([3, 28, 28, 1])

    Args:
      name: of the model; a wrong one is told with those that there are.
    Raises:
      UsageError: if there is none of that name.
      Fault: if its file is damaged, or there is no room to unpack it.
    """
    from keras_genmnist import zoo

    return Trained(zoo.run(name))


@contextlib.contextmanager
def _kept(dataset: Dataset, workdir: Path) -> Iterator[str]:
    """What to call a Dataset in a config: its name, or the path of the copy that is kept of it beside the run.

    Where no run has begun by the end, for what was asked was refused, no copy is left.
    """
    if _is_found_by_name(dataset):
        yield dataset.name
        return
    path = workdir / f"{dataset.name.replace('/', '_')}.npz"
    if path.exists():
        # What is read of a copy is numbered anew, so the data set is too.
        if datasets.digest(*datasets.load(str(path))[1:]) != arrays.check(*datasets.named(dataset)).sha256:
            raise UsageError(f"{path} holds other images than those of {dataset.name} given now: give another workdir")
        yield str(path)
        return
    with files.made(workdir):
        datasets.save(dataset, path)
        try:
            yield str(path)
        finally:
            if not runs.exists(workdir):
                path.unlink()


def _is_found_by_name(dataset: Dataset) -> bool:
    """Whether `datasets.load` gives the same images and labels for its name, not some of them or others."""
    if datasets.spec(dataset.name) != dataset.spec:
        return False
    try:
        known = datasets.load(dataset.name)
    except Fault:  # neither prepared nor downloadable
        return False
    return datasets.digest(*known[1:]) == datasets.digest(*dataset[1:])
