"""Hashes of images beside their vectors: other threads make them while the encoder works.

Hashing decodes an image whole, which takes as long as a small encoder; PIL lets go of Python's lock for it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from viewfold.errors import InvalidInput
from viewfold.retrieval.hashing import image_hashes

Hashes = tuple[str, str]
"""The sha256 of a file, and the perceptual hash of what it shows."""

_MOST = 8
_THREADS = min(_MOST, max(1, len(os.sched_getaffinity(0)) - 1))  # one core is the encoder's
# One for the process: pairs come and go, and what hashes depends on none.
_POOL = ThreadPoolExecutor(_THREADS, thread_name_prefix="hash")


def hashing(images: Sequence[bytes]) -> Callable[[], list[Hashes | InvalidInput]]:
    """Begin to hash image files; the answer waits, and gives for each its hashes or why it has none."""
    num = min(_THREADS, len(images))
    parts = [_POOL.submit(_hashed, images[first::num]) for first in range(num)]

    def finished() -> list[Hashes | InvalidInput]:
        done = [part.result() for part in parts]
        return [done[place % num][place // num] for place in range(len(images))]

    return finished


def _hashed(images: Sequence[bytes]) -> list[Hashes | InvalidInput]:
    found: list[Hashes | InvalidInput] = []
    for data in images:
        try:
            found.append(image_hashes(data))
        except InvalidInput as error:
            found.append(error)
    return found
