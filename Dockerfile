# The image `genmnist`: docker build -t genmnist .
#   --build-arg DEVICE=cpu      without the CUDA libraries (gpu, the default, also runs on a machine without a GPU)
#   --build-arg COMMIT=$(git rev-parse HEAD)      recorded in every result
# No BuildKit-only syntax: the classic builder builds it too.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

FROM python AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils python3-venv \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# pip and the build backend stay in this venv; the one that is shipped, /opt/genmnist, has neither.
WORKDIR /src
COPY requirements/build.lock requirements/build.lock
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.lock
ARG DEVICE=gpu
COPY requirements/${DEVICE}.lock requirements/
# What nothing here needs stays behind: headers (430 MB), symbols (280 MB) and libclang (63 MB) of TensorFlow, pyarrow
# (170 MB), by which TensorFlow Datasets reads Parquet files, tests (60 MB), TensorFlow Probability for JAX and NumPy
# (34 MB), and TensorBoard's own server (20 MB).
RUN python3 -m venv --without-pip /opt/genmnist \
 && /opt/build/bin/pip --python /opt/genmnist/bin/python install --no-cache-dir --require-hashes \
      -r requirements/${DEVICE}.lock \
 && cd /opt/genmnist/lib/python3*/site-packages \
 && find tensorflow -name '*.so*' -exec strip --strip-unneeded {} + \
 && rm -rf tensorflow/include nvidia/*/include clang pyarrow tensorflow_probability/substrates tensorboard_data_server \
 && find . -type d -name tests -prune -exec rm -r {} +
# The package goes into a tree of its own, so that changing it leaves the big layer of dependencies alone.
COPY pyproject.toml README.md LICENSE LICENSE-mlxtend ./
COPY configs configs
COPY keras_genmnist keras_genmnist
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /tmp/wheel . \
 && /opt/build/bin/pip --python /opt/genmnist/bin/python install --no-cache-dir --no-deps --prefix /package \
      /tmp/wheel/*.whl

FROM python
COPY --from=build /opt/genmnist /opt/genmnist
# TensorFlow 2.21 opens libcusolver from a library whose RUNPATH leaves its folder out, and without it ignores every GPU.
RUN find /opt/genmnist -type d -path '*/nvidia/cusolver/lib' >/etc/ld.so.conf.d/genmnist.conf \
 && ldconfig
COPY --from=build /package /opt/genmnist
# Any `-u UID` works: no passwd entry is needed (USER answers getpass, HOME everything else), every writable place is
# open to all, and with --read-only only the two volumes are written (add --tmpfs /tmp).
RUN useradd --no-create-home --home-dir /tmp genmnist \
 && mkdir /work /data \
 && chmod 1777 /work /data
ENV PATH=/opt/genmnist/bin:$PATH \
    HOME=/tmp \
    USER=genmnist \
    MPLCONFIGDIR=/tmp/matplotlib \
    TFDS_DATA_DIR=/data \
    XDG_CACHE_HOME=/data/cache \
    PYTHONUNBUFFERED=1 \
    GENMNIST_HOST=0.0.0.0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG COMMIT=
ENV GENMNIST_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="genmnist" \
      org.opencontainers.image.description="Deep generative models of MNIST in TensorFlow and TensorFlow Probability" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause" \
      org.opencontainers.image.revision=${COMMIT}
USER genmnist
# runs/, exports/ and figures/ appear under /work.
WORKDIR /work
VOLUME ["/work", "/data"]
# `genmnist serve`, which listens on all networks in here: what reaches it is up to -p.
EXPOSE 8501
# Of a server, whether it is ready; any other verb is well as long as it runs.  Docker passes on the proxies of its
# client, which do not reach this port.
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
  CMD grep -qzx serve /proc/1/cmdline || exit 0; \
      port=$(tr '\0' '\n' </proc/1/cmdline | sed -nE 's/^--?port=//p; /^--?port$/{n;p}'); \
      url=http://127.0.0.1:${port:-8501}/readyz; \
      python -c "from urllib.request import *; build_opener(ProxyHandler({})).open('$url')"
ENTRYPOINT ["genmnist"]
CMD ["--help"]
