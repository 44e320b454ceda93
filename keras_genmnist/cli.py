"""`genmnist <verb> --flags`.  A verb's module is imported only when it is called: TensorFlow takes seconds to load."""

import contextlib
import errno
import functools
import inspect
import io
import os
import re
import shlex
import signal
import sys
import threading
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from keras_genmnist import config as configs
from keras_genmnist import fields
from keras_genmnist.errors import Fault, UsageError

STARTED = time.time()


def train(argv: list[str]) -> None:
    """Train a model, or resume its run where it stopped.

    genmnist train --model=NAME|path/to/FILE.py [--workdir=DIR] [--init_from=DIR_OF_A_RUN] [--config.FIELD=VALUE ...]
    genmnist train --workdir=DIR [--config.epochs=MORE]
    genmnist train --config_from=DIR_OF_A_RUN|results/NAME.json [--workdir=DIR] [--config.FIELD=VALUE ...]
    genmnist train ... [--devices=all|0,1|cpu] [--workers=HOST:PORT,HOST:PORT,... --index=0, on each of them its own]
    """
    values = _train_flags()
    _parse(values, argv, before_config=True)
    if _wants_help(argv):
        raise _Help(values, _load(values.model) if values.model else ConfigDict())
    if values.config_from and values.model:
        raise UsageError("give either --model or --config_from, not both")
    _check_index(values)
    name, source = values.model, None
    if name is not None:  # before TensorFlow's seconds of import, so that a mistake shows at once
        config = _overridden(values, _load(name), argv)
    elif not values.config_from:
        _workdir(values)
    with _quiet():
        from keras_genmnist import api, runs
    if name is not None and configs.is_path(name):
        source = Path(name) if configs.builder(Path(name)) else None
        name = configs.title(name)
    elif values.config_from:
        name, config, source = runs.config_from(Path(values.config_from))
        config = _overridden(values, config, argv)
    workdir = _workdir(values, name)
    if name is None:
        if not runs.exists(workdir):
            raise UsageError(f"no run in {workdir} to resume: give --model=NAME, one of {', '.join(configs.names())}")
        resumed = runs.load(workdir)
        name = resumed.name
        config = _overridden(values, resumed.config.copy_and_resolve_references(), argv)
    command = _command("train", argv)
    api.begin(
        name,
        config,
        workdir,
        _fields(argv),
        command,
        STARTED,
        source=source,
        init_from=values.init_from,
        devices=values.devices,
        workers=values.workers,
        index=values.index,
    )


def tune(argv: list[str]) -> None:
    """Search for the config that is best on the validation images.

    genmnist tune --model=NAME|path/to/FILE.py [--search=FIELD:LOW..HIGH[:log|:STEP],FIELD:A|B|C,...] [--trials=20]
    [--epochs=N] [--objectives=elbo,seconds] [--pruner=median|hyperband|none] [--jobs=2] [--finish]
    [--workdir=DIR] [--storage=postgresql://USER@HOST/DATABASE|FILE] [--study=NAME] [--config.FIELD=VALUE ...]
    genmnist tune --workdir=DIR | --storage=STORAGE --study=NAME [--trials=MORE] [--jobs=2] [--finish]
    """
    values = _run_flags("runs/tune/MODEL")
    flags.DEFINE_string("search", None, "What is varied; by default what the config says.", flag_values=values)
    flags.DEFINE_integer("trials", None, "How many in all; by default 20.", 1, flag_values=values)
    flags.DEFINE_integer("epochs", None, "Of a trial; by default a tenth of the config's.", 1, flag_values=values)
    flags.DEFINE_list("objectives", [], "Of several, the Pareto front; see docs/scale.md.", flag_values=values)
    flags.DEFINE_enum(
        "pruner", "median", ["median", "hyperband", "none"], "What ends poor trials early.", flag_values=values
    )
    flags.DEFINE_string("storage", None, "By default the file study.journal in the workdir.", flag_values=values)
    flags.DEFINE_string("study", None, "Its name in the storage; by default the workdir's.", flag_values=values)
    flags.DEFINE_integer("jobs", 1, "Trials at a time, each by a process of this machine.", 1, flag_values=values)
    flags.DEFINE_integer(
        "threads", 0, "Of the CPU, of each job; 0 for the cores divided among them.", 0, flag_values=values
    )
    flags.DEFINE_boolean("summary", True, "A table and figures of the search at its end.", flag_values=values)
    flags.DEFINE_boolean("finish", False, "Train the best config to full length at the end.", flag_values=values)
    _parse(values, argv, before_config=True)
    if _wants_help(argv):
        raise _Help(values, _load(values.model) if values.model else ConfigDict())
    name, config = values.model, None
    if name is not None:  # before TensorFlow's seconds of import, so that a mistake shows at once
        config = _overridden(values, _load(name), argv)
    else:
        own = [flag for flag in ("search", "epochs", "objectives") if values[flag].present]
        if own or _fields(argv):
            flag = f"--{own[0]}" if own else f"--config.{_fields(argv)[0]}"
            raise UsageError(f"{flag} needs --model=NAME: a study that is joined has its own")
    with _quiet():
        from keras_genmnist import tuning
        from keras_genmnist.search import space
    record = None
    if name is not None:
        searched = space.default(name, config) if values.search is None else space.written(values.search)
        source = Path(name) if configs.is_path(name) and configs.builder(Path(name)) else None
        name = configs.title(name)
        record = tuning.plan(name, config, searched, values.epochs, values.objectives, values.pruner, source)
    workdir = Path(values.workdir) if values.workdir else name and Path("runs/tune") / name
    tuning.begin(
        record,
        values.trials,
        workdir or None,
        values.storage,
        values.study,
        jobs=values.jobs,
        threads=values.threads,
        summary=values.summary,
        finish=values.finish,
        command=_command("tune", argv),
    )


