"""The command line: one line and an exit status for everything that can go wrong, and each verb's work."""

import contextlib
import errno
import io
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import keras_genmnist
from keras_genmnist import classifier, cli, fields, models, runs, signatures, training
from keras_genmnist import config as configs
from tests import tiny

eager = tiny.eager
ROOT = Path(__file__).parent.parent


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Calls a program's main function with a command line, in an empty folder; returns its Outcome."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(main, *arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["genmnist", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as exit_:
            status = exit_.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Outcome(status, *capsys.readouterr())

    return call


@pytest.fixture
def genmnist(call):
    """Calls `genmnist ARGUMENTS`."""
    return lambda *arguments: call(cli.main, *arguments)


def assert_one_line(outcome: Outcome, status: int, *parts: str) -> None:
    """One line on standard error, that holds all the parts, and this exit status."""
    assert outcome.status == status, outcome
    assert outcome.err.startswith("genmnist: ") and outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in map(str, parts):
        assert part in outcome.err


# Help


@pytest.mark.parametrize("flag", ["--help", "-h", "help"])
def test_help_lists_the_verbs(flag, genmnist):
    status, out, err = genmnist(flag)
    assert (status, err) == (0, "")
    for verb in ("train", "evaluate", "figures", "export", "sample", "list"):
        assert f"\n  {verb} " in out


def test_no_arguments_is_help(genmnist):
    assert genmnist() == genmnist("--help")


def test_help_says_what_to_do_first(genmnist):
    commands = [shlex.split(line)[1:] for line in re.findall(r"^  (genmnist \w+ --[^\n]*)", genmnist().out, re.M)]
    assert [verb for verb, *_ in commands] == ["train", "figures", "export", "serve"]
    assert cli.config_of(commands[0][1:]).dataset == "mnist_5k"


VERB_FLAGS = {
    "train": ["--model", "--workdir", "--config_from", "--init_from", "--devices", "--workers", "--index"],
    "tune": [
        *("--model", "--workdir", "--search", "--trials", "--epochs", "--objectives", "--pruner"),
        *("--storage", "--study", "--jobs", "--threads", "--summary", "--finish"),
    ],
    "evaluate": [
        *("--model", "--workdir", "--num_draws", "--proposal", "--per_image", "--results"),
        *("--devices", "--workers", "--index"),
    ],
    "classifier": ["--dataset", "--image_size", "--invert", "--seeds"],
    "figures": ["--model", "--workdir", "--which", "--pairs", "--label", "--seed", "--format", "--out"],
    "report": ["--model", "--workdir", "--out"],
    "export": ["--model", "--workdir", "--format", "--out"],
    "encode": ["--model", "--workdir", "--images", "--out"],
    "sample": ["--model", "--workdir", "--export", "--num_samples", "--seed", "--out"],
    "score": ["--model", "--workdir", "--export", "--images", "--against", "--num_draws", "--out"],
    "serve": [
        "--export",
        "--host",
        "--port",
        "--max_in_flight",
        "--max_body_mb",
        "--allow_host",
        "--allow_origin",
        "--token_file",
    ],
    "gap": ["--model", "--workdir", "--num_images", "--results", "--out"],
    "compare": ["--models", "--minutes", "--dataset", "--num_draws", "--workdir", "--out"],
    "sweep": ["--models", "--seeds", "--jobs", "--num_draws", "--workdir", "--results"],
    "mix": ["--workdirs", "--workdir", "--num_draws"],
    "list": [],
}


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_tells_its_usage_and_flags(verb, genmnist):
    status, out, err = genmnist(verb, "--help")
    assert (status, err) == (0, "")
    assert f"genmnist {verb}" in out
    for flag in VERB_FLAGS[verb]:
        assert f"{flag}=" in out.split("\n\n", 2)[-1], f"{flag} is not described"


@pytest.mark.parametrize("model", ["vae", str(ROOT / "examples" / "ring.py")])
def test_help_of_train_tells_the_fields_of_the_config_and_what_they_mean(model, genmnist):
    status, out, err = genmnist("train", f"--model={model}", "--help")
    assert (status, err) == (0, "")
    told = dict(re.findall(r"^  --config\.(\w+)=\S* *(.*)$", out, re.M))
    assert told == {field: fields.MEANINGS.get(field, "") for field in configs.load(model)}
    assert told["batch_size"] == "Images in a training step."


