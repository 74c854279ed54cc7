"""Clusters of all images of a manifest, read off an encoder's codes, beside simpler clusterings of the same images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.config import Config, check_ranges, dump
from viewfold.errors import InvalidInput
from viewfold.jobs.cluster_plots import cluster_sheet, heat_map
from viewfold.jobs.cluster_rows import ClusterRows, read_rows
from viewfold.keyed import generator
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.pipeline.stage import write_whole
from viewfold.retrieval.index.neighbours import neighbour_table
from viewfold.ssl.evaluate import (
    Measure,
    Split,
    best_num_clusters,
    class_ranks,
    class_subspaces,
    clustering_measures,
    k_means,
    knn_affinity,
    nearest_subspace,
    numerical_rank,
    spectral_clusterings,
    subspace_affinity,
)

FORMAT = 1
"""Version of `clusters.json`."""
CLUSTERS, TABLE, PICTURE, SHEET = "clusters.json", "clusters.parquet", "clusters.png", "clusters-sheet.png"


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Config):
    """How the images of a data set are clustered by what an encoder says of them."""

    num_clusters: int = 0
    """0: the one of `candidates` whose clusters code the features in the fewest nats. No label is looked at."""
    candidates: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)
    """Numbers of clusters whose coding lengths are compared; those above the number of images are left out."""
    neighbours: int = 50
    """Images that each image is linked to, fewer where there are not as many."""
    eta: float = 0.1
    """Temperature of the links: weights are exp(kernel / eta), made to sum to 1 over the neighbours of an image."""
    kernel: Literal["abs", "inner"] = "abs"
    """Of two codes: the size of their inner product, or the inner product itself."""
    part: Literal["invariant", "equivariant", "all"] = "invariant"
    """The features that are clustered where the encoder was kept without a subspace head; the head knows its own."""
    eps_sq: float = 0.1
    """Squared error up to which the features are coded, of rows of length 1."""
    subspace_rank: int = 10
    """Dimensions of the subspace of a class; at most half of the width of Z is taken, and at least 1."""
    seed: int = 0
    """Of k-means, of the split for the nearest subspace, and of the intervals."""

    def __post_init__(self) -> None:
        most = float("inf")
        check_ranges(self, num_clusters=(0, most), neighbours=(1, most), subspace_rank=(1, most), seed=(0, most))
        check_ranges(self, eta=(1e-3, most), eps_sq=(1e-6, most))
        if any(number < 1 for number in self.candidates):
            raise ValueError(f"candidates must be numbers of clusters of at least 1, got {self.candidates}")
        if not self.num_clusters and not self.candidates:
            raise ValueError("candidates must name a number of clusters where num_clusters is 0, got none")


@dataclass(frozen=True)
class _Found:
    """The clustering that was chosen, and what it was chosen from."""

    num_clusters: int
    cluster: NDArray[np.int64]
    lengths: dict[int, float]
    """Coding length in nats by number of clusters."""


def cluster(encoder: Path, manifest: ShardManifest, config: ClusterConfig, out: Path) -> dict[str, Any]:
    """Cluster every stored image of `manifest` by the encoder of the folder `encoder`; what `clusters.json` holds.

    Writes into `out`: `clusters.parquet` (key, cluster, label), `clusters.json`, `clusters.png` (|ZZ'| sorted by
    cluster, and the coding length over the number of clusters) and `clusters-sheet.png` (images of each cluster). All
    of it in this process; labels are used to measure the clusters and for nothing else.

    Raises:
        InvalidInput: fewer images than two, or than clusters, features that are not finite, or no such part of them.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = read_rows(encoder, manifest, part=config.part)
    found = _spectral(rows, config)
    body = {
        "format": FORMAT,
        "encoder_id": rows.encoder_id,
        "manifest_hash": manifest.hash,
        "settings": dump(config),
        "images": len(rows.keys),
        "source": rows.source,
        "num_clusters": found.num_clusters,
        "coding_length_nats": {str(number): length for number, length in found.lengths.items()},
        "cluster_sizes": np.bincount(found.cluster, minlength=found.num_clusters).tolist(),
        "geometry": _geometry(rows, found, manifest.labels, config),
        **_measured(rows, found, config),
    }
    label = [manifest.labels[index] if index >= 0 else None for index in rows.label]
    table = pa.table({"key": rows.keys, "cluster": found.cluster, "label": pa.array(label, pa.string())})
    write_whole(out / TABLE, lambda file: pq.write_table(table, file))
    heat_map(rows.z.numpy(), found.cluster, out / PICTURE, lengths=found.lengths, taken=found.num_clusters)
    cluster_sheet(manifest, rows, found.cluster, out / SHEET)
    write_whole(out / CLUSTERS, lambda file: file.write((json.dumps(body, indent=2, allow_nan=False) + "\n").encode()))
    return body


def affinity(c: NDArray[np.float32], *, neighbours: int, eta: float, kernel: str) -> Any:
    """Sparse symmetric affinities of codes `[image, dim]` of unit length on their nearest neighbours by the kernel."""
    num_rows = len(c)
    if kernel == "inner":
        table = neighbour_table(c, min(neighbours, num_rows - 1))
        return knn_affinity(table.rows, table.scores, eta=eta)
    # |c'd| is the larger of c'd and c'(-d): the nearest among all codes and their opposites, an image's own left out.
    both = np.concatenate([c, -c])
    table = neighbour_table(both, min(neighbours, num_rows - 1), apart=np.tile(np.arange(num_rows), 2))
    found, scores = table.rows[:num_rows], table.scores[:num_rows]
    # A pair of orthogonal codes can be found twice, with either sign; the opposite of a found one has a negative score.
    twice = (scores < 0) | ((scores == 0) & (found >= num_rows))
    return knn_affinity(np.where(twice | (found < 0), -1, found % num_rows), scores, eta=eta)