def evaluate(argv: list[str]) -> None:
    """Measure a run: ELBO and importance-weighted NLL in nats, and the quality of its samples.

    genmnist evaluate --model=NAME | --workdir=DIR | --pretrained=NAME [--num_draws=1000]
    [--proposal=posterior|defensive] [--results] [--per_image=FILE.csv|FILE.npz]
    genmnist evaluate ... [--devices=all|0,1|cpu] [--workers=HOST:PORT,HOST:PORT,... --index=0, on each its own]
    """
    values = _trained_flags()
    flags.DEFINE_integer(
        "num_draws",
        None,
        "Of the NLL; by default 1000, or quadrature for 1 or 2 latents.  Of a bound, as many as the model needs.",
        1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "proposal", "posterior", ["posterior", "defensive"], "What the draws come from.", flag_values=values
    )
    flags.DEFINE_string(
        "per_image", None, "FILE.csv or FILE.npz: also write the scores of each test image.", flag_values=values
    )
    flags.DEFINE_boolean("results", False, "Also write results/NAME.json.", flag_values=values)
    _define_devices(values)
    _parse(values, argv)
    _check_index(values)
    per_image = Path(values.per_image) if values.per_image is not None else None
    if per_image and per_image.suffix not in (".csv", ".npz"):
        raise UsageError(f"--per_image={values.per_image} is neither a .csv nor a .npz file: give FILE.csv or FILE.npz")
    with _quiet():
        from keras_genmnist import cluster, evaluate
    run = _trained(values)
    strategy = cluster.strategy(values.devices, values.workers, values.index)
    evaluate.evaluate(run, values.num_draws, values.results, values.proposal, per_image, strategy)


def classifier(argv: list[str]) -> None:
    """Train the classifiers that judge samples of a labelled data set of your own.

    genmnist classifier --dataset=NAME|PATH [--image_size=32] [--invert] [--seeds=3]
    """
    values = flags.FlagValues()
    flags.DEFINE_string("dataset", None, "As --config.dataset of a training.", flag_values=values)
    flags.DEFINE_integer("image_size", 0, "As --config.image_size of a training.", 0, flag_values=values)
    flags.DEFINE_boolean("invert", False, "As --config.invert of a training.", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "How many classifiers; their spread needs two.", 1, 100, flag_values=values)
    _parse(values, argv)
    if not values.dataset:
        raise UsageError("give --dataset=NAME, or the path of images of your own, as --config.dataset takes them")
    with _quiet():
        from keras_genmnist import datasets, judges
    dataset = datasets.load(values.dataset, image_size=values.image_size, invert=values.invert)
    command = judges.command(values.dataset, values.image_size, values.invert)
    print(f"wrote {judges.make(dataset, values.seeds, command)}")


def figures(argv: list[str]) -> None:
    """Draw what a run has learned.

    genmnist figures --model=NAME | --workdir=DIR | --pretrained=NAME [--which=FIGURE,...] [--format=png|pdf|svg]
    [--out=DIR] [--label=NAME_OR_NUMBER, of a class-conditional model]
    genmnist figures --model=NAME | --workdir=DIR | --pretrained=NAME --which=interpolation --pairs=3,5
    genmnist figures --which=flow_densities [--format=png|pdf|svg] [--out=DIR]
    """
    values = _trained_flags()
    flags.DEFINE_list(
        "which", [], "Names of figures, see docs/models.md; all that the model has by default.", flag_values=values
    )
    flags.DEFINE_integer("seed", 1, "Of the samples and the interpolation.", *SEEDS, flag_values=values)
    flags.DEFINE_multi_string(
        "pairs",
        [],
        "Test images, from 0, to interpolate between or to vary: 3,5 or 3,5,12,8 or given again.",
        flag_values=values,
    )
    flags.DEFINE_enum("format", "png", ["png", "pdf", "svg"], "Of the pictures.", flag_values=values)
    flags.DEFINE_string(
        "label", None, "The class that latents are decoded in; the first by default.", flag_values=values
    )
    flags.DEFINE_string("out", "figures", "Folder of the pictures.", flag_values=values)
    _parse(values, argv)
    out, pairs = _folder_of_pictures(values, "--format"), _pairs(values)
    with _quiet():
        from keras_genmnist import densities, figures
    if values.which == [figures.NO_RUN] and not (values.model or values.workdir or values.pretrained):
        figures.save(densities.figure(values.seed), out / f"{figures.NO_RUN}.{values.format}")
        return
    figures.figures(_trained(values), values.which, values.seed, out, values.format, pairs, values.label)