def test_every_field_of_a_config_has_a_meaning_and_every_meaning_a_field():
    assert {field for name in configs.names() for field in configs.load(name)} == fields.MEANINGS.keys()


def test_version_is_the_packages(genmnist):
    assert genmnist("--version") == (0, keras_genmnist.__version__ + "\n", "")


def test_list_names_every_config_with_its_paper(genmnist):
    status, out, err = genmnist("list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == configs.names()
    for line, name in zip(lines, configs.names(), strict=True):
        assert configs.description(name) in line and f"configs/{name}.py" in line


# Bad usage


MODELS = ", ".join(configs.names())
# As given, and what the line must name: the value and what is accepted.
BAD_USAGE = {
    "unknown verb": (["trian"], ["'trian'", "did you mean train?", "evaluate, classifier, figures"]),
    "unknown model": (["train", "--model=vea"], ["'vea'", "did you mean vae?", MODELS]),
    "unknown model, far": (["train", "--model=zzzzzz"], ["'zzzzzz'", MODELS]),
    "model without value": (["train", "--model="], ["''", MODELS]),
    "no model": (["train"], ["--model=NAME", MODELS]),
    "no model, no run": (["train", "--workdir=new"], ["no run in new", "--model=NAME", MODELS]),
    "unknown field": (["train", "--model=vae", "--config.latent_sze=3"], ["latent_sze", "latent_size"]),
    "unknown field, far": (["train", "--model=vae", "--config.zzzz=3"], ["zzzz", "latent_size", "batch_size"]),
    "mistyped int": (["train", "--model=vae", "--config.latent_size=abc"], ["latent_size", "abc", "whole number"]),
    "float for int": (["train", "--model=vae", "--config.latent_size=2.5"], ["latent_size", "2.5", "whole number"]),
    "empty int": (["train", "--model=vae", "--config.latent_size="], ["latent_size", "whole number"]),
    "mistyped float": (["train", "--model=vae", "--config.learning_rate=fast"], ["learning_rate", "fast", "number"]),
    "mistyped bool": (
        ["train", "--model=vae", "--config.jit_compile=maybe"],
        ["jit_compile", "maybe", "true or false"],
    ),
    "field without value": (["train", "--model=vae", "--config.epochs"], ["config.epochs"]),
    "out of range": (["train", *tiny.flags(latent_size=0)], ["latent_size=0", "1 or more"]),
    "out of range, float": (["train", *tiny.flags(clip_norm=-0.1)], ["clip_norm=-0.1", "0 (none) or more"]),
    "no whole number": (["train", *tiny.flags(epochs=10**20)], [f"epochs={10**20}", "at most 1000000000"]),
    "no float32": (["train", *tiny.flags(learning_rate=1e39)], ["learning_rate=1e+39", "above 0, finite"]),
    "no such memory": (["train", *tiny.flags(hidden_size=10**9)], ["784 x 1000000000", "TB of memory, there are"]),
    "no such draws": (
        ["train", *tiny.flags(bound="iwae", train_draws=10**9)],
        ["config.train_draws=1000000000", "TB of memory, there are"],
    ),
    "config without field": (["train", "--model=vae", "--config=x.py"], ["--config=x.py"]),
    "no Python file": (["train", "--model=examples/ring"], ["examples/ring is no Python file", "ends in .py"]),
    "no run at home": (["evaluate", "--workdir=~/no~run"], [f"no run in {os.path.expanduser('~')}/no~run"]),
    "stray positional": (["train", "--model=vae", "5"], ["'5'", "--name=value"]),
    "stray after --": (["train", "--model=vae", "--", "5"], ["unexpected argument"]),
    "unknown flag": (
        ["train", "--model=vae", "--epochs=5"],
        ["'--epochs=5'", "Flags: config_from, devices, index, init_from, model, workdir, workers"],
    ),
    "unknown flag of a config": (["train", "--config_form=x"], ["'--config_form=x'", "did you mean config_from?"]),
    "field without its prefix": (["train", "--epochs=3"], ["unknown flag '--epochs=3'; did you mean --config.epochs?"]),
    "unknown flag, near": (["evaluate", "--modle=vae"], ["'--modle=vae'", "did you mean model?", "num_draws"]),
    "unknown flag of none": (["list", "--all"], ["'--all'", "Flags: none"]),
    "config field of no training": (["evaluate", "--config.seed=1"], ["'--config.seed=1'", "Flags: devices"]),
    "num_draws=0": (["evaluate", "--model=vae", "--num_draws=0"], ["num_draws=0", "positive"]),
    "num_draws=many": (["evaluate", "--model=vae", "--num_draws=many"], ["num_draws", "many", "whole number"]),
    **{
        f"per_image={name!r}": (
            ["evaluate", "--model=vae", f"--per_image={name}"],
            [f"--per_image={name} ", ".csv", ".npz"],
        )
        for name in ("images.txt", "images", ".csv", "images.CSV", "")
    },
    "proposal=prior": (["evaluate", "--model=vae", "--proposal=prior"], ["proposal=prior", "posterior", "defensive"]),
    "num_samples=0": (["sample", "--model=vae", "--num_samples=0"], ["num_samples=0", "positive"]),
    "num_images=1": (["gap", "--model=vae", "--num_images=1"], ["num_images=1", "2"]),
    "empty workdir": (["evaluate", "--workdir="], ["--model=NAME", MODELS, "--workdir=DIR", "or --pretrained=NAME"]),
    "sample nothing": (["sample"], ["--model=NAME", "--workdir=DIR", "--pretrained=NAME; or --export=DIR"]),
    "half a name": (["sample", "--pretrained=vae"], ["did you mean vae_2d?"]),
    "minutes=nan": (["compare", "--models=vae,iaf", "--minutes=nan"], ["--minutes=nan", "above 0"]),
    "minutes=1e9": (["compare", "--models=vae,iaf", "--minutes=1e9"], ["--minutes=1000000000.0", "525600"]),
    "format=gif": (["figures", "--model=vae", "--format=gif"], ["format", "gif", "png|pdf|svg"]),
    "figures into a file": (["figures", "--model=vae", "--out=means.pdf"], ["means.pdf", "a folder", "--format=png"]),
    "gap into a file": (["gap", "--model=vae", "--out=gap.PNG"], ["gap.PNG", "a folder"]),
    "compare into a file": (["compare", "--models=vae,iaf", "--out=x/c.svg"], ["x/c.svg", "a folder"]),
    "an image alone": (["figures", "--model=vae", "--pairs=3"], ["--pairs=3", "two numbers"]),
    "three images": (["figures", "--model=vae", "--pairs=3,5", "--pairs=7"], ["--pairs=3,5,7", "two numbers"]),
    "no images": (["figures", "--model=vae", "--pairs=3,x"], ["--pairs=3,x", "two numbers"]),
    "image -1": (["figures", "--model=vae", "--pairs=-1,3"], ["--pairs=-1,3", "two numbers"]),
    "pairs of nothing": (
        ["figures", "--model=vae", "--which=samples", "--pairs=3,5"],
        ["--pairs=3,5", "--which=interpolation"],
    ),
    "compare a file": (["compare", "--models=vae,own/ring.py"], ["own/ring.py", "takes no file", "sweep"]),
    "compare nothing": (["compare"], ["--models=", "two or more", MODELS]),
    "compare with itself": (["compare", "--models=vae,vae"], ["vae,vae", "each once"]),
    "compare what is not": (["compare", "--models=vae,vea"], ["'vea'", "did you mean vae?", MODELS]),
    "seed=-1": (["sample", "--model=vae", "--seed=-1"], ["seed", "-1", "0", "2147483647"]),
    "export and run": (["sample", "--model=vae", "--export=exports/vae"], ["--export", "--model", "not both"]),
    "no such export": (["sample", "--export=nowhere"], ["nowhere", "genmnist export"]),
    "list takes nothing": (["list", "vae"], ["'vae'"]),
}


@pytest.mark.parametrize("arguments, parts", BAD_USAGE.values(), ids=BAD_USAGE)
def test_bad_usage_is_one_line_and_exit_2(arguments, parts, genmnist, tmp_path):
    outcome = genmnist(*arguments)
    assert_one_line(outcome, 2, *parts)
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_model_of_ones_own_is_not_taken_for_the_pretrained_one_of_its_name(genmnist):
    code = "from keras_genmnist import config\n\n\ndef get_config():\n    return config.load('vae')\n"
    Path("vae_2d.py").write_text(code)
    outcome = genmnist("figures", "--model=vae_2d.py")
    assert_one_line(outcome, 2, "no run in runs/vae_2d", "--model=vae_2d.py")
    assert "--pretrained" not in outcome.err


@pytest.mark.parametrize("verb", ["evaluate", "figures", "export", "sample", "gap"])
def test_verb_on_a_run_that_does_not_exist_is_one_line_and_exit_2(verb, genmnist):
    assert_one_line(genmnist(verb, "--workdir=nowhere"), 2, "no run in nowhere", "genmnist train")
    assert_one_line(genmnist(verb, "--model=vae"), 2, "no run in runs/vae", "genmnist train")
    assert_one_line(genmnist(verb, "--model=vae_2d"), 2, "no run in runs/vae_2d", "--pretrained=vae_2d")
    assert_one_line(genmnist(verb), 2, "--model=NAME", MODELS, "--workdir=DIR")


@pytest.mark.parametrize("verb", ["train", "evaluate", "figures", "export", "sample", "gap"])
def test_verb_on_a_run_of_another_model_is_one_line_and_exit_2(verb, genmnist, run):
    before = set(run.workdir.rglob("*"))
    outcome = genmnist(verb, f"--workdir={run.workdir}", "--model=vae_conv")
    assert_one_line(outcome, 2, run.workdir, "a run of vae, not of vae_conv")
    assert set(run.workdir.rglob("*")) - before <= {run.workdir / ".lock"}


def test_unknown_figure_is_one_line_with_a_suggestion(genmnist, run):
    outcome = genmnist("figures", f"--workdir={run.workdir}", "--which=sample,nonsense")
    assert_one_line(outcome, 2, "'sample'", "did you mean samples?", "training_curves")


def test_train_with_another_config_is_one_line_naming_the_fields(genmnist, run):
    config = [f"--config.{field}={value}" for field, value in run.config.items()]
    outcome = genmnist("train", f"--workdir={run.workdir}", "--model=vae", *config, "--config.latent_size=9")
    assert_one_line(outcome, 2, "latent_size is 2 there, 9 here", f"genmnist train --workdir={run.workdir}")


def test_train_in_a_workdir_in_use_is_one_line_and_exit_3(genmnist, run):
    with runs.lock(run.workdir):  # which passes, so that a scheduler may try again
        assert_one_line(genmnist("train", f"--workdir={run.workdir}"), 3, "another process", run.workdir)
        other = genmnist("train", f"--workdir={run.workdir}", "--config.latent_size=9")
        assert_one_line(other, 2, "latent_size is 2 there, 9 here")  # which waiting would not mend
    assert genmnist("train", f"--workdir={run.workdir}").status == 0


def test_train_into_a_file_is_one_line_and_exit_2(genmnist, tmp_path):
    (tmp_path / "file").write_text("")
    assert_one_line(genmnist("train", "--workdir=file", *tiny.flags()), 2, "cannot write", "file")


def test_damaged_run_is_one_line_and_exit_3(genmnist, run):
    shutil.copytree(run.workdir, "copy")
    for path in Path("copy").rglob("*.index"):
        path.write_bytes(b"")
    (status, out, err) = genmnist("export", "--workdir=copy")
    assert (status, out) == (3, "")
    assert "none of the 1 checkpoints in copy/best can be restored" in err
    for path in Path("copy").rglob("config.json"):
        path.write_text("{")
    for verb in ("train", "evaluate", "figures", "export", "sample"):
        assert_one_line(genmnist(verb, "--workdir=copy"), 3, "config.json", "damaged")


def test_run_without_metrics_is_one_line_and_no_traceback(genmnist, run):
    shutil.copytree(run.workdir, "copy")
    Path("copy/metrics.jsonl").unlink()
    assert_one_line(genmnist("evaluate", "--workdir=copy", "--num_draws=1"), 3, "copy/metrics.jsonl")
    assert_one_line(genmnist("figures", "--workdir=copy"), 3, "copy/metrics.jsonl")


def test_a_path_that_may_not_be_read_is_one_line_and_exit_2(genmnist, monkeypatch):
    def exists(workdir):
        raise PermissionError(13, "Permission denied", str(workdir / "config.json"))

    monkeypatch.setattr(runs, "exists", exists)
    assert_one_line(genmnist("evaluate", "--workdir=theirs"), 2, "no permission for theirs/config.json")


def test_debug_shows_the_traceback_too(genmnist):
    plain = genmnist("train", "--model=vea")
    status, out, err = genmnist("train", "--model=vea", "--debug")
    assert (status, out) == (2, "")
    assert err.startswith("Traceback (most recent call last):") and err.endswith(plain.err)


def test_corrected_command_trains_in_the_same_workdir(genmnist, eager):
    assert genmnist("train", "--workdir=w", *tiny.flags(learning_rate=-1.0)).status == 2
    assert genmnist("train", "--workdir=w", *tiny.flags(epochs=1)).status == 0
    assert json.loads(Path("w/config.json").read_text())["config"]["learning_rate"] > 0


# train.py


def test_train_py_is_genmnist_train(call, genmnist, run):
    def train_py():
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")

    for arguments in (["--model=vea"], tiny.flags(epochs=0), [f"--workdir={run.workdir}"], ["--help"]):
        assert call(train_py, *arguments) == genmnist("train", *arguments)


def test_default_workdir_is_named_by_the_model(genmnist, eager):
    assert genmnist("train", *tiny.flags(epochs=1)).status == 0
    assert runs.load(Path("runs/vae")).command == shlex.join(["genmnist", "train", *tiny.flags(epochs=1)])
    assert "runs/vae is finished" in genmnist("train", "--model=vae", *tiny.flags(epochs=1)).out


# Signals


@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_in_training_saves_says_how_to_resume_and_resumes(signum, status, genmnist, monkeypatch, eager):
    monkeypatch.setattr(training, "SECONDS_PER_CALL", 1e-9)  # one step a call
    train_epoch, sent = training.Training.train_epoch, []

    def signalled(self, chunks, on_steps, stopped):
        def on_steps_and_signal(num_steps):
            on_steps(num_steps)
            if self.step == tiny.STEPS + 2 and not sent:
                sent.append(signum)
                os.kill(os.getpid(), signum)

        train_epoch(self, chunks, on_steps_and_signal, stopped)

    monkeypatch.setattr(training.Training, "train_epoch", signalled)
    stopped = genmnist("train", "--workdir=w", *tiny.flags())
    assert stopped.status == status
    assert f"stopped at step {tiny.STEPS + 2}" in stopped.out + stopped.err
    _, *command = shlex.split((stopped.out + stopped.err).split("resume with `")[1].split("`")[0])
    resumed = genmnist(*command)
    assert resumed.status == 0
    assert f"step {tiny.STEPS + 2} of {2 * tiny.STEPS}" in resumed.out
    assert [row["epoch"] for row in runs.read_metrics(runs.load(Path("w")))] == [1, 2]


@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_the_model_is_built_leaves_no_run(signum, status, genmnist, monkeypatch):
    monkeypatch.setattr(models, "build", lambda *arguments: os.kill(os.getpid(), signum))
    outcome = genmnist("train", "--workdir=w", *tiny.flags())
    assert outcome.status == status
    assert outcome.err.count("\n") <= 1
    assert not runs.exists(Path("w"))


@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_while_tensorflow_is_imported_ends_without_traceback(signum, status, tmp_path):
    process = tiny.start("train", *tiny.flags(), cwd=tmp_path)

    def importing():
        with contextlib.suppress(OSError):
            return "tensorflow" in Path(f"/proc/{process.pid}/maps").read_text()

    tiny.wait_for(importing, process)
    process.send_signal(signum)
    out, err = process.communicate()
    assert process.returncode == status
    assert out == "" and "Traceback" not in err and err.count("\n") <= 1
    assert not runs.exists(tmp_path / "runs" / "vae")


SWALLOWED = """
import os, signal, sys, time
from keras_genmnist import cli

class Deaf:
    def __init__(self, kill):
        self.kill = kill
    def __del__(self):
        if self.kill:
            os.kill(os.getpid(), signal.{name})
        time.sleep(0.1)

def verb(argv):
    try:
        Deaf(kill=True)
        Deaf(kill=False)  # while the signal comes again
        for _ in range(500):
            time.sleep(0.01)
    finally:
        print("cleaned up")

cli.VERBS["list"] = {verb}
cli.main()
"""


@pytest.mark.parametrize("verb", ["verb", "lambda argv: Deaf(kill=True)"], ids=["midway", "at the end"])
@pytest.mark.parametrize("name, status, said", [("SIGTERM", 143, ""), ("SIGINT", 130, "genmnist: interrupted\n")])
def test_signal_in_a_destructor_ends_the_process(name, status, said, verb):
    code = SWALLOWED.format(name=name, verb=verb)
    ended = subprocess.run(
        [sys.executable, "-c", code, "list"], env=tiny.environment(), capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (status, said)
    assert ended.stdout == ("cleaned up\n" if verb == "verb" else "")


def test_signal_after_all_work_ends_the_process_with_its_status():
    code = "import os, atexit; from keras_genmnist.cli import main; atexit.register(os.kill, os.getpid(), 15); main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "--version"], env=tiny.environment(), capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (143, "")


def test_signal_after_the_last_step_ends_the_process(genmnist, monkeypatch, eager):
    finish = training.Training.finished

    def finished(self):
        if finish.fget(self) and self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        return finish.fget(self)

    monkeypatch.setattr(training.Training, "finished", property(finished))
    assert genmnist("train", "--workdir=w", *tiny.flags(epochs=1)).status == 143
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--pretrained=vae_3d"], ["no pretrained model 'vae_3d'; did you mean vae_2d?"]),
        (["--export=nowhere"], ["no SavedModel in nowhere", "exports/NAME"]),
        (["--export=vae", "--export=vae/1"], ["two exports are named vae"]),
        (["--export=vae", "--port=99999"], ["--port"]),
        (["--export=vae", "--port=http"], ["--port", "give a whole number"]),
        (["--export=vae", "--max_in_flight=0"], ["--max_in_flight"]),
        (["--export=vae", "--host=no.such.host.invalid"], ["cannot listen on no.such.host.invalid:8501"]),
        (["--export=vae", "--allow_host=http://x"], ["--allow_host=http://x is no name", "without scheme and port"]),
        (["--export=vae", "--allow_origin=x"], ["--allow_origin=x is no origin", "scheme://host[:port]"]),
        (["--export=vae", "--token_file=nowhere"], ["cannot read --token_file=nowhere: No such file"]),
        (["--export=vae", "--max_in_flight=1001"], ["--max_in_flight=1001", "1000"]),
        (["--export=vae", "--token_file="], ["cannot read --token_file=", "a file that holds the token"]),
    ],
)
def test_serve_with_wrong_flags_is_one_line(genmnist, exported, flags, parts):
    Path("vae").symlink_to(exported.parent)
    outcome = genmnist("serve", *flags)
    assert_one_line(outcome, 2, *parts)
    assert outcome.out == ""


