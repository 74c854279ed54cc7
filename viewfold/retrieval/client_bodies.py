"""What the client sends: queries and images as JSON, and lists of them in parts that a service takes."""

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.demos import Query

Sent = TypeVar("Sent", str, dict[str, Any])
Picture = bytes | str | Path
"""The bytes of an image file, or its path."""
Asked = Picture | Query | Sequence[float] | NDArray[np.floating[Any]]
"""What may be asked about: an image file, a vector of the index's encoder, or a `Query`."""
MAX_PART_BYTES = 12 * 2**20
"""Bodies stay well below the 20 MiB that a service takes by default."""
NUMBER_BYTES = 26
"""The longest number in JSON, `-2.2250738585072014e-308`, with its comma."""


def query_body(asked: Asked) -> dict[str, Any]:
    """What stands for a query in a body.

    Raises:
        InvalidInput: there is no such file, or the vector is none.
    """
    if isinstance(asked, bytes | str | Path):
        return {"image": image_text(asked)}
    if not isinstance(asked, Query):
        return {"vector": _numbers(asked)}
    body: dict[str, Any] = {"id": asked.id, "vector": _numbers(asked.vector)}
    body |= {name: value for name in ("group", "sha256", "phash") if (value := getattr(asked, name)) is not None}
    return body if asked.base_vector is None else {**body, "base_vector": _numbers(asked.base_vector)}


def image_text(image: Picture) -> str:
    """An image file in base64.

    Raises:
        InvalidInput: there is no file of this path that can be read.
    """
    if not isinstance(image, bytes):
        try:
            image = Path(image).read_bytes()
        except (OSError, ValueError) as error:  # a path with a null byte is a ValueError
            why = getattr(error, "strerror", None) or error
            shown = str(image)[:200]  # base64 is no path, and long
            raise InvalidInput(f"{shown}: cannot be read ({why}); give the path of an image, or its bytes") from None
    return base64.b64encode(image).decode("ascii")


def parts(items: Iterable[Sent], most: int, max_bytes: int = MAX_PART_BYTES) -> Iterator[list[Sent]]:
    """The items in their order, at most `most` and about `max_bytes` of JSON to a part.

    An item that is larger alone is a part of its own. Items are taken as parts are asked for: the images of one part
    are in memory at a time.
    """
    part: list[Sent] = []
    held = 0
    for item in items:
        size = _bytes(item)
        if part and (len(part) == most or held + size > max_bytes):
            yield part
            part, held = [], 0
        part.append(item)
        held += size
    if part:
        yield part


def _bytes(item: str | dict[str, Any]) -> int:
    """About how long an image or a query is in JSON, not too short."""
    if isinstance(item, str):
        return len(item)
    return sum(len(value) * (1 if isinstance(value, str) else NUMBER_BYTES) for value in item.values())


def _numbers(vector: Sequence[float] | NDArray[np.floating[Any]]) -> list[float]:
    """A vector as JSON takes it."""
    numbers: list[float] = np.asarray(vector, dtype=np.float64).tolist()
    if np.ndim(vector) != 1 or not all(map(math.isfinite, numbers)):
        raise InvalidInput(f"a query is one vector of finite numbers; this one has the shape {np.shape(vector)}")
    return numbers
