"""What became of configs: a run, a result and an export are opened by what they say themselves, however old they are.

Each names the schema of its config.  Whoever adds a field to a config appends to MIGRATIONS what reproduces a training
from before the field was there, so that no older run is lost.
"""

from keras_genmnist.errors import Fault

# Files of schema 1 name none.  They lack the fields that came while it lasted, model by model.
_MISSING_FROM_1 = {
    "vae": {
        "hidden_layers": 2,  # of no use to network=conv, which alone lacked it
        "encoder_channels": 16,  # of no use to network=mlp, as those of the decoder
        "decoder_channels": 32,
        "posterior": "gaussian",
        "flow_steps": 4,
        "flow_size": 320,
        "flow_columns": 16,
        "flow_reflections": 8,
        "inference": "amortized",
        "refine_steps": 20,
        "refine_optimizer": "adam",
        "refine_learning_rate": 0.1,
        "refine_gradient": "first_order",
        "prior": "normal",
        "prior_components": 500,
        "prior_steps": 4,
        "prior_size": 256,
        "decoder": "bernoulli",
        "pixelcnn_layers": 3,
        "pixelcnn_features": 16,
        "pixelcnn_kernel": 3,
        "pixelcnn_first_kernel": 5,
        "bound": "elbo",
        "train_draws": 1,
        "gradient": "standard",
        "free_bits": 0.0,
    },
    "ladder": {"dropout": 0.0, "vote_noise": 0.0},
    "pixelcnn": {"class_conditional": False, "place_features": 0},
}


def _from_1(config: dict) -> dict:
    model = config["model"]
    migrated = _MISSING_FROM_1.get(model, {}) | config
    if model in ("vae", "ladder") and "norm" not in config:
        batch_norm = migrated.pop("batch_norm", False)
        # The convolutional networks of a VAE ignored it until about the time when `decoder` came.
        ignored = model == "vae" and config["network"] == "conv" and "decoder" not in config
        migrated["norm"] = "batch" if batch_norm and not ignored else "none"
    return migrated


_RENAMED_FROM_2 = {"vote_noise": "bottom_up_noise", "place_features": "position_features"}


def _from_2(config: dict) -> dict:
    renamed = {_RENAMED_FROM_2.get(field, field): value for field, value in config.items()}
    decoder = {"decoder": "bernoulli"} if config["model"] == "ladder" else {}
    return {"image_size": 0, "invert": False} | decoder | renamed


_PIXELCNN_FROM_3 = {"patch_size": 1, "attention_every": 0, "attention_heads": 1, "orders": 1, "soft_targets": False}


def _from_3(config: dict) -> dict:
    missing = _PIXELCNN_FROM_3 if config["model"] == "pixelcnn" else {}
    if config["model"] in ("vae", "ladder", "gan"):
        missing = {"class_conditional": False}
    return missing | config


def _from_4(config: dict) -> dict:
    return ({"beta": 1.0, "capacity": 0.0} if config["model"] in ("vae", "ladder") else {}) | config


def _from_5(config: dict) -> dict:
    return {"precision": "float32"} | config


def _from_6(config: dict) -> dict:
    return ({"augmented": 0.0} if config["model"] == "pixelcnn" else {}) | config


def _from_7(config: dict) -> dict:
    return ({"pixelcnn_patch_size": 1} if config["model"] == "vae" else {}) | config


def _from_8(config: dict) -> dict:
    return ({"levels": 0} if config["model"] == "flow_matching" else {}) | config


def _from_9(config: dict) -> dict:
    has_one = config["model"] in ("vae", "ladder", "pixelcnn", "masked_diffusion", "flow_matching")
    return ({"optimizer": "adam"} if has_one else {}) | config


def _from_10(config: dict) -> dict:
    return ({"weight_decay": 0.0} if "optimizer" in config else {}) | config


def _from_11(config: dict) -> dict:
    return ({"pixelcnn_orders": 1} if config["model"] == "vae" else {}) | config


# The first makes a config of schema 1 one of schema 2, and so on.
MIGRATIONS = [_from_1, _from_2, _from_3, _from_4, _from_5, _from_6, _from_7, _from_8, _from_9, _from_10, _from_11]
SCHEMA = 1 + len(MIGRATIONS)


def migrate(config: dict, schema: int) -> dict:
    """The config as it would be written today.

    Args:
      config: field -> value, of any model.
      schema: that it was written by.
    Raises:
      KeyError, TypeError, ValueError: if the config does not name its model, or there is no such schema.
      Fault: if a later version wrote it.
    """
    if schema > SCHEMA:
        raise Fault(f"a later version wrote this config, of schema {schema}: this version reads 1 to {SCHEMA}")
    if schema < 1:
        raise ValueError(f"no schema {schema}")
    for migration in MIGRATIONS[schema - 1 :]:
        config = migration(config)
    if "components" in config:  # of an average, written with it
        config = config | {"components": [migrate(own, schema) for own in config["components"]]}
    return config
