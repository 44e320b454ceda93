"""Training: exact resume, what each option does, what stops it."""

import dataclasses
import json
import math
import os
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import cli, datasets, images, models, runs, training
from keras_genmnist.errors import Fault, UsageError
from keras_genmnist.models import gan
from tests import tiny

EVERY_OPTION = {"clip_norm": 1.0, "ema_decay": 0.5}


eager = tiny.eager
ALL_SAMPLES = training.Training.sample  # `eager` draws fewer


@pytest.fixture
def one_step_a_call(monkeypatch):
    """Makes the training loop look for signals after each step."""
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 1e-9)


def signal_at(monkeypatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Sends this process a signal once a training has taken so many steps in all."""
    train_epoch, sent = training.Training.train_epoch, []

    def wrapped(self, chunks, on_steps, stopped):
        def on_steps_and_signal(num_steps):
            on_steps(num_steps)
            if self.step == step and not sent:
                sent.append(signum)
                os.kill(os.getpid(), signum)

        train_epoch(self, chunks, on_steps_and_signal, stopped)

    monkeypatch.setattr(training.Training, "train_epoch", wrapped)


def assert_same_training(run: runs.Run, other: runs.Run) -> None:
    assert tiny.rows(run) == tiny.rows(other)
    for kind in ("checkpoints", "best"):
        state, expected = tiny.variables(run.workdir / kind), tiny.variables(other.workdir / kind)
        assert state.keys() == expected.keys()
        assert [name for name in state if state[name] != expected[name]] == []


# Exact resume


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, options",
    [
        ("vae", {"norm": "batch", "warmup_epochs": 2}),
        (
            "gan",
            {
                "discriminator_norm": "spectral",
                "loss": "wasserstein_gp",
                "gradient_penalty": 10.0,
                "r1_penalty": 0.0,
                "critic_steps": 3,
            },
        ),
        ("dcgan", {}),  # convolutions
        ("vqvae", {}),  # a codebook that no gradient trains
        ("pixelcnn", {"features": 16, "optimizer": "muon"}),
    ],
)
def test_resume_after_a_signal_in_mid_epoch_is_bit_identical(
    name, options, tmp_path, monkeypatch, one_step_a_call, request
):
    if name == "vae":  # whose graph resumes in the next test
        request.getfixturevalue("eager")
    options = {"epochs": 3, **options, **EVERY_OPTION}
    whole = tiny.train(tiny.begin(tmp_path / "whole", name, **options))
    signal_at(monkeypatch, 2 * tiny.STEPS + 2)
    run = tiny.begin(tmp_path / "run", name, **options)
    with pytest.raises(SystemExit) as stopped:
        tiny.train(run)
    assert stopped.value.code == 143
    assert [row["epoch"] for row in tiny.rows(run)] == [1, 2]
    tiny.train(run)
    assert_same_training(run, whole)
    assert len(tiny.variables(run.checkpoints)) > 2 * len(models.build(run.config).weights)  # moments and averages too


@pytest.mark.slow
def test_resume_after_sigterm_and_kill_9_is_bit_identical(tmp_path, monkeypatch):
    options = {
        "batch_size": 100,
        "epochs": 10,
        "hidden_layers": 1,
        "norm": "batch",
        "jit_compile": True,
        "warmup_epochs": 2,
        **EVERY_OPTION,
    }
    command = ["train", "--workdir=run", *tiny.flags(**options)]
    one_step = "from keras_genmnist import training; training.SECONDS_PER_CALL = 1e-9"
    metrics = tmp_path / "run" / "metrics.jsonl"

    def epochs():
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    first = tiny.start(*command, cwd=tmp_path, before=one_step)
    tiny.wait_for(lambda: epochs() >= 2, first)
    first.terminate()
    assert "resume" in "".join(first.communicate())
    assert first.returncode == 143
    before = epochs()
    second = tiny.start("train", "--workdir=run", cwd=tmp_path, before=one_step)
    tiny.wait_for(lambda: epochs() >= before + 2, second)
    second.kill()
    second.communicate()
    assert second.returncode == -signal.SIGKILL
    run = runs.load(tmp_path / "run")
    assert before < epochs() < run.config.epochs
    # The whole run takes many steps a call, the others one: this does not matter either.
    assert_same_training(tiny.train(run), tiny.train(tiny.begin(tmp_path / "whole", **options)))


@pytest.mark.slow
def test_resume_after_the_best_epoch_scores_the_best_weights(tmp_path, monkeypatch, eager):
    script_validation(monkeypatch, [-9, -8, -7, -6])
    whole = tiny.train(tiny.begin(tmp_path / "whole", epochs=4))
    script_validation(monkeypatch, [-9, -8, -7, -6])
    run = tiny.begin(tmp_path / "run", epochs=4)
    signal_at(monkeypatch, 3 * tiny.STEPS)
    with pytest.raises(SystemExit):
        tiny.train(run)
    tiny.train(run)
    assert tiny.scored(run.workdir) == tiny.scored(whole.workdir)


@pytest.mark.slow
def test_memory_stays_as_it_is_while_a_training_goes_on(tmp_path):
    flags = tiny.flags(batch_size=100, epochs=60, hidden_layers=1)
    process = tiny.start("train", "--workdir=run", *flags, cwd=tmp_path)
    assert not process.wait()
    peaks = [row["peak_memory_bytes"] for row in runs.read_metrics(runs.load(tmp_path / "run"))]
    # The pools of the allocator grow by a few large steps, more of them in some runs: a leak comes with each epoch.
    growth = np.diff(peaks[len(peaks) // 2 :])
    assert np.median(growth) < 65536 and growth.sum() < 0.05 * peaks[-1]


def test_run_that_ended_before_its_first_checkpoint_still_starts_from_other_weights(run, tmp_path, capsys, eager):
    # As kill -9 leaves it: its record is there, and nothing else.
    begun = dataclasses.replace(tiny.begin(tmp_path / "run", epochs=1), init_from=run.workdir)
    runs.record(begun)
    tiny.train(runs.load(tmp_path / "run"))
    assert f"starting from {len(runs.load_model(run).weights)} of the" in (shown := capsys.readouterr().out)
    assert f"weights of {run.workdir}" in shown
    tiny.train(runs.load(tmp_path / "run"))
    assert "starting from" not in capsys.readouterr().out


def test_row_of_an_epoch_without_checkpoint_is_written_once(tmp_path, eager):
    # As kill -9 leaves it between the row and the checkpoint.
    run = tiny.begin(tmp_path / "run", epochs=1)
    run.metrics_jsonl.write_text(json.dumps({"epoch": 1, "step": tiny.STEPS, "elbo": -1.0}) + "\n")
    (row,) = tiny.rows(tiny.train(run))
    assert row["elbo"] < -100


def test_finished_run_says_so_and_trains_no_further(tmp_path, capsys, eager):
    run = tiny.train(tiny.begin(tmp_path / "run"))
    state = tiny.variables(run.checkpoints)
    capsys.readouterr()
    tiny.train(run)
    assert "is finished: 2 epochs" in capsys.readouterr().out
    assert tiny.variables(run.checkpoints) == state
    assert [row["epoch"] for row in tiny.rows(run)] == [1, 2]


# What is recorded


def test_metrics_jsonl_has_the_fields_of_every_epoch(tmp_path, eager):
    run = tiny.train(tiny.begin(tmp_path / "run", binarization="static"))
    first, second = runs.read_metrics(run)
    fields = ["epoch", "step", "elbo", "val_elbo", "kl", "seconds", "images_per_second", "peak_memory_bytes"]
    fields += ["dataset", "binarization"]
    assert set(fields) <= first.keys() & second.keys()
    assert [(row["epoch"], row["step"]) for row in (first, second)] == [(1, tiny.STEPS), (2, 2 * tiny.STEPS)]
    assert (first["dataset"], first["binarization"]) == ("mnist_5k", "static")
    assert (first["machine"], first["commit"]) == (runs.machine(), runs.commit())
    # The bound's two terms, averaged in float32 over up to 4,000 images of some 500 nats: 1e-3 is 2e-6 of it.
    assert first["elbo"] == pytest.approx(first["reconstruction"] - first["kl"], abs=1e-3)
    assert first["val_elbo"] == pytest.approx(first["val_reconstruction"] - first["val_kl"], abs=1e-3)
    # The images per second are of training alone, the seconds of all, rounded to 1 ms.
    assert 0 < tiny.STEPS * 1000 / first["images_per_second"] <= first["seconds"] + 1e-3


@pytest.mark.parametrize(
    ("name", "kind", "quantity"),
    [("vae", models.base.LatentVariableModel, "elbo"), ("gan", gan.GAN, "discriminator_loss")],
)
def test_metrics_of_an_epoch_are_the_averages_over_its_images(name, kind, quantity, tmp_path, eager, monkeypatch):
    run = tiny.begin(tmp_path / "run", name, epochs=2)
    values, train_step = [], kind.train_step

    def recorded(self, x):
        average = self.averages[quantity]
        total, count = float(average.total), float(average.count)
        logs = train_step(self, x)
        values.append((float(average.total) - total) / (float(average.count) - count))
        return logs

    monkeypatch.setattr(kind, "train_step", recorded)
    for epoch, row in enumerate(tiny.rows(tiny.train(run))):
        own = values[epoch * tiny.STEPS : (epoch + 1) * tiny.STEPS]
        # float32 totals of 2e6 nats are exact to 0.1, 1e-4 of a batch's mean.
        assert row[quantity] == pytest.approx(np.mean(own), abs=1e-3)
    assert len(values) == 2 * tiny.STEPS


def test_tensorboard_has_scalars_and_a_sample_sheet(tmp_path, eager):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = tiny.train(tiny.begin(tmp_path / "run"))
    (file,) = run.tensorboard.glob("events.out.tfevents.*")
    values = [(event.step, value) for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    elbos = {step: tf.make_ndarray(value.tensor).item() for step, value in values if value.tag == "val_elbo"}
    assert elbos == {row["epoch"]: np.float32(row["val_elbo"]) for row in tiny.rows(run)}
    width, height, sheet = next(value.tensor.string_val for _, value in values if value.tag == "samples")
    assert (width, height) == (b"231", b"231")  # 8 x 8 digits, and a line between them
    assert np.ptp(tf.io.decode_png(sheet)) > 0


# What each option does


def sgd_model(warmup_steps: int):
    """A model whose train step subtracts the gradient itself from the weights, and a batch for it."""
    model = models.build(tiny.config())
    model.compile(tf_keras.optimizers.SGD(1.0), seed=7, warmup_steps=warmup_steps)
    model.optimizer.build(model.trainable_variables)
    return model, tf.cast(np.random.default_rng(0).random((16, 28, 28, 1)) < 0.5, tf.float32)


@pytest.mark.parametrize(
    "step, warmup_steps, weight", [(0, 4, 0.0), (1, 4, 0.25), (4, 4, 1.0), (9, 4, 1.0), (0, 0, 1.0)]
)
def test_warmup_weighs_the_kl_of_the_gradient(step, warmup_steps, weight):
    model, x = sgd_model(warmup_steps)
    model.optimizer.iterations.assign(step)
    with tf.GradientTape() as tape:
        terms = model.log_terms(x, 1, seed=tf.constant([7, step]), training=True)
        loss = tf.reduce_mean(weight * terms.layer_kl - terms.log_likelihood[0])
    expected = tape.gradient(loss, model.trainable_variables)
    before = [tf.identity(variable) for variable in model.trainable_variables]
    model.train_step(x)
    for old, new, gradient in zip(before, model.trainable_variables, expected, strict=True):
        # Weights of order 1 have lost 1e-7 of the gradient subtracted from them; the loss sums 784 pixels' gradients.
        np.testing.assert_allclose(old - new, gradient, rtol=1e-4, atol=1e-5)


def test_warmup_epochs_are_counted_in_steps(tmp_path):
    assert training.Training(tiny.begin(tmp_path, warmup_epochs=3)).model.warmup_steps == 3 * tiny.STEPS


def adam_steps(steps: int, **changes) -> list[float]:
    """How far each of so many steps moves a weight whose gradient is always 1: Adam divides by the gradient's size."""
    optimizer = training.optimizer(tiny.config(learning_rate=0.1, **changes), steps)
    variable, places = tf.Variable(0.0), [0.0]
    for _ in range(steps):
        optimizer.apply_gradients([(tf.constant(1.0), variable)])
        places.append(float(variable))
    return list(-np.diff(places))


@pytest.mark.parametrize(
    "changes", [{}, {"clip_norm": 1.0, "weight_decay": 0.5, "decay": "cosine", "learning_rate": 0.1}]
)
def test_adam_moves_weights_as_that_of_keras_does(changes):
    config = tiny.config(**changes)
    own, draws = training.optimizer(config, 10), np.random.default_rng(0)
    other = tf_keras.optimizers.Adam(
        training.learning_rate(config, 10, "optimizer"),
        weight_decay=config.weight_decay or None,
        global_clipnorm=config.clip_norm or None,
    )
    weights = [[tf.Variable(tf.ones([3, 4])), tf.Variable(2.0)] for _ in range(2)]
    other.exclude_from_weight_decay([weights[1][1]])
    for _ in range(10):
        gradients = [tf.constant(draws.normal(0, 10, [3, 4]), tf.float32), tf.constant(draws.normal(), tf.float32)]
        for optimizer, variables in zip((own, other), weights, strict=True):
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
    for mine, keras in zip(own.variables, other.variables, strict=True):
        assert mine.name == keras.name  # in a checkpoint too
        np.testing.assert_allclose(mine, keras, rtol=3e-5)  # the operation takes 1 - 0.999 in 32 bits
    for mine, keras in zip(*weights, strict=True):
        np.testing.assert_allclose(mine, keras, rtol=3e-5)


def test_cosine_decay_reaches_zero_at_the_last_step():
    expected = [0.05 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    # Adam's epsilon and float32: 1e-6 relative.
    np.testing.assert_allclose(adam_steps(10, decay="cosine"), expected, rtol=1e-4)
    assert training.optimizer(tiny.config(decay="cosine"), 10)._learning_rate(10) == 0


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_cosine_decay_of_each_optimizer_of_a_gan_ends_at_0_with_its_own_last_step(critic_steps, tmp_path, eager):
    run = tiny.begin(tmp_path / "run", "gan", critic_steps=critic_steps, decay="cosine")
    trained = training.Training(run)
    optimizers = trained.model.generator_optimizer, trained.model.discriminator_optimizer
    chunks = trained.chunks()
    while not trained.finished:
        trained.train_epoch(chunks, on_steps=lambda count: None, stopped=lambda: False)
    assert [int(optimizer.iterations) for optimizer in optimizers] == [2 * tiny.STEPS // critic_steps, 2 * tiny.STEPS]
    for optimizer in optimizers:
        assert optimizer._learning_rate(optimizer.iterations - 1) > 0
        assert optimizer._learning_rate(optimizer.iterations) == 0


def test_constant_decay_keeps_the_learning_rate():
    np.testing.assert_allclose(adam_steps(5, decay="constant"), [0.1] * 5, rtol=1e-4)  # as above


@pytest.mark.parametrize("clip_norm, factor", [(0.0, 1.0), (1.0, 0.2), (100.0, 1.0)])
def test_clip_norm_scales_the_whole_gradient(clip_norm, factor):
    optimizer = training.optimizer(tiny.config(clip_norm=clip_norm), 10)
    variables = [tf.Variable(0.0), tf.Variable([0.0, 0.0])]
    gradients = [tf.constant(3.0), tf.constant([4.0, 0.0])]  # together of norm 5
    optimizer.apply_gradients(zip(gradients, variables, strict=True))
    moments = [v.numpy() for v in optimizer.variables if "/m/" in v.name]
    # Adam's first moment is 0.1 of its first gradient.
    np.testing.assert_allclose(moments[0], 0.3 * factor, rtol=1e-6)
    np.testing.assert_allclose(moments[1], [0.4 * factor, 0.0], rtol=1e-6)


def test_ema_is_the_average_computed_by_hand():
    weight = tf.Variable([1.0, -2.0])
    average = training.WeightAverage([weight], decay=0.3)
    expected = np.array([1.0, -2.0])
    for step, value in enumerate([[2.0, 0.0], [4.0, 1.0], [-3.0, 5.0], [0.5, 0.5]], start=1):
        weight.assign(value)
        average.update(tf.constant(step, tf.int64))
        decay = min(0.3, (1 + step) / (10 + step))  # 2/11, 3/12, 4/13, then 0.3
        expected = decay * expected + (1 - decay) * np.array(value)
        np.testing.assert_allclose(average.averages[0], expected, rtol=1e-6)  # float32


def test_ema_follows_the_weights_of_every_step(tmp_path, eager, one_step_a_call, monkeypatch):
    run = tiny.begin(tmp_path / "run", ema_decay=0.3, epochs=1, norm="batch")
    state = training.Training(run)
    expected = [weight.numpy() for weight in state.average.weights]
    assert {id(w) for w in state.average.weights} == {id(w) for w in tiny.parameters(state.model)}

    def on_steps(num_steps):
        decay = min(0.3, (1 + state.step) / (10 + state.step))
        for i, weight in enumerate(state.average.weights):
            expected[i] = decay * expected[i] + (1 - decay) * weight.numpy()

    state.train_epoch(state.chunks(), on_steps, stopped=lambda: False)
    assert state.step == tiny.STEPS
    for average, value in zip(state.average.averages, expected, strict=True):
        np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-7)  # float32 over four steps


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_best_holds_the_averages_where_ema_is_on_else_the_weights(decay, tmp_path, eager):
    run = tiny.begin(tmp_path / "run", ema_decay=decay, epochs=1, norm="batch")
    tiny.train(run)
    state = training.Training(run)  # restores what was trained
    weights, averages = tiny.bits(state.model), [average.numpy().tobytes() for average in state.average.averages]
    assert tiny.scored(run.workdir) == (averages if decay else weights)
    assert averages != weights


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_val_elbo_is_that_of_the_scored_weights(decay, tmp_path, eager):
    run = tiny.train(tiny.begin(tmp_path / "run", ema_decay=decay))
    model = runs.load_model(run)
    for batch in datasets.eval_batches(datasets.load("mnist_5k").validation.binary, training.EVAL_BATCH):
        logs = model.test_step(batch)
    best = max(tiny.rows(run), key=lambda row: row["val_elbo"])
    assert {name: float(value) for name, value in logs.items()} == {name: best[f"val_{name}"] for name in logs}


def test_validation_scores_the_averages_and_gives_the_weights_back(tmp_path, eager):
    state = training.Training(tiny.begin(tmp_path / "run", ema_decay=0.5))
    scored = state.validate()["elbo"]
    weights = [weight.numpy() for weight in state.model.weights]
    for average in state.average.averages:
        average.assign_add(tf.ones_like(average))
    assert state.validate()["elbo"] != scored
    for weight, before in zip(state.model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_pictures_of_an_epoch_are_of_the_scored_weights(decay, tmp_path, eager, monkeypatch):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    monkeypatch.setattr(training.Training, "sample", ALL_SAMPLES)
    # A high rate, so that weights and averages are far apart.
    run = tiny.train(tiny.begin(tmp_path / "run", ema_decay=decay, epochs=1, learning_rate=0.1))

    def sheet(model, count, columns):
        return images.png(images.tile(model.sample(64, run.config.seed)["probabilities"][:count], columns)).numpy()

    (file,) = run.tensorboard.glob("events.out.tfevents.*")
    values = [value for event in EventFileLoader(str(file)).Load() for value in event.summary.value]
    drawn = next(value.tensor.string_val[2] for value in values if value.tag == "samples")
    scored, raw = runs.load_model(run), training.Training(run).model
    strip = (run.progress / "1.png").read_bytes()
    assert strip == sheet(scored, 10, 10)
    np.testing.assert_array_equal(tf.io.decode_png(drawn), tf.io.decode_png(sheet(scored, 64, 8)))
    assert (strip == sheet(raw, 10, 10)) == (decay == 0)


def script_validation(monkeypatch, elbos: list[float]) -> list[dict]:
    """Makes the validation of successive epochs find these; returns a list that grows by the weights at each."""
    remaining, weights = iter(elbos), []

    def validate(self):
        weights.append(tiny.bits(self.model))
        return {"elbo": float(next(remaining)), "kl": 0.0, "reconstruction": 0.0}

    monkeypatch.setattr(training.Training, "validate", validate)
    return weights


def test_early_stopping_keeps_the_best_epoch_and_stops_after_patience(tmp_path, monkeypatch, capsys, eager):
    weights = script_validation(monkeypatch, [-5, -3, -4, -3, -2])
    run = tiny.train(tiny.begin(tmp_path / "run", epochs=9, patience=2, ema_decay=0.0))
    assert len(weights) == 4  # epochs 3 and 4 are no better than 2: equal is not better
    assert "4 epochs, the best is 2" in capsys.readouterr().out
    assert tiny.scored(run.workdir) == weights[1] != weights[3]
    tiny.train(run)
    assert "finished" in capsys.readouterr().out
    assert len(weights) == 4


def test_patience_0_trains_to_the_last_epoch(tmp_path, monkeypatch, eager):
    weights = script_validation(monkeypatch, [-1, -2, -3, -4])
    run = tiny.train(tiny.begin(tmp_path / "run", epochs=4, patience=0, ema_decay=0.0))
    assert len(weights) == 4
    assert tiny.scored(run.workdir) == weights[0]


# What stops it


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    run = tiny.train(tiny.begin(tmp_path / "run", epochs=1))
    good = tiny.variables(run.checkpoints)
    run.config.epochs = 3
    train_step = models.base.LatentVariableModel.train_step

    def poisoned(self, x):  # the third step of epoch 2 sees pixels that are not finite
        return train_step(self, tf.where(self.optimizer.iterations == tiny.STEPS + 2, math.inf, x))

    monkeypatch.setattr(training, "SECONDS_PER_CALL", 1e9)  # one call takes this step, the one before and the one after
    monkeypatch.setattr(models.base.LatentVariableModel, "train_step", poisoned)
    with pytest.raises(Fault, match=rf"elbo is not finite at step {tiny.STEPS + 3} \(epoch 2\).*ckpt-1"):
        tiny.train(run)
    assert tiny.variables(run.checkpoints) == good
    assert [row["epoch"] for row in tiny.rows(run)] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(("posterior", "steps"), [("planar", 32), ("radial", 32), ("sylvester", 8), ("iaf", 8)])
def test_deep_posterior_flow_trains_20_epochs(posterior, steps, tmp_path, monkeypatch):
    # Two or three times as deep as the shipped configs.  Without a validation, which takes as long to trace as a step.
    def validate(self):
        return {name: float(average.result()) for name, average in self.model.averages.items()}

    monkeypatch.setattr(training.Training, "validate", validate)
    monkeypatch.setattr(training, "_line", lambda model, row, epochs: "")
    # Five times the rate of the shipped configs drives clipped scales and constrained maps to their bounds.
    options = {"flow_steps": steps, "latent_size": 4, "hidden_size": 32, "learning_rate": 1e-2, "epochs": 20}
    rows = tiny.rows(tiny.train(tiny.begin(tmp_path, posterior=posterior, **options)))
    assert len(rows) == 20  # a quantity that is not finite ends a training
    assert rows[-1]["elbo"] > rows[0]["elbo"] + 50


def test_divergence_names_the_rates_that_the_model_has(tmp_path):
    for inference, remedy in (("amortized", "try a lower config.learning"), ("svi", "try a lower config.refine_learn")):
        state = training.Training(tiny.begin(tmp_path / inference, inference=inference))
        with pytest.raises(Fault, match=remedy):
            state.diverged("elbo")


def test_learning_rate_that_diverges_exits_3(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["genmnist", "train", f"--workdir={tmp_path}", *tiny.flags(learning_rate=1e30)])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    signal.signal(signal.SIGTERM, handler)
    assert exit_.value.code == 3
    message = capsys.readouterr().err
    assert message.startswith("genmnist: elbo is not finite at step 2 (epoch 1)")
    assert message.count("\n") == 1
    assert list((tmp_path / "checkpoints").glob("ckpt-*")) == []


def test_validation_that_is_not_finite_stops_before_it_is_kept(tmp_path, monkeypatch, eager):
    script_validation(monkeypatch, [-5, math.nan])
    run = tiny.begin(tmp_path / "run", epochs=3)
    with pytest.raises(Fault, match=rf"val_elbo is not finite at step {2 * tiny.STEPS} \(epoch 2\)"):
        tiny.train(run)
    assert [path.name for path in run.checkpoints.glob("*.index")] == ["ckpt-1.index"]
    assert [path.name for path in run.best.glob("*.index")] == ["ckpt-1.index"]


def test_fault_in_the_last_step_of_an_epoch_names_that_epoch(tmp_path, monkeypatch, eager):
    monkeypatch.setattr(models.base.LatentVariableModel, "_record", lambda self, terms: {"elbo": tf.constant(math.nan)})
    state = training.Training(tiny.begin(tmp_path / "run", batch_size=4000))
    state.model.averages["elbo"].update_state(math.nan)
    with pytest.raises(Fault, match=r"elbo is not finite at step 1 \(epoch 1\)"):
        state.train_epoch(state.chunks(), lambda num_steps: None, stopped=lambda: False)


def test_weight_that_is_not_finite_is_never_saved(tmp_path):
    state = training.Training(tiny.begin(tmp_path / "run"))
    weight = state.model.weights[3]
    weight.assign(tf.fill(weight.shape, math.nan))
    with pytest.raises(Fault, match=f"{weight.name} is not finite at step 0"):
        state.save()
    assert list(tmp_path.glob("run/checkpoints/ckpt-*")) == []


OUT_OF_RANGE = [
    ("latent_size", 0, "1 or more"),
    ("hidden_size", 0, "1 or more"),
    ("hidden_layers", 0, "1 or more"),
    ("batch_size", 0, "1 or more|1 to 4000"),
    ("batch_size", 4001, "1 to 4000"),
    ("epochs", 0, "1 or more"),
    ("learning_rate", -1.0, "above 0"),
    ("learning_rate", 0.0, "above 0"),
    ("learning_rate", math.nan, "above 0"),
    ("learning_rate", math.inf, "above 0"),
    ("warmup_epochs", -1, "0 .none. or more"),
    ("clip_norm", -1.0, "0 .none. or more"),
    ("clip_norm", math.nan, "0 .none. or more"),
    ("weight_decay", -0.1, "0 .none. or more"),
    ("weight_decay", math.nan, "0 .none. or more"),
    ("ema_decay", 1.0, "below 1"),
    ("ema_decay", -0.1, "0 .none. or a value below 1"),
    ("patience", -1, "0 .none. or more"),
    ("seed", -1, "0 to 2147483647"),
    ("seed", 2**31, "0 to 2147483647"),
    ("dataset", "mnist5k", "mnist, binarized_mnist, mnist_5k"),
    ("binarization", "dinamic", "dynamic, static, threshold, none"),
    ("decay", "cosin", "constant, cosine"),
    ("optimizer", "moun", "adam, muon"),
    ("network", "mpl", "mlp, conv"),
    ("model", "vea", "vae"),
]


@pytest.mark.parametrize("field, value, accepted", OUT_OF_RANGE, ids=[f"{f}={v}" for f, v, _ in OUT_OF_RANGE])
def test_config_value_out_of_range_is_refused_and_leaves_no_run(field, value, accepted, tmp_path):
    run = runs.Run(tmp_path / "run", "vae", tiny.config(**{field: value}), "genmnist train", "commit")
    with pytest.raises(UsageError, match=rf"{field}.*{value}.*({accepted})"):
        training.train(run, time.time())
    assert not runs.exists(run.workdir)


@pytest.mark.parametrize("field, value", [("latent_size", 0), ("learning_rate", -1.0), ("decay", "cosin")])
def test_config_value_out_of_range_is_refused_before_data_are_loaded(field, value, tmp_path, monkeypatch):
    # Else a mistyped value would download MNIST first, or be reported as a download that failed.
    def load(run):
        raise Fault("no data here")

    monkeypatch.setattr(runs, "load_data", load)
    run = runs.Run(tmp_path / "run", "vae", tiny.config(**{field: value}), "genmnist train", "commit")
    with pytest.raises(UsageError, match=field):
        training.train(run, time.time())


def test_largest_batch_and_seed_train(tmp_path, eager):
    run = tiny.train(tiny.begin(tmp_path / "run", batch_size=4000, seed=2**31 - 1, epochs=1))
    assert [row["step"] for row in tiny.rows(run)] == [1]


@pytest.mark.parametrize("field", ["learning_rate", "decay", "jit_compile"])
def test_config_without_a_field_that_training_reads_is_a_fault(field, tmp_path):
    run = tiny.begin(tmp_path / "run")
    del run.config[field]
    with pytest.raises(Fault, match=rf"the config in {tmp_path}/run/config.json is damaged \(.*{field}"):
        training.Training(run)
