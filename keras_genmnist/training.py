"""`genmnist train`: trains a run, or resumes it bit-identically.

Exact because the order, the bits and every draw are pure functions of (seed, step), because a checkpoint holds all
other state, and because of device.py.
"""

import contextlib
import json
import math
import operator
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

import numpy as np
import tensorflow as tf
import tf_keras
from ml_collections import ConfigDict

from keras_genmnist import (
    cluster,
    datasets,
    device,
    files,
    images,
    memory,
    models,
    optimization,
    precision,
    progress,
    runs,
)
from keras_genmnist.config import LARGEST, require, require_choice, require_finite, require_positive
from keras_genmnist.datasets import arrays, binarization, eval_batches
from keras_genmnist.errors import Diverged, Fault, UsageError
from keras_genmnist.mirrored import FAILED, GO_ON, STOPPED, Mirrored
from keras_genmnist.runs import Run

EVAL_BATCH = 500
SECONDS_PER_CALL = 0.5  # a signal waits for the compiled loop to return
# Logits, log densities and the gradients of both; measured, of 250 images and 200 draws: 5.3, by XLA 6.4.
ACTIVATIONS = 4
STRIP = 10  # digits of each epoch that are kept, of the same seeds
IMAGES_PER_CHUNK = 5_000  # what the compiled loop is given at a time; 16 MB


class Progress(tf.Module):
    """What a checkpoint holds beside the model: the step, the best epoch so far, the seconds of the present one."""

    def __init__(self):
        super().__init__()
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best = tf.Variable(-math.inf, dtype=tf.float32)
        self.best_epoch = tf.Variable(0, dtype=tf.int64)
        self.epoch_seconds = tf.Variable(0.0, dtype=tf.float64)


class WeightAverage(tf.Module):
    """Exponential moving average of the weights, batch norm's statistics included.

    average <- average + (1 - d) (weight - average),  d = min(decay, (1 + step) / (10 + step)), so that the first steps
    do not weigh down the average, as in tf.train.ExponentialMovingAverage.
    """

    def __init__(self, weights: list[tf.Variable], decay: float):
        super().__init__()
        self.decay, self.weights = decay, weights
        self.averages = [tf.Variable(weight, trainable=False) for weight in weights] if decay else []

    def update(self, step: tf.Tensor, weights: list[tf.Variable] | None = None) -> None:
        """Takes in the weights, or those of a replica of the model."""
        step = tf.cast(step, tf.float32)
        rate = 1 - tf.minimum(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.averages, weights or self.weights, strict=False):
            average.assign_add(rate * (weight - average))

    @property
    def scored(self) -> list[tf.Variable]:
        """The weights that are scored: the averages where there are any."""
        return self.averages or self.weights

    def swap(self) -> None:
        """Exchanges weights and averages."""
        for average, weight in zip(self.averages, self.weights, strict=False):
            kept = tf.identity(weight)
            weight.assign(average)
            average.assign(kept)


def check_config(config: ConfigDict) -> None:
    """Checks the fields that training reads.

    Raises:
      UsageError: naming the field, the value given and the values accepted.
    """
    known = isinstance(config.dataset, str)  # a file edited by hand may say anything
    if not known:
        raise UsageError(f"config.dataset={config.dataset!r} is not known: give the name or the path of a data set")
    require_choice(config, binarization=binarization.BINARIZATIONS, decay=["constant", "cosine"])
    if "optimizer" in config:
        require_choice(config, optimizer=list(optimization.OPTIMIZERS))
        require_finite(config, "weight_decay")
    require_choice(config, precision=precision.PRECISIONS)
    fits = config.image_size == 0 or arrays.SMALLEST <= config.image_size <= arrays.LARGEST
    require(config, "image_size", fits, f"0 (as they are), or {arrays.SMALLEST} to {arrays.LARGEST}")
    datasets.require_as_it_is(config.dataset, config.image_size, config.invert)
    require_positive(config, "batch_size", "epochs")
    # Each is written so that nan is refused too.
    for field in config:
        if field.endswith("learning_rate"):
            require(config, field, 0 < config[field] <= LARGEST, "a value above 0, finite")
        if field.endswith("beta_1"):
            require(config, field, 0 <= config[field] < 1, "0 or more, below 1")
    require(config, "ema_decay", 0 <= config.ema_decay < 1, "0 (none) or a value below 1")
    require_finite(config, "clip_norm")
    if "warmup_epochs" in config:
        require(config, "warmup_epochs", config.warmup_epochs >= 0, "0 (none) or more")
    require(config, "patience", config.patience >= 0, "0 (none) or more")
    require(config, "seed", 0 <= config.seed < 2**31, "0 to 2147483647")


