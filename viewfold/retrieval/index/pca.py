"""Vectors in the few directions in which they differ most: what makes search among long vectors affordable."""

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.keyed import generator

_SAMPLE = 1 << 17  # rows that the directions are found from, at most
_CHUNK = 1 << 14  # rows at a time, so that no second copy of all vectors is made


def principal_components(vectors: NDArray[np.float32], dim: int, *, seed: int) -> NDArray[np.float32]:
    """`[row, dim]`: the rows of `[row, d]`, less their mean, along the `dim` directions of largest variance.

    Mean and directions are those of at most 2**17 rows, drawn by `seed`; the largest entry of each direction is
    positive. The components of a unit row do not have unit length.

    Raises:
        InvalidInput: `dim` is more than the vectors' own length.
    """
    if not 1 <= dim <= vectors.shape[1]:
        raise InvalidInput(f"{dim} components of vectors of {vectors.shape[1]} numbers: name a number from 1 to that")
    mean, directions = _directions(vectors, dim, seed)
    components = np.empty((len(vectors), dim), dtype=np.float32)
    for start in range(0, len(vectors), _CHUNK):
        components[start : start + _CHUNK] = (vectors[start : start + _CHUNK] - mean) @ directions
    return components


def _directions(vectors: NDArray[np.float32], dim: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean, `[d]`, and the directions, `[d, dim]`, of a sample of the rows."""
    rows = np.arange(len(vectors))
    if len(rows) > _SAMPLE:
        rows = np.sort(generator("principal components", seed).choice(len(rows), _SAMPLE, replace=False))
    parts = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    mean = sum(vectors[part].sum(axis=0, dtype=np.float64) for part in parts) / len(rows)
    covariance = np.zeros((len(mean), len(mean)))
    for part in parts:
        centred = vectors[part] - mean
        covariance += centred.T @ centred
    directions = np.linalg.eigh(covariance)[1][:, ::-1][:, :dim]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=0)[None], 0)
    return mean.astype(np.float32), (directions * np.sign(largest)).astype(np.float32)