def report(argv: list[str]) -> None:
    """Write one HTML page of a run, or of several side by side.

    genmnist report --model=NAME | --workdir=DIR [--workdir=DIR ...] [--out=report.html]
    """
    values = flags.FlagValues()
    flags.DEFINE_string("model", None, "Of the run runs/MODEL.", flag_values=values)
    flags.DEFINE_multi_string("workdir", [], "Directory of a run; of several, give each.", flag_values=values)
    flags.DEFINE_string("out", "report.html", "FILE.html.", flag_values=values)
    _parse(values, argv)
    out = Path(values.out)
    if out.suffix != ".html":
        raise UsageError(f"--out={out} is no .html file: give FILE.html")
    if bool(values.model) == bool(values.workdir):
        raise UsageError(f"give --model=NAME, one of {', '.join(configs.names())}, or the --workdir=DIR of runs")
    if values.model:
        _load(values.model)  # refuses a misspelt name
    workdirs = [Path(workdir) for workdir in values.workdir] or [Path("runs") / configs.title(values.model)]
    with _quiet():
        from keras_genmnist import report, runs
    report.report([runs.load(workdir) for workdir in workdirs], out)


def export(argv: list[str]) -> None:
    """Write a run as a SavedModel that needs nothing but TensorFlow, or as TFLite or ONNX.

    genmnist export --model=NAME | --workdir=DIR | --pretrained=NAME [--format=savedmodel|tflite|onnx] [--out=exports]
    """
    values = _trained_flags()
    flags.DEFINE_enum(
        "format",
        "savedmodel",
        ["savedmodel", "tflite", "onnx"],
        "The other two hold what needs no random numbers, in OUT/NAME_FORMAT/VERSION.",
        flag_values=values,
    )
    flags.DEFINE_string("out", "exports", "Folder of all exports: OUT/NAME/VERSION is written.", flag_values=values)
    _parse(values, argv)
    with _quiet():
        from keras_genmnist import export
    print(f"wrote {export.export(_trained(values), Path(values.out), values.format)}")


def encode(argv: list[str]) -> None:
    """Write the posteriors of images: means, log-variances and labels.

    genmnist encode --model=NAME | --workdir=DIR | --pretrained=NAME --images=DATASET|PATH [--out=codes.npz|.csv]
    """
    values = _trained_flags()
    flags.DEFINE_string("images", None, "A data set, for its test images, or the path of your own.", flag_values=values)
    flags.DEFINE_string("out", "codes.npz", "FILE.npz or FILE.csv.", flag_values=values)
    _parse(values, argv)
    out = Path(values.out)
    if not values.images:
        raise UsageError("give --images=PATH, of a .npz file or a folder of images, or the name of a data set")
    if out.suffix not in (".csv", ".npz"):
        raise UsageError(f"--out={out} is neither a .npz nor a .csv file: give FILE.npz or FILE.csv")
    with _quiet():
        from keras_genmnist import encoding
    encoding.encode(_trained(values), values.images, out)


