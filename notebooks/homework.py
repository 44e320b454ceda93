# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deep generative models of MNIST, from top to bottom
#
# This notebook goes through the whole assignment: binarized digits, a variational autoencoder (VAE) written out in
# plain Keras, the evidence lower bound (ELBO) term by term, tuning, the four figures, a generative adversarial
# network (GAN), normalizing flows, and stochastic variational inference (SVI) beside amortized inference. It trains
# on the 5,000 digits that ship with the package, so that it runs in a few minutes on two CPU cores. Every number in
# the text is computed where it stands. All bounds are in nats per image.

# %%
# In Colab this installs the package. Put the address of your copy of the repository here.
REPOSITORY = "https://github.com/OWNER/keras_genmnist"

import sys

if "google.colab" in sys.modules:
    import subprocess

    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", f"git+{REPOSITORY}"], check=True)

# %%
import os
import shutil
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from IPython.display import Markdown

import keras_genmnist as gm
from keras_genmnist import bounds
from keras_genmnist.datasets import binarization

tfd, tfpl, layers = tfp.distributions, tfp.layers, tf_keras.layers

EPOCHS = int(os.environ.get("NOTEBOOK_EPOCHS", 15))  # for a shorter run of this notebook: NOTEBOOK_EPOCHS=1
BATCH, RATE = 50, 1e-3
SIZES = {"hidden_size": 200, "jit_compile": False}  # small networks, for which compiling takes longer than training
RUNS = Path("runs/homework")
shutil.rmtree(RUNS, ignore_errors=True)  # so that nothing of an earlier session is continued
tf_keras.utils.set_random_seed(1)