def learning_rate(config: ConfigDict, steps: int, name: str = "optimizer"):
    """A number, or a schedule over `steps`: what the config wants for an optimizer; see `optimizer`."""
    rate = config[f"{name.removesuffix('optimizer')}learning_rate"]
    return tf_keras.optimizers.schedules.CosineDecay(rate, steps) if config.decay == "cosine" else rate


def require_memory(model: models.GenerativeModel, config: ConfigDict) -> None:
    """Checks that training can fit in memory, beside the model: by what it takes at least.

    The gradient and the two moments of Adam are as large as what is trained, the averages as large as all weights.  Of
    the activations, that of the pixels of every draw, or of the widest layer, is held ACTIVATIONS times.

    Raises:
      UsageError: naming what it takes and what there is.
    """
    trained, weights = (sum(4 * int(tf.size(w)) for w in ws) for ws in (model.trainable_weights, model.weights))
    draws, widest = config.get("train_draws", 1), max(max([1, *w.shape]) for w in model.trainable_weights)
    activation = 4 * config.batch_size * max(draws * math.prod(model.image_shape), widest)
    memory.require(
        3 * trained + (weights if config.ema_decay else 0) + ACTIVATIONS * activation,
        f"training with config.batch_size={config.batch_size}"
        + (f" and config.train_draws={draws}" if draws > 1 else ""),
        "give smaller ones, or a smaller model",
    )


def optimizer(config: ConfigDict, steps: int, name: str = "optimizer") -> tf_keras.optimizers.Optimizer:
    """The optimizer that the config wants.

    Args:
      config: has learning_rate and, if not 0.9, beta_1; for the optimizer `generator_optimizer` and the like,
        generator_learning_rate and generator_beta_1; and `optimizer`, if not "adam",
        and `weight_decay`, if not 0.
      steps: that this optimizer takes in the whole training.
      name: of the optimizer.
    """
    rate, prefix = learning_rate(config, steps, name), name.removesuffix("optimizer")
    make = optimization.OPTIMIZERS[config.get("optimizer", "adam")]
    # The optimizer clips: it sees the gradient of the whole batch also when several replicas share it.
    own = make(
        rate,
        config.get(f"{prefix}beta_1", 0.9),
        weight_decay=config.get("weight_decay") or None,
        global_clipnorm=config.clip_norm or None,
    )
    return precision.optimizer(own, config.precision)