def sample(argv: list[str]) -> None:
    """Draw images from a run or an export.

    genmnist sample --model=NAME | --workdir=DIR | --pretrained=NAME | --export=DIR [--num_samples=64] [--seed=1]
    [--out=samples.png] [--digit=7 | --label=NAME_OR_NUMBER, of a class-conditional model]
    [--num_steps=20, of a model that draws in steps]
    """
    values = _trained_flags()
    flags.DEFINE_string("export", None, "An export: exports/NAME or exports/NAME/VERSION.", flag_values=values)
    flags.DEFINE_integer("num_samples", 64, "How many.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 1, "The same seed gives the same images.", *SEEDS, flag_values=values)
    flags.DEFINE_integer("digit", None, "The one to draw; of class-conditional models.", 0, flag_values=values)
    flags.DEFINE_string("label", None, "The class to draw, by name or number, as --digit.", flag_values=values)
    flags.DEFINE_integer("num_steps", None, "Of masked_diffusion and flow_matching.", flag_values=values)
    flags.DEFINE_string("out", "samples.png", "The sheet; the array goes to the .npy beside it.", flag_values=values)
    _parse(values, argv)
    if values.export and (values.model or values.workdir or values.pretrained):
        raise UsageError("give either --export or a run by --model, --workdir or --pretrained, not both")
    if values.digit is not None and values.label is not None:
        raise UsageError("give either --digit or --label, not both")
    if values.export and values.num_steps is not None:
        raise UsageError("an export draws in the steps of its config: give --num_steps with --model or --workdir")
    flag, label = ("--label", values.label) if values.digit is None else ("--digit", str(values.digit))
    with _quiet():
        from keras_genmnist import sampling, sources
    if values.export:
        source = sources.of_export(Path(values.export))
    else:
        source = sources.of_run(_trained(values), values.num_steps)
    sampling.sample(source, values.num_samples, values.seed, Path(values.out), label, flag)


def score(argv: list[str]) -> None:
    """Write how likely each image is to a model, and tell outliers from its own images.

    genmnist score --model=NAME | --workdir=DIR | --pretrained=NAME | --export=DIR [--images=DATASET|PATH]
    [--out=scores.csv|.npz] [--num_draws=100] [--against=DATASET|PATH]
    """
    values = _trained_flags()
    flags.DEFINE_string("export", None, "An export: exports/NAME or exports/NAME/VERSION.", flag_values=values)
    flags.DEFINE_string(
        "images", None, "A data set, for its test images, or a path; by default the run's own.", flag_values=values
    )
    flags.DEFINE_string("against", None, "Other images, to be told from these; draws OUT.png.", flag_values=values)
    flags.DEFINE_integer(
        "num_draws",
        None,
        "Of log p(x), by default 100; or of a bound, by default as many as `genmnist evaluate` takes.",
        1,
        flag_values=values,
    )
    flags.DEFINE_string("out", "scores.csv", "FILE.csv or FILE.npz.", flag_values=values)
    _parse(values, argv)
    out = Path(values.out)
    if values.export and (values.model or values.workdir or values.pretrained):
        raise UsageError("give either --export or a run by --model, --workdir or --pretrained, not both")
    if out.suffix not in (".csv", ".npz"):
        raise UsageError(f"--out={out} is neither a .csv nor a .npz file: give FILE.csv or FILE.npz")
    with _quiet():
        from keras_genmnist import scoring, sources
    source = sources.of_export(Path(values.export)) if values.export else sources.of_run(_trained(values))
    scoring.score(source, values.images, out, values.num_draws, values.against)


def serve(argv: list[str]) -> None:
    """Serve exports, or the pretrained models, over HTTP, with an explorer in the browser.

    By TensorFlow Serving's REST contract.

    genmnist serve [--export=DIR ...] [--pretrained=NAME,...] [--host=127.0.0.1] [--port=8501] [--max_in_flight=64]
    [--max_body_mb=16] [--allow_host=NAME ...] [--allow_origin=ORIGIN ...] [--token_file=FILE]
    """
    values = flags.FlagValues()
    flags.DEFINE_multi_string(
        "export", [], "exports/NAME: always its newest version; or exports/NAME/VERSION", flag_values=values
    )
    flags.DEFINE_list(
        "pretrained", [], "Models that come with genmnist; all of them if no --export is given.", flag_values=values
    )
    flags.DEFINE_string("host", HOST, "To listen on; 0.0.0.0 for all networks.", flag_values=values)
    flags.DEFINE_integer("port", 8501, "To listen on; 0 for a free one.", 0, 65535, flag_values=values)
    flags.DEFINE_integer(
        "max_in_flight", 64, "Requests worked on at once; more get 429.", 1, MOST_IN_FLIGHT, flag_values=values
    )
    flags.DEFINE_integer("max_body_mb", 16, "Of a request, in MB; more gets 413.", 1, flag_values=values)
    flags.DEFINE_multi_string(
        "allow_host", [], "A name that it answers to, beside localhost and --host; * for any.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "allow_origin", [], "scheme://host[:port], whose pages may ask it; * for any.", flag_values=values
    )
    flags.DEFINE_string("token_file", None, "Holds the token that requests must bring.", flag_values=values)
    _parse(values, argv)
    with _quiet():
        from keras_genmnist.serve import access, server
    token = access.read_token(Path(values.token_file)) if values.token_file is not None else None
    exports = [Path(export) for export in values.export]
    if values.pretrained or not exports:
        with _quiet():
            from keras_genmnist import zoo  # and with it what a server of exports has no need of
        chosen = values.pretrained or zoo.names()
        for name in chosen:
            zoo.require(name)
        if not (exports or values.pretrained):
            print(f"no --export is given: serving the pretrained {', '.join(chosen)}", flush=True)
        server.prepare()  # TensorFlow computes when it unpacks one
        exports += map(zoo.export, chosen)
    server.serve(
        exports,
        values.host,
        values.port,
        values.max_in_flight,
        values.max_body_mb,
        access.Access(values.host, values.allow_host, values.allow_origin, token),
    )


def gap(argv: list[str]) -> None:
    """Split the gap between log p(x) and a run's ELBO into approximation and amortization gap.

    genmnist gap --model=NAME | --workdir=DIR | --pretrained=NAME [--num_images=100] [--results] [--out=figures]
    """
    values = _trained_flags()
    flags.DEFINE_integer("num_images", 100, "Of the training and of the test split.", 2, flag_values=values)
    flags.DEFINE_boolean("results", False, "Also write results/NAME_gap.json.", flag_values=values)
    flags.DEFINE_string("out", "figures", "Folder of the picture.", flag_values=values)
    _parse(values, argv)
    out = _folder_of_pictures(values)
    with _quiet():
        from keras_genmnist import gap
    gap.gap(_trained(values), values.num_images, values.results, out)


def compare(argv: list[str]) -> None:
    """Train models for the same time and compare their likelihood, cost and samples.

    genmnist compare --models=NAME,NAME,... [--minutes=5] [--dataset=mnist] [--num_draws=100] [--workdir=runs/compare]
    [--out=figures]
    """
    values = flags.FlagValues()
    flags.DEFINE_list("models", [], "Models with a likelihood.", flag_values=values)
    flags.DEFINE_float("minutes", 5.0, "Of training, each, where it is not trained yet.", 0.0, flag_values=values)
    flags.DEFINE_string("dataset", "mnist", "That they learn from.", flag_values=values)
    flags.DEFINE_integer("num_draws", 100, "Of the importance-weighted NLL.", 1, flag_values=values)
    flags.DEFINE_string("workdir", "runs/compare", "Folder of their runs.", flag_values=values)
    flags.DEFINE_string("out", "figures", "Folder of the picture.", flag_values=values)
    _parse(values, argv)
    if len(values.models) < 2 or len(set(values.models)) < len(values.models):
        given = ",".join(values.models)
        raise UsageError(f"--models={given} must be two or more, each once, of {', '.join(configs.names())}")
    if not 0 < values.minutes <= YEAR:
        raise UsageError(f"--minutes={values.minutes} is out of range: give a number above 0, at most {YEAR}, a year")
    out = _folder_of_pictures(values)
    for name in values.models:
        if configs.is_path(name):
            raise UsageError(f"--models has {name}: `compare` takes no file, but `sweep` does; give names of configs")
        _load(name)  # refuses a misspelt name before TensorFlow's seconds of import
    with _quiet():
        from keras_genmnist import compare
    compare.compare(
        values.models,
        values.minutes,
        values.dataset,
        values.num_draws,
        Path(values.workdir),
        out,
        _command("compare", argv),
    )


def sweep(argv: list[str]) -> None:
    """Train and evaluate models by several seeds: the spread of their scores, and differences image by image.

    genmnist sweep --models=NAME|path/to/FILE.py,... [--seeds=3] [--jobs=CORES] [--num_draws=1000]
    [--workdir=runs/sweep] [--results] [--config.FIELD=VALUE ...]
    """
    values = flags.FlagValues()
    flags.DEFINE_list("models", [], "Those to train.", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "Of each model, from config.seed on.", 1, 1000, flag_values=values)
    flags.DEFINE_integer("jobs", None, "Runs at a time; by default one a core, or GPU.", 1, flag_values=values)
    flags.DEFINE_integer(
        "num_draws", None, "Of log p(x) where it is not known; by default 1000.", 1, flag_values=values
    )
    flags.DEFINE_string("workdir", "runs/sweep", "Folder of the runs.", flag_values=values)
    flags.DEFINE_boolean("results", False, "Also write results/NAME.json.", flag_values=values)
    _parse(values, argv, before_config=True)
    if _wants_help(argv):
        raise _Help(values, ConfigDict())
    titles = [configs.title(name) for name in values.models]
    if not titles or len(set(titles)) < len(titles):
        given = ",".join(values.models)
        raise UsageError(f"--models={given} must be one or more, each once, of {', '.join(configs.names())}")
    plans = {}
    for name in values.models:
        fields = flags.FlagValues()
        plans[name] = _overridden(fields, _load(name), [a for a in argv if a.startswith("--config.")])
    with _quiet():
        from keras_genmnist import sweep
    given = [a for a in argv if a.startswith("--config.")]
    sweep.sweep(plans, values.seeds, Path(values.workdir), given, values.num_draws, values.jobs, values.results)


def mix(argv: list[str]) -> None:
    """Make one model of trained runs, with the shares under which validation images are the likeliest.

    genmnist mix --workdirs=DIR,DIR,... [--workdir=runs/mixture] [--average=images|places] [--num_draws=100]
    """
    values = flags.FlagValues()
    flags.DEFINE_list("workdirs", [], "Directories of the runs.", flag_values=values)
    flags.DEFINE_string("workdir", "runs/mixture", "Directory of what is made.", flag_values=values)
    meaning = "What is averaged: densities of whole images, or of PixelCNNs those of each place given the ones before."
    flags.DEFINE_enum("average", "images", ["images", "places"], meaning, flag_values=values)
    flags.DEFINE_integer("num_draws", 100, "Of log p(x) where it is not known.", 1, flag_values=values)
    _parse(values, argv)
    if len(values.workdirs) < 2:
        raise UsageError(f"--workdirs={','.join(values.workdirs)}: give two runs or more, each once")
    with _quiet():
        from keras_genmnist import mixing, runs
    those = [runs.load(Path(workdir)) for workdir in values.workdirs]
    mixing.mix(those, Path(values.workdir), values.num_draws, _command("mix", argv), values.average)


def list_models(argv: list[str]) -> None:
    """List the models.

    genmnist list
    """
    _parse(flags.FlagValues(), argv)
    width = max(map(len, configs.names()))
    for name in configs.names():
        print(f"{name:{width}}  {configs.description(name)}  configs/{name}.py")


SEEDS = (0, 2**31 - 1)
YEAR = 525_600  # minutes
MOST_IN_FLIGHT = 1000  # requests, one a connection: a server has no more, and a thread for each
PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".eps")
# The image sets it: a container is reached from outside of it or not at all.
HOST = os.environ.get("GENMNIST_HOST", "127.0.0.1")
NEXT = """To begin, at once with what comes trained, or in a few minutes with the digits in the package:

  genmnist serve                           an explorer at http://localhost:8501

  genmnist train --model=vae --config.dataset=mnist_5k
  genmnist figures --model=vae
  genmnist export --model=vae
  genmnist serve --export=exports/vae      the same explorer, of your own model

With Docker, type `docker run -v genmnist-work:/work -p 127.0.0.1:8501:8501 IMAGE` in place of `genmnist`.
`genmnist VERB --help` tells a verb's flags."""
VERBS = {
    "train": train,
    "tune": tune,
    "evaluate": evaluate,
    "classifier": classifier,
    "figures": figures,
    "report": report,
    "export": export,
    "encode": encode,
    "score": score,
    "sample": sample,
    "serve": serve,
    "gap": gap,
    "compare": compare,
    "sweep": sweep,
    "mix": mix,
    "list": list_models,
}


