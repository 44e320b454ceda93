"""What a training leaves in its process, and that it can be let go of."""

import gc

import pytest
import tensorflow as tf
import tf_keras

from keras_genmnist import api, models, training
from keras_genmnist.leftovers import released
from tests import tiny


@pytest.fixture(autouse=True)
def nothing_of_earlier_tests():
    with released():
        pass


def num_graphs() -> int:
    gc.collect()
    found = [item for item in gc.get_objects() if type(item).__name__ == "FuncGraph"]
    return sum(graph.name != "keras_graph" for graph in found)  # which Keras makes once


def train(digits, posterior):
    model = models.build(tiny.config("vae", posterior=posterior))
    model.compile(tf_keras.optimizers.Adam(1e-3))
    tf.function(model.train_step, autograph=False)(digits)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
def test_graphs_of_a_training_are_let_go_of(digits, posterior):
    before = num_graphs()
    with released():
        train(digits, posterior)
        assert num_graphs() > before  # else there would be nothing to let go of
    assert num_graphs() == before


def test_a_run_lets_go_of_them(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *arguments, **options: train(digits, "gaussian"))
    before = num_graphs()
    api.begin("vae", tiny.config("vae"), tmp_path / "run", (), "genmnist train", 0.0)
    assert num_graphs() == before


def test_what_was_traced_before_keeps_its_gradients():
    @tf.custom_gradient
    def doubled(x):
        return 2 * x, lambda dy: 2 * dy

    function = tf.function(doubled, autograph=False).get_concrete_function(tf.TensorSpec([]))
    with released():  # lets go of nothing
        pass
    x = tf.constant(3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    assert tape.gradient(y, x) == 2
