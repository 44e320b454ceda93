import functools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tensorflow as tf

from keras_genmnist import densities
from tests import tiny


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    """Without XLA, which compiles a fit for longer than these take."""
    function = tf.function
    monkeypatch.setattr(tf, "function", lambda autograph, jit_compile: functools.partial(function, autograph=autograph))


def at(*point):
    return densities.energies(tf.fill([1, 4, 1], 1.0) * tf.constant(point, tf.float32))[0].numpy()


def test_energies_in_numbers():
    # By hand from table 1, at the origin: w1 = 0, w2 = 3 exp(-(1 / 0.6)^2 / 2), w3 = 3 sigmoid(-1 / 0.3).
    w2, w3 = 3 * np.exp(-0.5 * (1 / 0.6) ** 2), 3 / (1 + np.exp(1 / 0.3))
    expected = [
        0.5 * (2 / 0.4) ** 2 - np.log(2 * np.exp(-0.5 * (2 / 0.6) ** 2)),
        0,
        -np.log(1 + np.exp(-0.5 * (w2 / 0.35) ** 2)),
        -np.log(1 + np.exp(-0.5 * (w3 / 0.35) ** 2)),
    ]
    np.testing.assert_allclose(at(0, 0), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(at(1, 1)[1], 0, atol=1e-10)  # on the sine
    assert at(1, 3)[1] == pytest.approx(0.5 * (2 / 0.4) ** 2, rel=1e-5)


def test_energies_have_walls_at_the_edges():
    np.testing.assert_allclose(at(0, 6)[1] - 0.5 * (6 / 0.4) ** 2, 40, rtol=1e-4)


def test_energy_of_a_column_is_its_own():
    z = tf.random.stateless_normal([5, 4, 2], [1, 2])
    values = densities.energies(z)
    changed = densities.energies(tf.concat([z[:, :2], z[:, 2:3] + 1, z[:, 3:]], axis=1))
    np.testing.assert_array_equal((values != changed).numpy().all(axis=0), [False, False, True, False])


def test_normalisers_do_not_depend_on_the_grid():
    points = densities.grid(8, 500)
    values = densities.energies(tf.repeat(points[:, None], 4, axis=1)).numpy().astype(np.float64)
    coarse = np.log(np.exp(-values).sum(axis=0) * (16 / 500) ** 2)
    np.testing.assert_allclose(densities.log_normalisers(), coarse, atol=1e-3)


@pytest.mark.parametrize("name", tiny.all_but_some_slow(densities.FLOWS, "planar"))
def test_fit_comes_nearer_with_training(name):
    before, after = (densities.divergences(densities.fit(name, 2, 1, iterations)(), 1) for iterations in (1, 300))
    assert (after > -0.05).all()  # a divergence; 50,000 draws have an error of about 0.01
    assert (after < before).all()
    assert after.sum() < 0.7 * before.sum()


def test_figure_has_each_target_beside_its_fits(monkeypatch, capsys):
    monkeypatch.setattr(densities, "STEPS", {"planar": (1,), "radial": (2,)})
    monkeypatch.setattr(densities, "FITS", 1)
    monkeypatch.setattr(densities, "PIXELS", 20)
    monkeypatch.setattr(densities, "fit", lambda name, steps, seed, fit=densities.fit: fit(name, steps, seed, 20))
    figure = densities.figure(1)
    plt.close(figure)
    axes = figure.axes
    assert len(axes) == 12
    titles = [axis.get_title() for axis in axes]
    assert titles[0].startswith("target")
    assert "planar $K = 1$" in titles[1] and "radial $K = 2$" in titles[2]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["planar", "radial"]
    assert f"KL {float(printed[0].split('KL')[1].split()[0]):.2f}" in titles[1]


def test_figure_shows_the_best_fit_of_each_density(monkeypatch):
    monkeypatch.setattr(densities, "STEPS", {"planar": (1,)})
    monkeypatch.setattr(densities, "PIXELS", 20)
    fits = [densities.fit("planar", 1, seed, 20) for seed in (1, 2)]
    scores = iter([np.array([1.0, 4, 3, 2]), np.array([2.0, 3, 4, 1])])
    monkeypatch.setattr(densities, "fit", lambda name, steps, seed: fits[seed - 5])
    monkeypatch.setattr(densities, "divergences", lambda fitted, seed: next(scores))
    axes = densities.figure(5).axes
    plt.close("all")
    assert [axis.get_title().split()[-1] for axis in axes[1::2]] == ["1.00", "3.00", "3.00", "1.00"]
    points = densities.grid(densities.EDGE, 20)[:, None]
    for row, number in enumerate((0, 1, 0, 1)):
        expected = fits[number]().prob(points)[:, row].numpy().reshape(20, 20)
        np.testing.assert_allclose(axes[2 * row + 1].images[0].get_array(), expected, rtol=1e-5)