class _Help(Exception):
    """A verb was asked for its flags."""

    def __init__(self, values: flags.FlagValues, config: ConfigDict):
        described = [(f"--{name}={values[name].default}", values[name].help) for name in values]
        described += [("--debug", "On an error, show the traceback too.")]
        lines = [f"  {flag:30}{text}" for flag, text in described]
        lines += ["", "Fields of the config, of which docs/models.md says more:"] * bool(config)
        lines += [f"  {f'--config.{field}={value}':42}{meaning}" for field, value, meaning in fields.described(config)]
        super().__init__("\n".join(lines))


def main() -> None:
    """Runs the verb named on the command line and exits: 0 done, 2 usage, 3 fault, 130 or 143 stopped by a signal."""
    _ready_streams()
    warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
    debug = "--debug" in sys.argv[1:]
    with _stopped_by_signals():
        try:
            try:
                _run(sys.argv[1:] or ["--help"])
                sys.stdout.flush()
            except Exception as error:
                told = _told(error)
                if told is error:
                    raise
                raise told from error
        except (UsageError, Fault) as error:
            if debug:
                traceback.print_exc()
            with contextlib.suppress(OSError):  # standard error is full or closed; the status still tells
                print(f"genmnist: {error}", file=sys.stderr, flush=True)
            _give_up_unwritten()
            sys.exit(error.exit_code)