def table(header, rows):
    """A table in Markdown; numbers have two decimals."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *cells]]
    return Markdown("\n".join(lines))


def mean_and_error(values):
    """The mean of one value per image, and its standard error."""
    values = np.asarray(values)
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


# %% [markdown]
# ## 1. The data
#
# The pixels of MNIST are grey levels, and a Bernoulli likelihood wants bits. *Dynamic* binarization reads a grey
# level as the probability that a pixel is 1 and draws new bits in every epoch, which keeps a model from learning one
# draw by heart. The validation and test images are drawn once and for all, so that everybody scores the same bits:
# this is the *reference* binarization.

# %%
data = gm.datasets.load("mnist_5k")
table(
    ["split", "images", "grey levels", "share of ones in the reference bits"],
    [
        [split.name, len(split.images), f"{split.images.min()} to {split.images.max()}", float(split.binary.mean())]
        for split in (data.train, data.validation, data.test)
    ],
)

# %%
digits = data.train.images[:10]
rows = {
    "grey levels": digits,
    "dynamic, one epoch": binarization.dynamic(digits, seed=tf.constant([1, 0], tf.int64)),
    "dynamic, the next": binarization.dynamic(digits, seed=tf.constant([2, 0], tf.int64)),
    "reference": data.train.binary[:10],
}
figure, axes = plt.subplots(len(rows), len(digits), figsize=(9, 3.4), layout="constrained")
for (label, pictures), row in zip(rows.items(), axes, strict=True):
    for picture, axis in zip(pictures, row, strict=True):
        axis.imshow(picture, cmap="gray")
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(label, rotation=0, ha="right", va="center")

# %% [markdown]
# ## 2. The VAE in plain Keras
#
# The encoder gives a Gaussian $q(z \mid x)$, the decoder gives a Bernoulli for every pixel, and the prior $p(z)$ is a
# standard normal. Training maximizes the ELBO
#
# $$\mathcal{L}(x) = \mathbb{E}_{q(z \mid x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \le \log p(x).$$
#
# With the layers of TensorFlow Probability, this is all there is to it:


# %%
class PlainVAE(tf_keras.Model):
    def __init__(self, image_shape, latent_size, hidden_size):
        super().__init__()
        encoder, decoder = ([layers.Dense(hidden_size, "relu") for _ in range(2)] for _ in range(2))
        posterior = [layers.Dense(tfpl.IndependentNormal.params_size(latent_size)), tfpl.IndependentNormal(latent_size)]
        likelihood = [layers.Dense(np.prod(image_shape)), tfpl.IndependentBernoulli(image_shape)]
        self.encoder = tf_keras.Sequential([layers.Flatten(), *encoder, *posterior])
        self.decoder = tf_keras.Sequential([*decoder, *likelihood])
        self.prior = tfd.Independent(tfd.Normal(tf.zeros(latent_size), 1.0), 1)

    def elbo(self, x):
        q = self.encoder(x)
        z = tf.convert_to_tensor(q)  # one draw
        return self.decoder(z).log_prob(x) - tfd.kl_divergence(q, self.prior)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self.elbo(x))
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return {"elbo": -loss}

    def test_step(self, x):
        return {"elbo": tf.reduce_mean(self.elbo(x))}


# %%
plain = PlainVAE(data.spec.image_shape, latent_size=10, hidden_size=200)
plain.compile(tf_keras.optimizers.Adam(RATE))
plain_history = plain.fit(
    data.train.batches(BATCH), validation_data=data.validation.batches(500), epochs=EPOCHS, verbose=0
).history

# %% [markdown]
# The library builds the same model from its config. It is a `tf_keras.Model` too, so `compile` and `fit` are those of
# Keras. Beside it stands the library's default, which has batch normalization in every hidden layer.


# %%
def fitted(name, epochs=EPOCHS, batch=BATCH, **fields):
    """A model of the library that `fit` has trained, and its history."""
    model = gm.models.build(name, data.spec, **SIZES, **fields)
    model.compile(tf_keras.optimizers.Adam(RATE))
    history = model.fit(
        data.train.batches(batch), validation_data=data.validation.batches(500), epochs=epochs, verbose=0
    )
    return model, history.history


same, same_history = fitted("vae", latent_size=10, norm="none")
tried = {10: fitted("vae", latent_size=10)}
normed, normed_history = tried[10]
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
curves = {"plain Keras": plain_history, "the library": same_history, "the library, batch norm": normed_history}
for label, history in curves.items():
    axis.plot(range(1, EPOCHS + 1), history["val_elbo"], "o-", markersize=3, label=label)
axis.set(xlabel="epoch", ylabel="validation ELBO (nats)")
axis.grid(alpha=0.3)
axis.legend()
plain_parameters = sum(int(tf.size(weight)) for weight in plain.trainable_variables)
Markdown(
    f"Plain Keras has {plain_parameters:,} parameters and ends at {plain_history['val_elbo'][-1]:.1f} nats. The "
    f"library's model has {same.num_parameters:,} and ends at {same_history['val_elbo'][-1]:.1f}; they differ by their "
    f"random numbers alone. Batch normalization brings it to {normed_history['val_elbo'][-1]:.1f}."
)

# %% [markdown]
# ## 3. The ELBO, term by term
#
# `log_terms` gives what the bound is made of: $\log p(x \mid z)$, $\log p(z)$ and $\log q(z \mid x)$ for every draw
# $z$ and every image. The KL has a closed form because both distributions are Gaussian, with mean $\mu$ and scale
# $\sigma$:
#
# $$\mathrm{KL} = \tfrac{1}{2} \sum_d (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2).$$
#
# The Monte Carlo estimate is the mean of $\log q(z \mid x) - \log p(z)$ over the draws. The two must agree.

# %%
DRAWS = 200
x = data.validation.binary[:100].astype(np.float32)
terms = normed.log_terms(x, DRAWS, seed=tf.constant([1, 0]))
reconstruction = terms.log_likelihood.numpy().mean(axis=0)
by_draws = (terms.log_posterior - terms.log_prior).numpy()  # [draws, images]
posterior = normed.encode(x)
mean, log_variance = posterior["mean"].numpy(), posterior["log_variance"].numpy()
closed = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=1)
gap, gap_error = mean_and_error(by_draws.mean(axis=0) - closed)
log_weights = (terms.log_likelihood + terms.log_prior - terms.log_posterior).numpy()
sizes = [1, 2, 5, 10, 20, 50, 100, 200]
groups = [log_weights.reshape(DRAWS // s, s, -1) for s in sizes]  # all draws count, s at a time
weighted = [
    float(np.mean(np.logaddexp.reduce(group, axis=1) - np.log(s))) for group, s in zip(groups, sizes, strict=True)
]
table(
    [f"mean over {len(x)} validation images", "nats"],
    [
        ["reconstruction, E[log p(x given z)]", float(reconstruction.mean())],
        ["KL in closed form", float(closed.mean())],
        [f"KL by {DRAWS} draws", float(by_draws.mean())],
        ["ELBO = reconstruction - KL", float((reconstruction - closed).mean())],
        [f"importance-weighted bound by {DRAWS} draws", weighted[-1]],
    ],
)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
counts = np.arange(1, DRAWS + 1)
for image, colour in zip(range(3), ("C0", "C1", "C2"), strict=True):
    left.plot(counts, np.cumsum(by_draws[:, image]) / counts, color=colour)
    left.axhline(closed[image], color=colour, linestyle="--", linewidth=1)
left.set(xscale="log", xlabel="draws", ylabel="KL (nats)", title="Three images: by draws, and in closed form (dashed)")
right.plot(sizes, weighted, "o-")
right.axhline((reconstruction - closed).mean(), color="grey", linestyle="--", linewidth=1)
right.set(xscale="log", xlabel="draws", ylabel="nats", title="Importance-weighted bound, and the ELBO (dashed)")
for axis in (left, right):
    axis.title.set_fontsize(10)
    axis.grid(alpha=0.3)
Markdown(
    f"The two KLs differ by {gap:.3f} nats on average, with a standard error of {gap_error:.3f}. More draws tighten "
    f"the importance-weighted bound from {weighted[0]:.1f} to {weighted[-1]:.1f} nats."
)

# %% [markdown]
# ## 4. Tuning on the validation ELBO
#
# The number of latents is chosen by the validation ELBO. The test images play no part in the choice; they are scored
# once, at the end, with the model that was chosen.

# %%
for size in (2, 5, 20):
    tried[size] = fitted("vae", latent_size=size)
found = {
    size: {name: history[f"val_{name}"][-1] for name in ("elbo", "reconstruction", "kl")}
    for size, (_, history) in sorted(tried.items())
}
LATENT = max(found, key=lambda size: found[size]["elbo"])
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for size, (_, history) in sorted(tried.items()):
    axis.plot(range(1, EPOCHS + 1), history["val_elbo"], label=f"{size} latents", linewidth=2 if size == LATENT else 1)
axis.set(xlabel="epoch", ylabel="validation ELBO (nats)")
axis.grid(alpha=0.3)
axis.legend()
table(
    ["latents", "validation ELBO", "reconstruction", "KL"],
    [[f"**{size}**" if size == LATENT else size, *scores.values()] for size, scores in found.items()],
)

# %%
chosen = tried[LATENT][0]
test = chosen.evaluate(data.test.batches(500), verbose=0, return_dict=True)
Markdown(
    f"The validation ELBO is the highest with **{LATENT} latents**, {found[LATENT]['elbo']:.1f} nats. The test ELBO of "
    f"that model is {test['elbo']:.1f} nats."
)

# %% [markdown]
# ## 5. The four figures
#
# `gm.train` does what `genmnist train` does on the command line: it keeps the best epoch, can be interrupted and
# resumed, and leaves a run behind that can be scored, drawn and exported. One run has the number of latents just
# chosen, the other has two, so that its latent space can be drawn.

# %%
training = {"dataset": "mnist_5k", "epochs": EPOCHS, "batch_size": BATCH, **SIZES}
run = gm.train("vae", workdir=RUNS / "vae", latent_size=LATENT, **training)
plane = gm.train("vae_2d", workdir=RUNS / "vae_2d", **training)

# %% [markdown]
# **Samples**: latent vectors from the prior, decoded.

# %%
run.figure("samples")

# %% [markdown]
# **Interpolation**: the decodings on the line between two latent vectors.

# %%
run.figure("interpolation")

# %% [markdown]
# **The means of the test images** in the latent plane. No label was used in training, and yet the digits form
# clusters.

# %%
plane.figure("latent_means")

# %% [markdown]
# **The latent plane, decoded** on a regular grid.

# %%
plane.figure("latent_grid")

# %% [markdown]
# ## 6. A GAN
#
# A GAN has no likelihood. Its samples are judged instead: the Fréchet distance compares the features that a
# classifier sees in samples with those in validation images, and less is better. GANs draw grey levels, so this one
# is trained on them.

# %%
gan = gm.train("gan", workdir=RUNS / "gan", **training)

# %%
gan.figure("samples")

# %%
gan.figure("training_curves")

# %% [markdown]
# ## 7. Flow posteriors
#
# A diagonal Gaussian cannot have the shape of the true posterior. A normalizing flow bends it: planar flows with a
# chain of simple maps, inverse autoregressive flows (IAF) with networks in which each latent depends on those before
# it. All three have the same encoder, decoder, number of latents and epochs. The difference to the Gaussian is taken
# image by image, which makes its standard error small.

# %%
validation = data.validation.binary.astype(np.float32)


def scores(model, images, draws=20):
    """The ELBO, the KL and the importance-weighted bound of each image, nats."""
    terms = tf.function(model.log_terms)(images, draws, tf.constant([1, 0]))
    return {"elbo": bounds.elbo(terms), "kl": bounds.kl(terms), "weighted": bounds.iwae_bound(terms)}


flows = {"gaussian": scores(chosen, validation)}
for name in ("planar", "iaf"):
    flows[name] = scores(fitted(name, latent_size=LATENT)[0], validation)
gains = {name: mean_and_error(own["elbo"] - flows["gaussian"]["elbo"]) for name, own in flows.items()}
table(
    ["posterior", "validation ELBO", "ELBO less that of the Gaussian", "KL", "importance-weighted bound, 20 draws"],
    [
        [
            name,
            mean_and_error(own["elbo"])[0],
            "" if name == "gaussian" else "{:+.2f} ± {:.2f}".format(*gains[name]),
            mean_and_error(own["kl"])[0],
            mean_and_error(own["weighted"])[0],
        ]
        for name, own in flows.items()
    ],
)

# %% [markdown]
# ## 8. Stochastic variational inference beside amortized inference
#
# An encoder gives the posterior of any image at once: inference is *amortized*. SVI has no encoder. It finds the mean
# and the scale of each image's posterior by gradient ascent on the image's own ELBO. Here is SVI on the decoder of
# the chosen VAE, once from the same start for all images, and once from what the encoder says.


# %%
def svi(model, x, mean, log_scale, steps=100, rate=0.1):
    """The mean ELBO at each step of a gradient ascent in the posteriors' parameters, and each image's at the end."""
    mean, log_scale = tf.Variable(mean), tf.Variable(log_scale)
    optimizer, prior = tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(rate, steps)), model.prior()

    def elbo(draws):
        q = tfd.Independent(tfd.Normal(mean, tf.exp(log_scale)), 1)
        return tf.reduce_mean(model.decoder(q.sample(draws)).log_prob(x), axis=0) - tfd.kl_divergence(q, prior)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            values = elbo(draws=4)
            loss = -tf.reduce_sum(values)
        optimizer.minimize(loss, [mean, log_scale], tape=tape)
        return tf.reduce_mean(values)

    return [float(step()) for _ in range(steps)], elbo(draws=100).numpy()


x = data.test.binary[:100].astype(np.float32)
q = chosen.encode(x)
amortized = scores(chosen, x, draws=100)["elbo"].numpy()
from_nothing, alone = svi(chosen, x, tf.zeros_like(q["mean"]), -tf.ones_like(q["mean"]))
from_encoder, refined = svi(chosen, x, q["mean"], q["log_variance"] / 2)
overtaken = next((number for number, value in enumerate(from_nothing) if value > amortized.mean()), None)
amortization_gap, amortization_error = mean_and_error(refined - amortized)
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(from_nothing, label="SVI, from the same start for all")
axis.plot(from_encoder, label="SVI, from the encoder's posterior")
axis.axhline(amortized.mean(), color="grey", linestyle="--", label="the encoder alone")
axis.set(xlabel="step", ylabel="ELBO (nats)", ylim=(amortized.mean() - 40, refined.mean() + 5))
axis.grid(alpha=0.3)
axis.legend()
Markdown(
    f"On {len(x)} test images the encoder's posteriors reach {amortized.mean():.1f} nats. SVI from a common start "
    + (
        f"overtakes them after {overtaken} steps"
        if overtaken is not None
        else f"does not reach them in {len(from_nothing)} steps"
    )
    + f" and ends at {alone.mean():.1f}. From the encoder's posteriors it ends at {refined.mean():.1f}. The "
    f"amortization gap is therefore at least {amortization_gap:.2f} ± {amortization_error:.2f} nats."
)

# %% [markdown]
# The same can be done in training. `svi` trains a decoder on posteriors found by gradient ascent, and
# `semi_amortized` lets the ascent start from an encoder. An ascent of five steps makes each training step several
# times as expensive, so these three are trained for fewer epochs, all for the same number.

# %%
FEW = max(1, EPOCHS // 4)
inference = {}
for name, fields in {
    "vae": {"norm": "layer"},
    "semi_amortized": {"refine_steps": 5},
    "svi": {"refine_steps": 5},
}.items():
    begun = time.time()
    model, history = fitted(name, epochs=FEW, latent_size=LATENT, **fields)
    seconds = (time.time() - begun) / FEW
    inference[name] = {"elbo": scores(model, validation)["elbo"].numpy(), "seconds": seconds}

# %%
base = inference["vae"]["elbo"]
differences = {name: mean_and_error(own["elbo"] - base) for name, own in inference.items()}
table(
    [
        f"after {FEW} epochs",
        "validation ELBO",
        "ELBO less that of the amortized VAE",
        "seconds an epoch, compiling included",
    ],
    [
        [
            "amortized" if name == "vae" else name,
            float(own["elbo"].mean()),
            "" if name == "vae" else "{:+.2f} ± {:.2f}".format(*differences[name]),
            own["seconds"],
        ]
        for name, own in inference.items()
    ],
)

# %% [markdown]
# ## 9. Conclusions


# %%
def verdict(difference, error):
    """What a difference in the ELBO says, in words."""
    if abs(difference) < 2 * error:
        return f"not told apart from it ({difference:+.2f} ± {error:.2f} nats)"
    return f"{'better' if difference > 0 else 'worse'} by {abs(difference):.2f} ± {error:.2f} nats"


frechet = gan.history["val_frechet"]
Markdown(f"""
- **Plain Keras and the library agree.** Two models of {same.num_parameters:,} parameters end at
  {plain_history["val_elbo"][-1]:.1f} and {same_history["val_elbo"][-1]:.1f} nats after {EPOCHS} epochs.
- **The closed-form KL is exact.** {DRAWS} draws differ from it by {gap:.3f} ± {gap_error:.3f} nats.
- **{LATENT} latents are the best of {", ".join(map(str, found))}** by the validation ELBO, {found[LATENT]["elbo"]:.1f}
  nats; two latents reach {found[2]["elbo"]:.1f}. The test ELBO of the chosen model is {test["elbo"]:.1f}.
- **The GAN** took its Fréchet distance from {frechet[0]:.1f} after the first epoch to {min(frechet):.1f} at its best.
- **Flow posteriors**, beside the Gaussian: the planar flow is {verdict(*gains["planar"])}; the IAF is
  {verdict(*gains["iaf"])}.
- **Amortization costs** at least {amortization_gap:.2f} nats on the test images: that much SVI adds to the encoder's
  posteriors, with the same decoder.
- **Trained for {FEW} epochs**, beside the amortized VAE: the semi-amortized one is
  {verdict(*differences["semi_amortized"])}; the one by SVI alone is {verdict(*differences["svi"])}.

The models have seen {len(data.train.images):,} digits for {EPOCHS} epochs. The library's results on
all of MNIST are in its README.
""")
