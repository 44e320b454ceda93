"""What a search varies: how it is written, and which mistakes are told."""

import pytest
from ml_collections import ConfigDict

from keras_genmnist import config as configs
from keras_genmnist import training
from keras_genmnist.errors import UsageError
from keras_genmnist.search.space import Choice, Range, default, parse, written

CONFIG = ConfigDict(
    {"latent_size": 40, "learning_rate": 2e-3, "norm": "batch", "jit_compile": True, "dataset": "mnist"}
)


def test_space_is_read_by_the_types_of_the_fields():
    text = "latent_size:8..64, learning_rate:1e-4..5e-3:log,norm:none|batch|layer,jit_compile:true|false"
    assert parse(written(text), CONFIG) == {
        "latent_size": Range(8, 64),
        "learning_rate": Range(1e-4, 5e-3, log=True),
        "norm": Choice(("none", "batch", "layer")),
        "jit_compile": Choice((True, False)),
    }
    (sizes,) = parse({"latent_size": "8..64:8"}, CONFIG).values()
    assert sizes == Range(8, 64, step=8) and isinstance(sizes.low, int)
    assert parse({"latent_size": "8|16"}, CONFIG) == {"latent_size": Choice((8, 16))}
    (rates,) = parse({"learning_rate": "1..2"}, CONFIG).values()
    assert isinstance(rates.low, float)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("latentsize:8..64", ["'latentsize'", "did you mean latent_size?", "norm"]),
        ("latent_size:64..8", ["latent_size:64..8", "upside down", "LOW below HIGH"]),
        ("latent_size:8..8", ["empty"]),
        ("latent_size:8..x", ["'x'", "whole numbers"]),
        ("latent_size:1.5..3", ["'1.5'", "whole numbers"]),
        ("latent_size:8..64:128", ["128", "at most 56"]),
        ("latent_size:8..64:lg", ["'lg'"]),
        ("latent_size:8", ["no choice"]),
        ("latent_size:8|8", ["different values"]),
        ("learning_rate:0..1:log", ["no logarithm at 0"]),
        ("learning_rate:nan..1", ["'nan'", "finite"]),
        ("learning_rate:..", ["''", "finite"]),
        ("norm:a..b", ["range", "str", "A|B|C"]),
        ("norm:|batch", ["''"]),
        ("jit_compile:yes|no", ["'yes'", "true and false"]),
        ("dataset:mnist|mnist_5k", ["dataset", "do not compare"]),
        ("latent_size", ["'latent_size'", "FIELD:VALUES"]),
        ("latent_size:8..64,latent_size:8..16", ["latent_size twice"]),
        ("", ["''", "FIELD:VALUES"]),
    ],
)
def test_mistake_is_told_with_what_is_accepted(text, parts):
    with pytest.raises(UsageError) as error:
        parse(written(text), CONFIG)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", configs.names())
def test_default_space_of_every_config_is_accepted(name):
    config = configs.load(name)
    for field, over in parse(default(name, config), config).items():
        for value in over.ends:
            changed = config.copy_and_resolve_references()
            changed[field] = value
            training.check_config(changed)
        if isinstance(over, Range):
            assert over.low <= config[field] <= over.high, "what the config has is a good guess"
        else:
            assert config[field] in over.values


def test_default_is_around_the_values_of_the_config():
    config = configs.load("wgan_gp")
    assert parse(default("wgan_gp", config), config) == {
        "generator_learning_rate": Range(5e-5, 5e-3, log=True),
        "discriminator_learning_rate": Range(5e-5, 5e-3, log=True),
        "batch_size": Range(25, 100, log=True),
    }