def _run(arguments: list[str]) -> None:
    for argument in arguments:
        # Line breaks and other controls; surrogates: what is no text in the encoding of the locale.
        if {"Cc", "Cs", "Zl", "Zp"} & set(map(unicodedata.category, argument)):
            raise UsageError(f"{argument!a} is not one line of UTF-8 text: give names that are, in a UTF-8 locale")
    verb, *argv = arguments
    if verb in ("--help", "-h", "help"):
        print(_help())
    elif verb == "--version":
        from keras_genmnist import __version__

        print(__version__)
    elif verb not in VERBS:
        raise UsageError(f"unknown verb {verb!r}{configs.suggest(verb, list(VERBS))} Verbs: {', '.join(VERBS)}")
    else:
        try:
            VERBS[verb]([_at_home(argument) for argument in argv if argument != "--debug"])
        except _Help as wanted:
            print(f"{inspect.getdoc(VERBS[verb])}\n\n{wanted}")


def _at_home(argument: str) -> str:
    """--flag=~/path with the home directory in place of ~, which not every shell puts there."""
    flag, equals, value = argument.partition("=")
    return flag + equals + os.path.expanduser(value) if equals and flag.startswith("-") else argument


def _told(error: Exception) -> Exception:
    """What the system refused, in one line; of another error, itself."""
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
        said = re.search(r"OOM when allocating .*?(?= by |$)", str(error), re.M)
        told = said[0] if said else " ".join(str(error).split())
        return Fault(f"not enough memory: {told or 'an allocation failed'}")
    if not isinstance(error, OSError):
        return error
    if error.filename is None:  # what writes to files says to which
        return Fault(f"cannot write to standard output: {error.strerror or error}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Fault(f"cannot write {error.filename}: {error.strerror}; make room, and give the same command again")
    if isinstance(error, PermissionError):
        return UsageError(f"no permission for {error.filename}: give a path that you may use")
    return UsageError(f"cannot use {error.filename}: {error.strerror}; give another path")


def _ready_streams() -> None:
    """Has every standard stream open, and text in any encoding fit for it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: else the next file to be opened would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is


def _show_warning(others: Callable, message, category, filename, *more, **given) -> None:
    """What this package warns of in one line, as an error; what others do, as `others` shows it."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        print(f"genmnist: {message}", file=sys.stderr, flush=True)
    else:
        others(message, category, filename, *more, **given)


def _give_up_unwritten() -> None:
    """Forgets what a stream does not take: at the end of the process it would fail again, and change the status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ends the process with status 130 at SIGINT and 143 at SIGTERM, whatever it does, by an exception.

    What a `__del__` or a callback raises, Python only reports: then the signal comes again once that has returned.  A
    process that is number 1 in its container ignores signals it has no handler for.
    """
    received: list[int] = []

    def stop(signum, frame):
        received.append(signum)
        sys.exit(128 + signum)

    def unraisable(report):
        if received and isinstance(report.exc_value, SystemExit):
            threading.Timer(0.01, os.kill, (os.getpid(), received[-1])).start()
        else:
            reported(report)

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in the background
        numbers.append(signal.SIGINT)
    reported, sys.unraisablehook = sys.unraisablehook, unraisable
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        # Nothing is left to be done, and an exception while Python ends would be lost.
        for number in numbers:
            signal.signal(number, lambda signum, frame: os._exit(128 + signum))
        sys.unraisablehook = reported
        if signal.SIGINT in received:
            print("genmnist: interrupted", file=sys.stderr)
        if received:
            sys.exit(128 + received[-1])


def _help() -> str:
    verbs = "\n".join(f"  {name:12}{function.__doc__.splitlines()[0]}" for name, function in VERBS.items())
    return f"genmnist: deep generative models of MNIST\n\n{verbs}\n\n{NEXT}"


def _run_flags(workdir: str = "runs/MODEL") -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model", None, f"One of {', '.join(configs.names())}, or a file of your own.", flag_values=values
    )
    flags.DEFINE_string("workdir", None, f"Directory of the run; {workdir} by default.", flag_values=values)
    return values


