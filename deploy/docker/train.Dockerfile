# The pods of `viewfold manifest rayjob`: every verb, on CPUs or NVIDIA GPUs (torch brings CUDA's libraries with it).
#   docker build -f deploy/docker/train.Dockerfile -t viewfold-train:0.1.0 .
FROM python:3.12-slim

# wget: the probes that KubeRay gives to pods call it. g++: torch.compile and DeepSpeed build code when they run.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home viewfold \
 && install --directory --owner=1000 --group=1000 /viewfold /var/cache/viewfold

# Packages first, beside the least that makes a package of ours: they are gigabytes, and change less often than code.
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY viewfold/__init__.py viewfold/
ARG EXTRAS=all
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"
COPY viewfold viewfold
RUN pip install --no-cache-dir --no-deps --force-reinstall --constraint constraints.txt .

USER 1000
WORKDIR /viewfold
CMD ["viewfold", "doctor"]
