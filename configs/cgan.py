"""Class-conditional DCGAN with projection discriminator (Miyato & Koyama 2018, arxiv.org/abs/1802.05637)"""

from ml_collections import ConfigDict

from keras_genmnist.config import based_on


def get_config() -> ConfigDict:
    return based_on(
        "dcgan",
        class_conditional=True,
        # Told the class, the discriminator learns faster: as `dcgan`'s it is at a loss of 0.13 after 160 steps, so at
        # 0.84, where that of `dcgan` is 0.85.
        r1_penalty=1.0,
        discriminator_learning_rate=2e-4,
        epochs=30,
    )