def _trained_flags() -> flags.FlagValues:
    values = _run_flags()
    flags.DEFINE_string(
        "pretrained", None, "Instead of a run: a model that comes with genmnist, as vae_2d.", flag_values=values
    )
    return values


def _train_flags() -> flags.FlagValues:
    values = _run_flags()
    flags.DEFINE_string(
        "config_from", None, "A run's directory or a results/NAME.json, for its config.", flag_values=values
    )
    flags.DEFINE_string(
        "init_from", None, "A run's directory, for the weights that training starts from.", flag_values=values
    )
    _define_devices(values)
    return values


def _define_devices(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "devices", None, "all; GPUs by number, 0,1; cpu; or cpu:4, parts of it.  By default all.", flag_values=values
    )
    flags.DEFINE_list(
        "workers", [], "HOST:PORT of each process that takes part; else as TF_CONFIG says.", flag_values=values
    )
    flags.DEFINE_integer("index", None, "Which of --workers this one is; 0 writes.", 0, flag_values=values)


def _check_index(values: flags.FlagValues) -> None:
    if values.workers and values.index not in range(len(values.workers)):
        given = "is not given" if values.index is None else f"is {values.index}"
        raise UsageError(f"--index {given}: say which of the {len(values.workers)} --workers this is, from 0")
    if values.index is not None and not values.workers:
        raise UsageError(f"--index={values.index} needs --workers=HOST:PORT,HOST:PORT,... that it counts")


def _command(verb: str, argv: list[str]) -> str:
    """What was typed, for the record."""
    return shlex.join(["genmnist", verb, *argv])


def _parse(values: flags.FlagValues, argv: list[str], before_config: bool = False) -> None:
    """Parses the flags, and refuses what is not one; fields of a config too, unless they are still to be defined."""
    try:
        rest = values(["genmnist", *(a for a in argv if not _wants_help([a]))], known_only=True)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(_plain(error)) from error
    stray = [a for a in rest if a != "--" and not (before_config and a.startswith("--config."))]
    if stray and stray[0].startswith("--"):
        known = sorted(name for name in values if name != "config" and not name.startswith("config."))
        name = stray[0].removeprefix("--").split("=")[0]
        near = configs.suggest(name, known)
        if before_config and name in fields.MEANINGS:
            near = f"; did you mean --config.{name}?"
        accepted = ", ".join(known + before_config * ["config.FIELD"]) or "none"
        raise UsageError(f"unknown flag {stray[0]!r}{near} Flags: {accepted}")
    if stray:
        raise UsageError(f"unexpected argument {stray[0]!r}; flags are --name=value, config fields --config.name=value")
    if _wants_help(argv) and not before_config:
        raise _Help(values, ConfigDict())