class Training:
    """A run in training: its model, its data, and the state that a checkpoint holds."""

    def __init__(self, run: Run, strategy: tf.distribute.Strategy | None = None):
        """
        Args:
          run: the run; `self.run` says of what data it is too.
          strategy: of several replicas.
        Raises:
          UsageError: if a config value is out of range.
          Fault: if the data or every checkpoint is damaged.
        """
        self.run, self.strategy, config = run, strategy, run.config
        self.origin = runs.origin()  # now: the checkout may change while this process goes on
        with runs.building(run):
            check_config(config)
            # Images of the user's own are at hand, and say what they are; others may have to be downloaded, so last.
            own = None if datasets.spec(config.dataset) else runs.load_data(run)
            spec = own.spec if own else run.spec
            self.model = runs.build_model(run, spec)
            require_memory(self.model, config)
        self.dataset = own or runs.load_data(run)
        self.run = run = replace(run, data=run.data or runs.describe(self.dataset))
        num_images = len(self.dataset.train.images)
        accepted = f"1 to {num_images}, the number of training images"
        require(config, "batch_size", config.batch_size <= num_images, accepted)
        if self.model.takes_labels and self.dataset.train.labels is None:
            raise UsageError(f"{run.name} learns from labels, {run.spec.name} has none: give another config.dataset")
        split = self.dataset.validation
        images, labels = split.scored(config.binarization), split.labels if self.model.takes_labels else None
        self.validation = eval_batches(images, EVAL_BATCH, labels)
        self.steps_per_epoch = len(self.dataset.train.images) // config.batch_size
        self.last_step = config.epochs * self.steps_per_epoch

        with runs.building(run):
            self.model.judge = run.spec.judge  # which only the data, once they are loaded, tell
            made = self._compiled(self.model)
        self.average = WeightAverage(self.model.weights, config.ema_decay)
        self.progress = Progress()

        self.state = tf.train.Checkpoint(model=self.model, average=self.average, progress=self.progress)
        self.last_saved = runs.restore_latest(self.state, run.checkpoints) if cluster.is_chief(strategy) else None
        self.scored = runs.scored(self.average.scored, self.model.weights)

        self.first_step = self.step
        self.steps_per_chunk = -(-IMAGES_PER_CHUNK // config.batch_size)
        self.saving_seconds = 0.0  # spent on saving and logging the epoch before
        self.seconds_per_step = SECONDS_PER_CALL  # so that the first call, which compiles, takes one step

        if strategy is None:
            self.mirrored = None
            steps = tf.function(self._train_steps, autograph=self.model.autograph, jit_compile=config.jit_compile)
        else:

            def another():
                model = runs.build_model(run, spec)
                return model, self._compiled(model)

            with runs.building(run):
                self.mirrored = Mirrored(strategy, self.model, made, another)
            steps = tf.function(self._steps_of_replicas, autograph=self.model.autograph)
        self._train_steps = steps
        self._sample = tf.function(self.model.sample, autograph=self.model.autograph)

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """Tells the other workers, if there are any, how the training ends, so that they end with it.

        Raises:
          cluster.Lost: if one of them ended before.
        """
        order = FAILED
        try:
            yield
            order = STOPPED
        except SystemExit:
            order = STOPPED
            raise
        except cluster.Lost as lost:
            order = None
            raise cluster.Lost(
                f"{lost}; resume with {runs.resume(self.run.workdir)}, by as many workers or others"
            ) from lost
        finally:
            if self.mirrored and order is not None:
                self.mirrored.tell(order)

    def share(self) -> None:
        """Gives this worker's state to all replicas, those of other workers too, which `follow`."""
        if self.mirrored:
            self.mirrored.tell(GO_ON, self.step)
            self.mirrored.begin()

    def follow(self, stopped: Callable[[], bool]) -> bool:
        """Takes the steps that the first worker tells, from its state on, to its end; returns whether that is well."""
        order, step, _ = self.mirrored.tell(GO_ON)
        if order == GO_ON:
            self.mirrored.begin()
            self.progress.step.assign(step)
            self.first_step, chunks = step, self.chunks()
        while order == GO_ON:
            order, num_steps, _ = self.mirrored.tell(GO_ON, stop=stopped())
            if order == GO_ON:
                self.take(chunks, num_steps)
        return order == STOPPED

    def _compiled(self, model: models.GenerativeModel) -> dict[str, tf_keras.optimizers.Optimizer]:
        """Readies the model for training, and returns its optimizers."""
        config = self.run.config
        made = {name: optimizer(config, model.optimizer_steps(name, self.last_step), name) for name in model.optimized}
        warmup = {"warmup_steps": config.warmup_epochs * self.steps_per_epoch} if "warmup_epochs" in config else {}
        model.compile(**made, seed=config.seed, jit_compile=config.jit_compile, **warmup)
        for name, variables in model.optimized.items():
            made[name].build(variables)
        return made

    def start_from(self, other: Run) -> None:
        """Takes over the weights that another run is scored with, where they fit, and says which do not.

        Raises:
          UsageError: if its model is of another structure.
        """
        weights = runs.load_model(other).weights
        if len(weights) != len(self.model.weights):
            raise UsageError(
                f"{other.workdir} has {len(weights)} weights, and {self.run.name} here has {len(self.model.weights)}: "
                "start from a run of the same config, which may differ in sizes alone"
            )
        misfits = []
        for weight, value in zip(self.model.weights, weights, strict=True):
            if weight.shape == value.shape:
                weight.assign(value)
            else:
                misfits.append(f"{weight.name.removesuffix(':0')} ({value.shape} there, {weight.shape} here)")
        for average, weight in zip(self.average.averages, self.model.weights, strict=False):
            average.assign(weight)
        print(f"starting from {len(weights) - len(misfits)} of the {len(weights)} weights of {other.workdir}")
        if misfits:
            runs.warn(f"begun anew, for they do not fit: {', '.join(misfits)}")

    @property
    def step(self) -> int:
        return int(self.progress.step)

    @property
    def epoch(self) -> int:
        """The number of whole epochs done."""
        return self.step // self.steps_per_epoch

    @property
    def waited(self) -> int:
        """The number of epochs since the best one."""
        return self.epoch - int(self.progress.best_epoch)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` of them went by without a better one."""
        return self.step >= self.last_step or self.impatient

    @property
    def impatient(self) -> bool:
        """Whether `patience` epochs went by without a better one."""
        return 0 < self.run.config.patience <= self.waited

    @property
    def outcome(self) -> str:
        """How many epochs were trained and which is the best, in words."""
        return f"{self.epoch} epoch{'s' * (self.epoch != 1)}, the best is {int(self.progress.best_epoch)}"

    def chunks(self) -> Iterator[tf.Tensor]:
        """The batches from the present step to the last, [steps_per_chunk, B, ...]; the last chunk has more."""
        return self.mirrored.parts(self._chunks) if self.mirrored else self._chunks((0, 1))

    def _chunks(self, share: tuple[int, int]) -> Iterator[tf.Tensor]:
        """Of each batch, the rows of a share; see `Split.train_batches`."""
        config = self.run.config
        num_chunks = -(-(self.last_step - self.step) // self.steps_per_chunk)
        batches = self.dataset.train.train_batches(
            binarization=config.binarization,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=self.step,
            last_step=self.step + num_chunks * self.steps_per_chunk,
            labelled=self.model.takes_labels,
            levelled=self.model.takes_levels,
            share=share,
        )
        return iter(batches.batch(self.steps_per_chunk, drop_remainder=True).prefetch(1))

    def _train_steps(self, batches: tf.Tensor, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """A step on each of batches[first:end], fewer if a quantity stops being finite; returns whether all are finite.

        The loop is compiled with the steps: called one at a time, those of a small MLP take 1.3 times as long.
        """

        def step(finite, position):
            logs = self.model.train_step(tf.nest.map_structure(operator.itemgetter(position), batches))
            self.progress.step.assign_add(1)
            self.average.update(self.progress.step)
            return tf.reduce_all(tf.math.is_finite(list(logs.values()))), position + 1

        return tf.while_loop(lambda finite, position: finite & (position < end), step, [tf.constant(True), first])[0]

    def _steps_of_replicas(self, batches, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        """As `_train_steps`, but all of batches[first:end]: the replicas would have to ask one another after each."""

        def after():
            self.progress.step.assign_add(1)
            self.average.update(self.progress.step, self.mirrored.weights)

        return self.mirrored.steps(batches, first, end, after)

    def take(self, chunks: Iterator[tf.Tensor], num_steps: int) -> tf.Tensor:
        """Takes steps of one chunk; returns whether all quantities are finite."""
        position = (self.step - self.first_step) % self.steps_per_chunk
        if position == 0:
            self.chunk = next(chunks)
        with self.mirrored.together() if self.mirrored else contextlib.nullcontext():
            return self._train_steps(self.chunk, tf.constant(position), tf.constant(position + num_steps))

    def train_epoch(self, chunks: Iterator[tf.Tensor], on_steps: Callable[[int], None], stopped: Callable[[], bool]):
        """Trains to the end of the present epoch, or until `stopped()`; tells `on_steps` how many steps were taken."""
        while True:
            left = self.steps_per_epoch - self.step % self.steps_per_epoch
            position = (self.step - self.first_step) % self.steps_per_chunk
            affordable = max(1, int(SECONDS_PER_CALL / self.seconds_per_step))
            num_steps = min(left, self.steps_per_chunk - position, affordable)
            if self.mirrored:
                _, _, stop = self.mirrored.tell(GO_ON, num_steps)
                if stop and not stopped():
                    signal.raise_signal(signal.SIGTERM)  # as if this worker had been asked to
            start = time.time()
            if not self.take(chunks, num_steps):
                self.diverged(next(m.name for m in self.model.metrics if not math.isfinite(m.result())))
            seconds = time.time() - start
            self.seconds_per_step = seconds / num_steps
            self.progress.epoch_seconds.assign_add(seconds)
            on_steps(num_steps)
            if left == num_steps or stopped():
                if self.mirrored:
                    self.mirrored.end()
                return

    def end_epoch(self) -> dict:
        """Validates, keeps the weights if they are the best so far, and returns the epoch's row of metrics.jsonl."""
        config, progress = self.run.config, self.progress
        trained = {m.name: float(m.result()) for m in self.model.metrics}
        train_seconds = float(progress.epoch_seconds)
        start = time.time()
        validation = self.validate()
        self.model.reset_metrics()  # the next epoch's averages begin here
        if not all(map(math.isfinite, validation.values())):
            self.diverged("val_" + next(name for name, value in validation.items() if not math.isfinite(value)))
        seconds = self.saving_seconds + train_seconds + time.time() - start
        progress.epoch_seconds.assign(0.0)
        row = {
            "epoch": self.epoch,
            "step": self.step,
            **trained,
            **{f"val_{name}": value for name, value in validation.items()},
            "seconds": round(seconds, 3),
            "images_per_second": round(self.steps_per_epoch * config.batch_size / train_seconds, 1),
            "peak_memory_bytes": memory.peak(),
            "dataset": self.run.spec.name,
            "binarization": self.run.binarization,
            **self.origin,
        }
        if self.model.score(row) > float(progress.best):
            progress.best.assign(self.model.score(row))
            progress.best_epoch.assign(self.epoch)
            # Numbered by epoch: it does not hold the number of its saves, which would begin from 1 after a resume.
            runs.save(self.scored, self.run.best, max_to_keep=2, number=self.epoch)
        return row

    def validate(self) -> dict[str, float]:
        """The model's test metrics on the validation split, with the weights that are scored."""
        self.average.swap()
        metrics = self.model.validate(self.validation)
        self.average.swap()
        return metrics

    def sample(self) -> np.ndarray:
        """64 images, [64, H, W, C], always of the same seeds, drawn with the weights that are scored."""
        self.average.swap()
        samples = self._sample(64, self.run.config.seed)["probabilities"].numpy()
        self.average.swap()
        return samples

    def save(self) -> None:
        """Saves the training state.

        Raises:
          Fault: if a weight is not finite: the checkpoint before stays the last.
        """
        for weight in self.model.weights:
            if not np.isfinite(weight.numpy()).all():
                self.diverged(weight.name)
        self.last_saved = runs.save(self.state, self.run.checkpoints, max_to_keep=3)

    def diverged(self, quantity: str) -> NoReturn:
        """Stops: `quantity` is not finite."""
        kept = f"the last good checkpoint is {self.last_saved}" if self.last_saved else "no epoch was finished"
        epoch = -(-self.step // self.steps_per_epoch)  # rounded up: its last step belongs to it
        raise Diverged(
            f"{quantity} is not finite at step {self.step} (epoch {epoch}): training stopped, {kept}; "
            f"try {self.model.remedy} in another workdir"
        )


def train(
    run: Run,
    started: float,
    enough: Callable[[list[dict]], bool] = lambda rows: False,
    change: dict | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> None:
    """Trains `run` from where it stands to its end.

    Args:
      run: the run, locked by the caller.
      started: time.time() at the start of the process.
      enough: of the rows of metrics.jsonl so far, whether to end before the last epoch.
      change: where the run goes on with another config than so far, {"old": {field: value}, "new": {field: value},
        "command"}.
      strategy: of several replicas; of several workers this is the first, and the others `follow`.
    Raises:
      UsageError: if a config value is out of range, or more epochs are done than are wanted.
      Fault: if the data, every checkpoint or the best weights are damaged, or a quantity stops being finite.
      SystemExit: 130 or 143 after SIGINT or SIGTERM, with everything saved.
    """
    runs.check_kinds(run.workdir)
    training = Training(run, strategy)
    with training.leading():
        _train(training, started, enough, change)


def follow(run: Run, strategy: tf.distribute.Strategy) -> None:
    """Trains `run` as one of several workers that is not the first: it writes nothing, and ends with that.

    Raises:
      UsageError, Fault, SystemExit: as `train`.
    """
    number = cluster.number_of(strategy)
    training = Training(run, strategy)
    print(
        f"worker {number} follows worker 0: {cluster.description(strategy)}{device.description(run.config.precision)}",
        flush=True,
    )
    with _stop_signal() as received:
        well = training.follow(stopped=lambda: bool(received))
    if not well:
        raise Fault("worker 0 has ended by a fault, which it tells of itself: training stopped")
    print(f"worker {number} has ended with worker 0 at step {training.step}")


def _train(
    training: Training,
    started: float,
    enough: Callable[[list[dict]], bool],
    change: dict | None,
) -> None:
    """See `train`."""
    run = training.run
    if training.step > training.last_step:
        fewer = runs.anew(run.workdir, f"--config.epochs={run.config.epochs}")
        done = f"{training.step / training.steps_per_epoch:g}"
        raise UsageError(
            f"config.epochs={run.config.epochs} is fewer than the {done} done in {run.workdir}: give at least as many, "
            f"or train anew by {fewer}"
        )
    rows = runs.read_metrics(run)
    # One epoch may have been told of without a checkpoint, where the process was killed between the two.
    if not training.step and any(row["epoch"] > 1 for row in rows):
        raise runs.lost(run.checkpoints)
    if int(training.progress.best_epoch) and not any(run.best.glob("ckpt-*.index")):
        raise runs.lost(run.best)
    if change:
        run = replace(run, changes=[*run.changes, {"epoch": training.epoch, "step": training.step, **change}])
    if run.init_from and not training.step:  # or again, where all ended before the first checkpoint
        training.start_from(runs.load(run.init_from))
    runs.record(run)  # only now: a config that cannot be built leaves no run behind
    # Epochs after the checkpoint will be trained, and their rows written, again.
    rows = [row for row in rows if row["step"] <= training.step]
    if missing := sorted({*range(1, training.epoch + 1)} - {row["epoch"] for row in rows}):
        runs.warn(
            f"{run.metrics_jsonl} has lost {_epochs(missing)}: training goes on, and what the file tells of, as curves "
            "and seconds, lacks them"
        )
    files.write(run.metrics_jsonl, "".join(json.dumps(row) + "\n" for row in rows).encode())
    if change:
        print(
            f"{run.workdir} goes on from step {training.step}: {_change(training, change['old'], change['new'])}",
            flush=True,
        )
    if training.finished:
        print(f"{run.workdir} is finished: {training.outcome}; {_more(training)}")
        return
    print(
        f"{'resuming' if training.step else 'training'} {run.name} on {run.spec.name} in {run.workdir}: "
        f"{len(training.dataset.train.images):,} images of {datasets.arrays.size(run.spec.image_shape)}, "
        f"{training.model.num_parameters:,} parameters, step {training.step} of {training.last_step}, "
        f"on {cluster.description(training.strategy)}{device.description(run.config.precision)}",
        flush=True,
    )
    if not training.step and training.steps_per_epoch < 4:
        runs.warn(
            f"steps in an epoch: {training.steps_per_epoch}, as config.batch_size={run.config.batch_size}: a smaller "
            "one, or more epochs, lets the model learn more"
        )
    if training.mirrored and run.config.jit_compile:
        runs.warn("replicas train without XLA: they draw other numbers than one device by config.jit_compile=True")
    training.share()
    chunks = training.chunks()
    with files.writing(run.tensorboard, runs.ADVICE):
        writer = tf.summary.create_file_writer(str(run.tensorboard))
    bar = progress.bar(total=training.last_step, initial=training.step, unit="step")
    with _stop_signal() as received, bar, writer.as_default():
        startup, ticker = {}, progress.Ticker()

        def on_steps(num_steps):
            if not startup:
                startup["startup_seconds"] = round(time.time() - started, 2)
                bar.write(f"first step after {startup['startup_seconds']:.1f} s")
            bar.update(num_steps)
            ticker.tell(f"step {training.step} of {training.last_step}")

        first_epoch = training.epoch
        while not training.finished and not enough(rows):
            training.train_epoch(chunks, on_steps, stopped=lambda: bool(received))
            if training.step % training.steps_per_epoch == 0:
                row = training.end_epoch() | (startup if training.epoch == first_epoch + 1 else {})
                start = time.time()
                with files.writing(run.metrics_jsonl, runs.ADVICE), open(run.metrics_jsonl, "a") as file:
                    file.write(json.dumps(row) + "\n")
                training.save()
                _log_samples(training, row)
                training.saving_seconds = time.time() - start
                rows.append(row)
                bar.write(_line(training.model, row, run.config.epochs))
                ticker.restart()
                for warning in training.model.warnings(rows):
                    runs.warn(f"epoch {training.epoch}: {warning}")
            elif received:
                training.save()
            if received:
                bar.close()
                print(f"stopped at step {training.step}, all saved; resume with {runs.resume(run.workdir)}")
                raise SystemExit(128 + received[0])
    reason = "" if training.step == training.last_step else f", no better one in {run.config.patience} epochs"
    print(f"finished {run.workdir}: {training.outcome}{reason}")


def _epochs(numbers: list[int]) -> str:
    """Some of the epochs, in words."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f"epoch {first}"
    return f"epochs {first} to {last}" if len(numbers) == last - first + 1 else f"{len(numbers)} epochs"


def _change(training: Training, old: dict, new: dict) -> str:
    """What is changed where a run goes on, and what that does to the learning rate, in words."""
    config, model = training.run.config, training.model
    said = [f"{field} is {new[field]} now, not {old[field]}" for field in new]
    if "epochs" in new and config.decay == "cosine":
        planned = []
        for name in model.optimized:
            step = model.optimizer_steps(name, training.step)
            totals = (epochs * training.steps_per_epoch for epochs in (old["epochs"], new["epochs"]))
            plans = (learning_rate(config, model.optimizer_steps(name, total), name) for total in totals)
            before, now = (float(plan(step)) for plan in plans)
            label = f"{name.removesuffix('optimizer')}learning_rate"
            planned.append(f"{label} goes on at {now:.3g}, by the old plan at {before:.3g}")
        said.append(f"the cosine decay is planned over {new['epochs']} epochs now: {', '.join(planned)}")
    elif "epochs" in new:
        said.append("the learning rate stays as it is")
    return "; ".join(said)


def _more(training: Training) -> str:
    """What ended the training, if it was not its last epoch, and how to go on, in words."""
    config, more, reason = training.run.config, [], ""
    if training.step >= training.last_step:
        more.append(f"--config.epochs={2 * config.epochs}")
    if training.impatient:
        reason = f"there was no better one in {config.patience} epochs; "
        more.append(f"--config.patience={2 * training.waited}")
    return f"{reason}for more epochs, {runs.resume(training.run.workdir, *more)}"


def _line(model: models.GenerativeModel, row: dict, epochs: int) -> str:
    # What there is of each of several layers, its number at the end, would not fit.
    columns = [name for names in model.curves.values() for name in names if not name[-1].isdigit()]
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  "
        + "".join(f"{name} {row[name]:.2f}  " for name in columns)
        + f"{row['images_per_second']:,.0f} images/s  {row['seconds']:.1f} s"
    )


def _log_samples(training: Training, row: dict) -> None:
    """TensorBoard's scalars and samples, and the first samples as a strip of their own."""
    samples = training.sample()
    with files.writing(training.run.tensorboard, runs.ADVICE):
        for name, value in row.items():
            if isinstance(value, float):
                tf.summary.scalar(name, value, step=row["epoch"])
        tf.summary.image("samples", images.tile(samples, columns=8)[None], step=row["epoch"])
        tf.summary.flush()
    strip = images.tile(samples[:STRIP], columns=STRIP)
    files.write(training.run.progress / f"{row['epoch']}.png", images.png(strip).numpy())


@contextlib.contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list; the second one ends the process at once.

    One that comes after the list was last looked at is raised again at the end.
    """
    received: list[int] = []

    def handler(signum, frame):
        if received:
            os._exit(128 + signum)
        received.append(signum)

    # Only the main thread may: in another, as of a notebook's server, a signal is not waited for.
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield received
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
    if received:
        signal.raise_signal(received[0])
