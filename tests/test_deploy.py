"""What runs elsewhere, as far as it can be checked without a cluster."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from keras_genmnist.errors import UsageError
from tests import test_cli

ROOT = Path(__file__).parent.parent
KUBERNETES, SLURM = ROOT / "deploy" / "kubernetes", ROOT / "deploy" / "slurm"
FOLDERS = sorted(path.parent for path in KUBERNETES.glob("*/kustomization.yaml"))
VERSION = "1.33"  # of Kubernetes
genmnist, call = test_cli.genmnist, test_cli.call
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def resources(folder: Path) -> list[dict]:
    """What `kubectl apply -k FOLDER` makes, but for what kustomize adds to names."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    found = []
    for path in (folder / name for name in kustomization["resources"]):
        found += documents(path)
    for made in kustomization.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in made["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data})
    return found


def with_pods(folder: Path) -> Iterator[tuple[dict, dict]]:
    """Each Job, Deployment and StatefulSet, and the pod that it makes."""
    for own in resources(folder):
        if "template" in own.get("spec", {}):
            yield own["spec"], own["spec"]["template"]["spec"]


def names(folder: Path, kind: str) -> set[str]:
    return {own["metadata"]["name"] for own in resources(folder) if own["kind"] == kind}


def commands() -> Iterator[list[str]]:
    """The arguments of `genmnist` in every manifest."""
    for folder in FOLDERS:
        for _, pod in with_pods(folder):
            yield from (own["args"] for own in pod["containers"] if own["image"] == "genmnist")


@each_folder
def test_kustomize_may_read_what_a_folder_names(folder):
    # A file above the folder it refuses.
    (kustomization,) = documents(folder / "kustomization.yaml")
    for path in ((folder / name).resolve() for name in kustomization["resources"]):
        assert path.is_file() and path.is_relative_to(folder)


@each_folder
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kustomize_makes_what_is_tested_here(folder):
    made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    kinds = [own["kind"] for own in yaml.safe_load_all(made.stdout)]
    assert sorted(kinds) == sorted(own["kind"] for own in resources(folder))


@each_folder
def test_manifests_are_what_kubernetes_accepts(folder):
    for document in resources(folder):
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_a_misspelt_field_would_be_found():
    (job,) = documents(KUBERNETES / "train" / "job.yaml")
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSION, strict=True)


@each_folder
def test_volumes_that_are_mounted_are_there(folder):
    for spec, pod in with_pods(folder):
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for volume in volumes.values():
            claim, config = volume.get("persistentVolumeClaim"), volume.get("configMap")
            assert claim is None or claim["claimName"] in names(KUBERNETES / "volumes", "PersistentVolumeClaim")
            assert config is None or config["name"] in names(folder, "ConfigMap")
        made = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys() | made


def test_what_is_removed_takes_no_volume_with_it():
    # kubectl delete -k of a training would delete its runs, and all others too.
    owners = [folder.name for folder in FOLDERS if names(folder, "PersistentVolumeClaim")]
    assert owners == ["volumes"]


@each_folder
def test_a_job_fails_at_once_only_where_another_pod_would_say_the_same(folder):
    # A Fault may be a network or a database that is lost, or a disk that is full.
    for spec, _ in with_pods(folder):
        rules = [rule for rule in spec.get("podFailurePolicy", {}).get("rules", []) if rule["action"] == "FailJob"]
        assert all(rule["onExitCodes"]["values"] == [UsageError.exit_code] for rule in rules)


def test_every_worker_of_a_search_may_start_at_once():
    (job,) = documents(KUBERNETES / "tune" / "job.yaml")
    assert job["spec"]["parallelism"] == job["spec"]["completions"]


@each_folder
def test_services_reach_the_ports_of_their_pods(folder):
    ports = {}  # by the label `app`
    for spec, pod in with_pods(folder):
        if "selector" in spec:
            assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
            ports[spec["selector"]["matchLabels"]["app"]] = {
                port["name"] for container in pod["containers"] for port in container["ports"]
            }
    services = [own["spec"] for own in resources(folder) if own["kind"] == "Service"]
    assert {service["selector"]["app"] for service in services} == ports.keys()
    for service in services:
        assert {port["targetPort"] for port in service["ports"]} <= ports[service["selector"]["app"]]


def test_both_ways_to_serve_serve_the_same_models():
    # A copy, for kustomize reads no file above its own folder.
    assert (KUBERNETES / "serve" / "models.config").read_text() == (ROOT / "docker" / "models.config").read_text()


def test_every_folder_of_manifests_is_tested():
    assert [folder.name for folder in FOLDERS] == ["serve", "train", "tune", "volumes"]
    assert {verb for verb, *_ in commands()} == {"train", "tune"}


def test_commands_have_flags_that_the_verbs_know(genmnist):
    lines = list(commands())
    for script in SLURM.glob("*.sbatch"):
        (usage,) = re.findall(r"sbatch deploy/slurm/\S+ (.*)", script.read_text())
        (verb,) = re.findall(r"^(?:exec )?genmnist (\w+)", script.read_text(), re.M)
        lines.append([verb, *usage.split()])
    for verb, *arguments in lines:
        known = genmnist(verb, "--help").out
        for argument in arguments:
            assert f"\n  {argument.split('=')[0]}=" in known


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Starts a script of deploy/slurm/ with stand-ins for Slurm and for genmnist, that tell a file what they do."""
    told = tmp_path / "told"
    for name, script in {
        "genmnist": """trap "echo saved >> $TOLD; exit 143" TERM
echo "$@" >> $TOLD
for i in $(seq "${TENTHS:-3}"); do sleep 0.1; done""",
        "scontrol": 'echo "scontrol $@" >> $TOLD',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def start(name, *arguments):
        return subprocess.Popen(["bash", SLURM / name, *arguments])

    return start, lambda: told.read_text().splitlines() if told.exists() else []


@pytest.mark.parametrize(
    ("name", "then"),
    [("USR1", ["scontrol requeue 7"]), ("TERM", [])],  # before its time is over, and by scancel
)
def test_slurm_s_training_saves_and_goes_back_into_the_queue_unless_it_is_cancelled(slurm, monkeypatch, name, then):
    monkeypatch.setenv("TENTHS", "90")  # a busy machine takes more than three to send the signal
    start, told = slurm
    job = start("train.sbatch", "--model=vae")
    while not told():
        time.sleep(0.01)
    job.send_signal(signal.Signals[f"SIG{name}"])  # to the batch script alone
    job.wait(10)
    assert told() == ["train --model=vae", "saved", *then]


def test_slurm_sends_the_signal_that_the_script_takes_for_the_end_of_its_time():
    script = (SLURM / "train.sbatch").read_text()
    (name,) = re.findall(r"--signal=B:(\w+)@", script)
    assert f"\ntrap requeue {name}\n" in script and name != "TERM"


def test_slurm_s_training_that_ends_stays_out_of_the_queue(slurm):
    start, told = slurm
    assert start("train.sbatch", "--model=vae").wait(10) == 0
    assert told() == ["train --model=vae"]


def test_slurm_s_search_passes_its_arguments_on(slurm):
    start, told = slurm
    assert start("tune.sbatch", "--model=vae", "--trials=80").wait(10) == 0
    assert told() == ["tune --model=vae --trials=80"]