def _plain(error: Exception) -> str:
    """The message of absl in one line; what Python says of a value of the wrong type says what is accepted instead."""
    message = " ".join(str(error).split())
    accepted = {
        "invalid literal for int()": "give a whole number",
        "could not convert string to float": "give a number",
        "('Non-boolean argument": "give true or false",
    }
    for said, advice in accepted.items():
        if said in message:
            return message[: message.index(said)] + advice
    return message


def _overridden(values: flags.FlagValues, config: ConfigDict, argv: list[str]) -> ConfigDict:
    """`config`, changed by the --config.FIELD=VALUE flags."""
    for field in _fields(argv):
        if field not in config:
            near = configs.suggest(field, list(config))
            raise UsageError(f"unknown config field {field!r}{near} Fields: {', '.join(sorted(config))}")
    try:
        config_flags.DEFINE_config_dict("config", config, "Fields of the config.", values, sys_argv=argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise UsageError(_plain(error)) from error
    _parse(values, argv)
    return config


def _fields(argv: list[str]) -> list[str]:
    """The fields of the config that are given."""
    return [a.removeprefix("--config.").split("=")[0] for a in argv if a.startswith("--config.")]


def _folder_of_pictures(values: flags.FlagValues, format_flag: str = "") -> Path:
    """--out, which names a folder: the pictures in it have names of their own."""
    out = Path(values.out)
    if out.suffix.lower() in PICTURES and not out.is_dir():
        choice = f", and {format_flag}=png, pdf or svg" if format_flag else ""
        raise UsageError(f"--out={out} looks like the name of a file: give the name of a folder{choice}")
    return out


def _pairs(values: flags.FlagValues) -> list[tuple[int, int]]:
    """--pairs, two by two."""
    numbers = ",".join(values.pairs).split(",") if values.pairs else []
    if len(numbers) % 2 or not all(re.fullmatch("[0-9]{1,9}", number) for number in numbers):
        raise UsageError(f"--pairs={','.join(numbers)} is not pairs of test images: give two numbers, or 3,5,12,8 ...")
    if numbers and values.which and not {"interpolation", "traversals"} & set(values.which):
        raise UsageError(f"--pairs={','.join(numbers)} needs --which=interpolation, or traversals")
    return [(int(first), int(second)) for first, second in zip(numbers[::2], numbers[1::2], strict=True)]


def _wants_help(argv: list[str]) -> bool:
    return "--help" in argv or "-h" in argv


def _trained(values: flags.FlagValues):
    """The run that --workdir, --model or --pretrained names."""
    if values.pretrained and (values.model or values.workdir):
        raise UsageError("give either --pretrained or a run by --model or --workdir, not both")
    from keras_genmnist import runs, zoo

    if values.pretrained:
        return zoo.run(values.pretrained)
    name = values.model and configs.title(values.model)
    workdir = _workdir(values, name)
    if name and not values.workdir and not runs.exists(workdir):
        _load(values.model)  # refuses a misspelt name
        if values.model in zoo.names():
            raise UsageError(
                f"no run in {workdir}: train one with `genmnist train --model={name}`, or take the one that comes with "
                f"genmnist by --pretrained={name}"
            )
    run = runs.load(workdir, values.model or "NAME")
    if name and name != run.name:
        raise UsageError(f"{run.workdir} holds a run of {run.name}, not of {name}: give --workdir={run.workdir} alone")
    return run


def _workdir(values: flags.FlagValues, name: str | None = None) -> Path:
    """The directory given, or else that of a run of the config `name`."""
    if not values.workdir and name is None:
        others = {"workdir": "the --workdir=DIR of a run", "pretrained": "--pretrained=NAME", "export": "--export=DIR"}
        ways = [
            f"--model=NAME, one of {', '.join(configs.names())}",
            *(others[flag] for flag in others if flag in values),
        ]
        raise UsageError(f"give {'; '.join(ways[:-1])}; or {ways[-1]}")
    return Path(values.workdir or Path("runs") / name)


def config_of(argv: list[str]) -> ConfigDict:
    """The config that `genmnist train` with these arguments, --model among them, begins a run of.

    Raises:
      UsageError: if it would refuse them.
    """
    values = _train_flags()
    _parse(values, argv, before_config=True)
    return _overridden(values, _load(values.model), argv)


def _load(name: str) -> ConfigDict:
    """The config with this name, or in the file with this path.

    Raises:
      UsageError: if there is none.
    """
    if configs.is_path(name):  # it may import TensorFlow
        with _quiet():
            pass
    return configs.load(name)


@contextlib.contextmanager
def _quiet():
    """Hides what TensorFlow's C++ code writes to standard error while it is imported, before any log level counts.

    Of that, says what is left: why a GPU is not used.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.memfd_create("stderr"), "rb") as said:
        os.dup2(said.fileno(), 2)
        try:
            # Else TensorFlow imports Keras 3 too, and with it matplotlib, which takes a second: nothing here uses it.
            os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
            from keras_genmnist import device

            device.prepare()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        if reason := device.why_unused(said.read().decode(errors="replace")):
            print(f"genmnist: {reason}", file=sys.stderr, flush=True)
    yield
