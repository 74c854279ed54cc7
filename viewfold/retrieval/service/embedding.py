"""Images of a request to queries, in one call of the encoder; one bad image does not hurt the others."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval.selection.demos import Query
from viewfold.retrieval.service.backend import Embedded, ServedPair
from viewfold.retrieval.service.context import settings_of, timed
from viewfold.retrieval.service.images import check_header
from viewfold.retrieval.service.reading import Asked


async def queries_of(request: Request, pair: ServedPair, asked: Sequence[Asked]) -> list[Query | InvalidInput]:
    """For each that was asked the query to search with, or why its image cannot be read.

    Raises:
        InvalidInput: the image of a query that stands alone cannot be read, or a vector has nothing to be held against.
        ArtifactMismatch: a vector that was sent has another length than those of the index.
    """
    for one in asked:
        if one.vector is not None and len(one.vector) != pair.info.bundle.dim:
            raise ArtifactMismatch(
                f"{one.id}: the vector has {len(one.vector)} numbers and the index holds vectors of "
                f"{pair.info.bundle.dim}; embed it with encoder {pair.info.encoder_id}"
            )
        if one.base_vector is not None and pair.info.bundle.base_encoder_id is None:
            raise InvalidInput(f"{one.id}: this index has no vectors of a base encoder; leave base_vector out")
    images = [one.image for one in asked if isinstance(one.image, bytes)]
    embedded = iter(await embedded_files(request, pair, images))
    queries: list[Query | InvalidInput] = []
    for one in asked:
        made = next(embedded) if isinstance(one.image, bytes) else one.image
        if not isinstance(made, InvalidInput):
            queries.append(one.query(made))
        elif one.listed:
            queries.append(InvalidInput(f"{one.id}: {made}"))
        else:
            raise made
    return queries


def usable(queries: Sequence[Query | InvalidInput]) -> list[Query]:
    """Those that can be searched with."""
    return [query for query in queries if not isinstance(query, InvalidInput)]


async def embedded_files(request: Request, pair: ServedPair, images: Sequence[bytes]) -> list[Embedded | InvalidInput]:
    """For each file what the encoder makes of it, or why it is no image that this service takes."""
    if not images:
        return []
    with timed(request, "embed"):
        faults = await asyncio.to_thread(_faults, images, settings_of(request).limits.max_pixels)
        sound = [data for data, fault in zip(images, faults, strict=True) if fault is None]
        embedded = iter(await pair.embed(sound))
        return [next(embedded) if fault is None else fault for fault in faults]


def _faults(images: Sequence[bytes], max_pixels: int) -> list[InvalidInput | None]:
    """What `check_header` has against each file."""
    faults: list[InvalidInput | None] = []
    for data in images:
        try:
            check_header(data, max_pixels)
            faults.append(None)
        except InvalidInput as error:
            faults.append(error)
    return faults


def vectors_of(queries: Sequence[Query]) -> NDArray[np.floating[Any]]:
    """`[query, dim]`."""
    return np.stack([query.vector for query in queries])
