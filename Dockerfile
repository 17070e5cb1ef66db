# Two images from one file:
#
#     docker build --target pipeline --tag fbind-pipeline .    makes datasets of blends; Dask workers; no torch
#     docker build --target trainer  --tag fbind-trainer .     trains and evaluates; CUDA; no Dask, no OpenCV
#
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" fbind-pipeline build-clusters --root VOC2012 ...
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" --gpus all fbind-trainer train --shards ...
#
# What a RUN does to fbind stands in scripts/image/, which the tests run too.

FROM python:3.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_ROOT_USER_ACTION=ignore \
    HOME=/home/fbind
# Whoever owns the mounted data may run it (--user), so the home of caches is open to every user id.
RUN useradd --create-home --uid 1000 fbind && chmod 1777 /home/fbind
COPY scripts/image /opt/fbind/scripts/image
WORKDIR /opt/fbind

FROM base AS wheel
COPY . .
RUN scripts/image/build-wheel dist

# --- pipeline ---
FROM base AS pipeline
# What opencv-python's wheel links and does not bring (`ldd cv2/*.so`): libGL, GLib, xcb. A Debian release offers one
# version of a package at a time, so a pinned one could not be installed for long.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libxcb1 && \
    rm -rf /var/lib/apt/lists/*
COPY pyproject.toml .
RUN scripts/image/install-dependencies pipeline
COPY --from=wheel /opt/fbind/dist dist
RUN scripts/image/install-wheel dist
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["fbind"]
CMD ["--help"]

# --- trainer ---
# A plain Python image is enough: torch's wheels from PyPI bring CUDA, cuDNN and NCCL, and the host's NVIDIA container
# runtime mounts the driver. An nvidia/cuda base would ship all of that a second time.
FROM base AS trainer
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY pyproject.toml .
RUN scripts/image/install-dependencies trainer
COPY --from=wheel /opt/fbind/dist dist
RUN scripts/image/install-wheel dist
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["fbind"]
CMD ["--help"]