# Each verb's work


@pytest.mark.slow
def test_verbs_work_in_a_folder_whose_name_is_a_pattern(genmnist, monkeypatch, eager):
    name = r"a[1]b*\d"  # which, taken as a pattern, does not match itself
    monkeypatch.setattr(classifier, "JUDGES", classifier.JUDGES[:1])  # what takes long is not what is tested
    flags = tiny.flags(epochs=3, patience=1)
    assert genmnist("train", f"--workdir={name}/w", *flags).status == 0
    assert "is finished" in genmnist("train", f"--workdir={name}/w").out
    assert len(list(Path(name, "w/checkpoints").glob("*.index"))) == len(runs.read_metrics(runs.load(Path(name, "w"))))
    assert len(list(Path(name, "w/best").glob("*.index"))) <= 2
    assert len(list(Path(name, "w/tensorboard").iterdir())) == 1
    assert genmnist("evaluate", f"--workdir={name}/w", "--num_draws=2").status == 0
    assert genmnist("figures", f"--workdir={name}/w", "--which=samples", f"--out={name}").status == 0
    assert genmnist("export", f"--workdir={name}/w", f"--out={name}/exports").status == 0
    for source, out in ((f"--workdir={name}/w", "run"), (f"--export={name}/exports/w", "export")):
        assert genmnist("sample", source, "--num_samples=2", f"--out={name}/{out}.png").status == 0
    assert Path(name, "run.npy").read_bytes() == Path(name, "export.npy").read_bytes()


