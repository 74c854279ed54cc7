# The pods of `viewfold manifest rayservice`: encoder, index and HTTP, on CPUs or NVIDIA GPUs.
#   docker build -f deploy/docker/serve.Dockerfile -t viewfold-serve:0.1.0 .
FROM python:3.12-slim

# wget: the probes that KubeRay gives to pods call it.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home viewfold \
 && install --directory --owner=1000 --group=1000 /viewfold /var/cache/viewfold

# Packages first, beside the least that makes a package of ours: they are gigabytes, and change less often than code.
WORKDIR /build
COPY constraints.txt pyproject.toml README.md LICENSE NOTICE ./
COPY viewfold/__init__.py viewfold/
ARG EXTRAS=train,remote,retrieval,serve
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"
COPY viewfold viewfold
RUN pip install --no-cache-dir --no-deps --force-reinstall --constraint constraints.txt .

USER 1000
WORKDIR /viewfold
CMD ["viewfold", "doctor"]