def _spectral(rows: ClusterRows, config: ClusterConfig) -> _Found:
    num_images = len(rows.keys)
    numbers = {number for number in config.candidates if number <= num_images}
    if config.num_clusters > num_images:
        raise InvalidInput(f"num_clusters={config.num_clusters}: there are {num_images} images; ask for fewer clusters")
    if config.num_clusters:
        numbers.add(config.num_clusters)
    if not numbers:
        raise InvalidInput(f"candidates={config.candidates}: there are {num_images} images; name smaller numbers")
    with progress("neighbours, spectral clusters, coding lengths", total=3) as bar:
        graph = affinity(rows.c.numpy(), neighbours=config.neighbours, eta=config.eta, kernel=config.kernel)
        bar.advance()
        clusterings = spectral_clusterings(graph, sorted(numbers), seed=config.seed)
        bar.advance()
        best, lengths = best_num_clusters(rows.z, clusterings, eps_sq=config.eps_sq)
        bar.advance()
    number = config.num_clusters or best
    return _Found(number, clusterings[number], lengths)


def _measured(rows: ClusterRows, found: _Found, config: ClusterConfig) -> dict[str, Any]:
    """`measures` of each clustering against the labels, and `skipped` with the reason where there is nothing to say."""
    if len(np.unique(rows.label[rows.label >= 0])) < 2:
        return {"measures": {}, "skipped": {"measures": "fewer than two classes are labelled"}}
    baselines: Mapping[str, Tensor] = {
        "k-means on Z": rows.z,
        "k-means on features": F.normalize(rows.features, dim=1),
        "k-means on pixels": rows.pixels,
    }
    split = rows.split(rows.z)
    detail: dict[str, Any] = {"num_clusters": found.num_clusters}
    measures = {"spectral": clustering_measures(found.cluster, split, seed=config.seed, detail=detail)}
    with progress("k-means for comparison", total=len(baselines)) as bar:
        for name, points in baselines.items():
            predicted = k_means(points.numpy(), found.num_clusters, seed=config.seed)
            more = {"pixel_side": rows.pixel_side} if points is rows.pixels else {}
            measures[name] = clustering_measures(predicted, split, seed=config.seed, detail=detail | more)
            bar.advance()
    skipped = {}
    try:
        measures["nearest subspace"] = _nearest_subspace(split, rank=_rank(rows, config), seed=config.seed)
    except InvalidInput as reason:  # what these data cannot show must not cost the clusters
        skipped["nearest subspace"] = str(reason)
    plain = {name: [one.to_dict() for one in several] for name, several in measures.items()}
    return {"measures": plain, "skipped": skipped}


def _nearest_subspace(split: Split, *, rank: int, seed: int) -> list[Measure]:
    """Subspaces of the labelled rows of one half of the groups, asked about those of the other.

    Raises:
        InvalidInput: features of width 1, fewer than two groups, or halves without a class in common.
    """
    if split.features.shape[1] < 2:
        raise InvalidInput("features of width 1 have no subspaces to tell apart")
    labelled = split.labelled()
    groups = np.unique(labelled.group.numpy())
    if len(groups) < 2:
        raise InvalidInput("the labelled images are of fewer than two groups, which cannot be halved")
    first = generator("nearest subspace", seed).permutation(groups)[: len(groups) // 2]
    known = torch.from_numpy(np.isin(labelled.group.numpy(), first))
    shelf, queries = _part(labelled, known), _part(labelled, ~known)
    if not torch.isin(queries.label, shelf.label).any():
        raise InvalidInput("the two halves of the groups have no class in common: each class is in too few groups")
    return nearest_subspace(shelf, queries, rank=rank, seed=seed)


def _part(split: Split, kept: Tensor) -> Split:
    return Split(split.features[kept], split.label[kept], split.group[kept])


def _rank(rows: ClusterRows, config: ClusterConfig) -> int:
    return max(1, min(config.subspace_rank, rows.z.shape[1] // 2))


def _geometry(rows: ClusterRows, found: _Found, labels: tuple[str, ...], config: ClusterConfig) -> dict[str, Any]:
    """How many dimensions Z and its parts fill, and how far the subspaces of two clusters, or classes, overlap."""
    classes = class_ranks(rows.z, rows.label)
    return {
        "rank": numerical_rank(rows.z),
        "cluster_ranks": list(class_ranks(rows.z, found.cluster).values()),
        "class_ranks": {labels[index]: rank for index, rank in classes.items()},
        "cluster_overlap": _overlap(rows, found.cluster, config),
        "class_overlap": _overlap(rows, rows.label, config),
    }


def _overlap(rows: ClusterRows, label: NDArray[np.int64], config: ClusterConfig) -> float | None:
    """Mean affinity of two different subspaces; None where there are fewer than two."""
    subspaces = class_subspaces(rows.z, label, rank=_rank(rows, config))
    number = len(subspaces.label)
    if number < 2:
        return None
    pairs = subspace_affinity(subspaces)[~torch.eye(number, dtype=torch.bool)]
    return float(pairs.mean())