# Names and streams


LONG = "x" * 300
PATHS = {
    "train": [["train", f"--workdir={LONG}", *tiny.flags()], ["train", f"--workdir={LONG}"]],
    "verbs": [[verb, f"--workdir={LONG}"] for verb in ("evaluate", "figures", "export", "sample", "gap")],
    "exports": [["sample", f"--export={LONG}"], ["serve", f"--export={LONG}"]],
    "compare": [["compare", "--models=vae,iaf", f"--workdir={LONG}"]],
}


@pytest.mark.parametrize("kind", PATHS)
def test_name_too_long_is_one_line_and_exit_2(kind, genmnist):
    for arguments in PATHS[kind]:
        assert_one_line(genmnist(*arguments), 2, LONG, "File name too long")
    assert list(Path().iterdir()) == []


def test_picture_whose_name_is_too_long_is_one_line_and_leaves_nothing(genmnist, run):
    for verb, flags in {"sample": [f"--out={LONG}.png"], "export": [f"--out=new/{LONG}"]}.items():
        assert_one_line(genmnist(verb, f"--workdir={run.workdir}", *flags), 2, "File name too long")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[2Jb", "a\udcffb", "a\u2028b", "a\x00b"])
def test_name_that_is_no_line_of_text_is_one_line_and_exit_2(name, genmnist):
    commands = [[verb, f"--workdir={name}"] for verb in ("train", "evaluate", "export")]
    commands += [
        ["train", f"--workdir={name}", *tiny.flags()],
        ["sample", f"--export={name}"],
        ["serve", f"--export={name}"],
    ]
    for arguments in [*commands, ["compare", "--models=vae,iaf", f"--workdir={name}"], [name]]:
        assert_one_line(genmnist(*arguments), 2, ascii(name)[1:-1], "UTF-8")
    assert list(Path().iterdir()) == []


def test_name_that_the_terminal_cannot_show_is_shown_by_its_codes(genmnist, monkeypatch, eager):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert genmnist("train", "--workdir=ü", *tiny.flags(epochs=1)).status == 0
    assert b"finished \\xfc" in written.getvalue()


SHELL = {  # redirection of `genmnist list`, its status and standard error
    ">/dev/full": (3, "genmnist: cannot write to standard output: No space left on device\n"),
    "| sleep 0": (3, "genmnist: cannot write to standard output: Broken pipe\n"),
    ">&-": (0, ""),
    ">/dev/full 2>/dev/full": (3, ""),
    "<&- >&- 2>&-": (0, ""),
}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("redirection", SHELL)
def test_output_that_cannot_be_written_is_one_line_and_exit_3(redirection, unbuffered, tmp_path):
    code = "import time; from keras_genmnist.cli import main; time.sleep(0.5); main()"
    command = f'{shlex.quote(sys.executable)} -c "{code}" list {redirection}; exit ${{PIPESTATUS[0]}}'
    environment = tiny.environment() | {"PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == SHELL[redirection]


@pytest.mark.parametrize(
    "error, parts",
    [
        (MemoryError("Unable to allocate 3 TiB"), ["not enough memory", "3 TiB"]),
        (
            training.tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\ntensor"),
            ["not enough memory", "OOM"],
        ),
        (OSError(errno.ENOSPC, "No space left on device", "x"), ["x", "No space left"]),
        (OSError(errno.EIO, "Input/output error"), ["standard output", "Input/output error"]),
    ],
)
def test_what_the_system_refuses_is_one_line_and_exit_3(error, parts, genmnist, monkeypatch):
    def refused(*arguments):
        raise error

    monkeypatch.setattr(runs, "load", refused)
    assert_one_line(genmnist("evaluate", "--workdir=w"), 3, *parts)


def test_what_is_a_fault_of_the_code_has_a_traceback(genmnist, monkeypatch):
    monkeypatch.setattr(runs, "load", lambda *arguments: {}["absent"])
    with pytest.raises(KeyError, match="absent"):
        genmnist("evaluate", "--workdir=w")


# A disk without room


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> runs.Run:
    """A run of `tiny.flags()` that nothing interrupted, trained as by `eager`."""
    training.tf.config.run_functions_eagerly(True)
    run = tiny.train(tiny.begin(tmp_path_factory.mktemp("whole") / "w"))
    training.tf.config.run_functions_eagerly(False)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("function", ["record", "end_epoch", "save", "_log_samples", "create_file_writer"])
def test_full_disk_in_training_is_one_line_and_loses_nothing(function, whole, genmnist, monkeypatch, eager):
    owner = {
        "record": runs,
        "end_epoch": training.Training,
        "save": training.Training,
        "_log_samples": training,
        "create_file_writer": training.tf.summary,
    }[function]
    original, room = getattr(owner, function), contextlib.ExitStack()

    def filling(*arguments):
        if function in ("record", "create_file_writer") or runs.read_metrics(runs.load(Path("w"))):
            room.enter_context(tiny.full_disk())
        return original(*arguments)

    with monkeypatch.context() as patched, room:
        patched.setattr(owner, function, filling)
        outcome = genmnist("train", "--workdir=w", *tiny.flags())
    assert_one_line(outcome, 3, "cannot write", "File too large", "make room")
    left = [path.name for path in Path("w").rglob("*")]
    assert not [name for name in left if "temp" in name or "writing" in name or "tmp" in name], left
    assert genmnist("train", "--workdir=w", *tiny.flags()).status == 0
    assert tiny.variables(Path("w/checkpoints")) == tiny.variables(whole.checkpoints)
    assert tiny.variables(Path("w/best")) == tiny.variables(whole.best)
    assert tiny.rows(runs.load(Path("w"))) == tiny.rows(whole)


@pytest.mark.parametrize("verb", ["evaluate", "figures", "export", "sample"])
def test_full_disk_in_another_verb_is_one_line_and_leaves_nothing(verb, genmnist, run):
    own = set(run.workdir.rglob("*"))
    more = {"evaluate": "--num_draws=1", "figures": "--which=samples"}
    with tiny.full_disk():
        outcome = genmnist(verb, f"--workdir={run.workdir}", *([more[verb]] if verb in more else []))
    assert_one_line(outcome, 3, "cannot write", "File too large", "make room")
    assert list(Path().iterdir()) == [] and set(run.workdir.rglob("*")) == own


@pytest.mark.slow
def test_verbs_work_one_after_the_other(genmnist, monkeypatch):
    monkeypatch.setattr(classifier, "JUDGES", classifier.JUDGES[:1])  # what takes long is not what is tested
    assert genmnist("train", "--workdir=w", *tiny.flags(epochs=1)).status == 0
    evaluated = genmnist("evaluate", "--workdir=w", "--num_draws=10")
    assert evaluated.status == 0 and "ELBO" in evaluated.out
    assert json.loads(Path("w/metrics.json").read_text())["test"]["nll"]["num_draws"] == 10
    assert genmnist("figures", "--workdir=w", "--which=samples", "--out=pictures").status == 0
    assert [path.name for path in Path("pictures").iterdir()] == ["w_samples.png"]
    for version in ("1", "2"):
        assert genmnist("export", "--workdir=w", "--out=exports").status == 0
        assert Path("exports/w", version, "saved_model.pb").exists()
    sources = {"run": "--workdir=w", "export": "--export=exports/w", "version": "--export=exports/w/1"}
    for name, source in sources.items():
        assert genmnist("sample", source, "--num_samples=5", "--seed=3", f"--out={name}.png").status == 0
    assert genmnist("sample", "--workdir=w", "--num_samples=5", "--seed=4", "--out=other.png").status == 0
    for suffix in (".png", ".npy"):
        run, export, version, other = (Path(name + suffix).read_bytes() for name in [*sources, "other"])
        assert run == export == version != other
    assert np.load("run.npy").shape == (5, 28, 28, 1)
    too_many = genmnist("sample", "--export=exports/w", f"--num_samples={signatures.MAX_SAMPLES + 1}")
    assert_one_line(too_many, 2, "num_samples", signatures.MAX_SAMPLES + 1, signatures.MAX_SAMPLES)
    assert_one_line(genmnist("sample", "--workdir=w", "--out=samples.jpg"), 2, "samples.jpg", ".png")
