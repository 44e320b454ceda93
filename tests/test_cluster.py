"""What a training is told to compute on: what is refused, in one line each."""

import json
import socket

import pytest

from keras_genmnist import cluster
from keras_genmnist.errors import UsageError


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("gpu", "devices='gpu' are not known"),
        ("cpu:0", "devices='cpu:0' are not known"),
        ("0,1", "devices=0,1 names GPU 0, and this machine has no GPU"),
        ("cpu:64", "devices=cpu:64 parts the CPU, but TensorFlow has computed something already"),
        ("cpu:3", "config.batch_size=100 cannot be shared evenly by 3 replicas"),
    ],
)
def test_devices_that_are_not_there_are_refused(devices, said):
    cluster.strategy("cpu", None, None, 100)
    import tensorflow as tf

    tf.zeros([])  # from here on TensorFlow has computed something
    with pytest.raises(UsageError, match=said):
        cluster.strategy(devices, None, None, 100)


def test_one_device_has_no_strategy(monkeypatch):
    for devices in (None, "all", "cpu", "cpu:1"):
        assert cluster.strategy(devices, None, None, 7) is None
    alone = {"cluster": {"worker": ["here:7000"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(alone))  # as operators set it for a single one, too
    assert cluster.strategy(None, None, None, 7) is None


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        (["here", "there:7001"], "the worker 'here' is not given as HOST:PORT"),
        (["here:70000", "there:7001"], "the worker 'here:70000' is not given as HOST:PORT"),
        (["here:7001", "here:7001"], "the worker here:7001 is given 2 times"),
    ],
)
def test_workers_that_cannot_be_told_apart_are_refused(workers, said):
    with pytest.raises(UsageError, match=said):
        cluster.strategy(None, workers, 0, 100)


def test_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of this machine cannot be used"):
            cluster.strategy(None, [f"localhost:{port}", "localhost:1"], 0, 100)


def test_number_of_workers_that_does_not_divide_the_batch_is_refused_before_waiting():
    with pytest.raises(UsageError, match="cannot be shared evenly by 3 replicas"):
        cluster.strategy(None, [f"localhost:{free_port()}", "localhost:1", "localhost:2"], 0, 100)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{oops", "TF_CONFIG={oops is no JSON of the form"),
        ("[1]", r"TF_CONFIG=\[1\] is no JSON of the form"),
        ('{"cluster": {"worker": [1]}}', "is no JSON of the form"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker"}}', "is no JSON of the form"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 2}}', "worker 2, which is none"),
        ('{"cluster": {"ps": ["a:1"], "worker": ["b:2"]}}', "tasks of the kind ps"),
    ],
)
def test_tf_config_that_says_no_cluster_is_refused(text, said, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=said):
        cluster.strategy(None, None, None, 100)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
