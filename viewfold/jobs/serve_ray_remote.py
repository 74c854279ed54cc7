"""The deployments behind the service on Ray Serve, and what stands for them where they are called from.

Every call carries the ticket of its pair. A replica that does not hold that pair opens it, so that a request is
answered by one pair from end to end while replicas come, go and change. The other files of the service get Ray here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput, MissingDependency, ViewfoldError
from viewfold.jobs.serve_ray_ticket import Held, Ticket
from viewfold.retrieval.index.shards import IndexPart, PartFound, Waiting
from viewfold.retrieval.service.backend import Encode, NotReady, Overloaded

try:
    import ray
    from ray import serve
    from ray.serve.exceptions import BackPressureError
except ModuleNotFoundError as error:
    raise MissingDependency("serving on Ray needs Ray Serve: pip install 'viewfold[serve]'") from error

__all__ = ["EncoderReplica", "PartReplica", "RemoteEncode", "RemotePart", "hold_everywhere", "ray", "serve"]


class EncoderReplica:
    """Encoders, asked with image files."""

    def __init__(self) -> None:
        from viewfold.jobs.serve_ray_open import load_encoders  # torch, which the parts of the index do without

        self._held = Held[Mapping[str, Encode]](load_encoders)

    async def hold(self, ticket: Ticket) -> dict[str, tuple[str, int]]:
        """Open the encoders of a pair; the id and the image size of each, by its name."""
        encoders = await asyncio.to_thread(self._held.of, ticket)
        return {name: (encoder.id, encoder.size) for name, encoder in encoders.items()}

    async def encode(
        self, ticket: Ticket, name: str, images: Sequence[bytes]
    ) -> list[NDArray[np.floating[Any]] | InvalidInput]:
        """See `Encode`; `name` is `own` or `base`."""
        return await asyncio.to_thread(lambda: self._held.of(ticket)[name](images))


class PartReplica:
    """One part of the index."""

    def __init__(self, number: int, of: int) -> None:
        self._held = Held[IndexPart](
            lambda ticket: IndexPart.open(Path(ticket.bundle), number, of, bundle_id=ticket.bundle_id)
        )

    async def hold(self, ticket: Ticket) -> None:
        """Open the part of a pair."""
        await asyncio.to_thread(self._held.of, ticket)

    async def nearest(
        self, ticket: Ticket, vectors: NDArray[np.floating[Any]], fetch: int, allowed: bytes | None, exhaustive: bool
    ) -> PartFound:
        """See `Part`; `allowed` has a bit for each row."""

        def work() -> PartFound:
            part = self._held.of(ticket)
            mask = None
            if allowed is not None:
                bits = np.frombuffer(allowed, dtype=np.uint8)
                mask = np.unpackbits(bits, count=part.last - part.first).astype(bool)
            return part.nearest(vectors, fetch, mask, exhaustive)()

        return await asyncio.to_thread(work)

    async def vectors(self, ticket: Ticket, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `Part`."""
        return await asyncio.to_thread(lambda: self._held.of(ticket).vectors(rows)())


@dataclass(frozen=True, eq=False)
class RemoteEncode:
    """`Encode` by calls to the deployment that holds the encoders."""

    handle: Any
    ticket: Ticket
    name: str
    id: str
    size: int
    timeout_s: float

    def __call__(self, images: Sequence[bytes]) -> list[NDArray[np.floating[Any]] | InvalidInput]:
        """See `Encode`."""
        response = self.handle.encode.remote(self.ticket, self.name, images)
        found: list[NDArray[np.floating[Any]] | InvalidInput] = _in_time(response, self.timeout_s)
        return found


@dataclass(frozen=True, eq=False)
class RemotePart:
    """`Part` by calls to the deployment that holds it."""

    handle: Any
    ticket: Ticket
    first: int
    last: int
    timeout_s: float

    def nearest(
        self, vectors: NDArray[np.floating[Any]], fetch: int, allowed: NDArray[np.bool_] | None, exhaustive: bool
    ) -> Waiting[PartFound]:
        """See `Part`."""
        bits = None if allowed is None else np.packbits(allowed).tobytes()
        response = self.handle.nearest.remote(self.ticket, vectors, fetch, bits, exhaustive)
        return partial(_in_time, response, self.timeout_s)

    def vectors(self, rows: NDArray[np.int64]) -> Waiting[NDArray[np.float32]]:
        """See `Part`."""
        return partial(_in_time, self.handle.vectors.remote(self.ticket, rows), self.timeout_s)


def hold_everywhere(handles: Sequence[Any], ticket: Ticket) -> list[Any]:
    """Have all replicas of these deployments open a pair; for each deployment what one of them answered.

    Raises what opening raises, wherever it does.
    """
    first = [handle.hold.remote(ticket) for handle in handles]  # waits for a replica where none has started yet
    answers = [_answer(response) for response in first]
    try:
        for response in [handle.broadcast("hold", ticket) for handle in handles]:
            response.results()
    except ray.exceptions.RayTaskError as error:
        raise _ours(error) from None
    return answers


def _answer(response: Any) -> Any:
    try:
        return response.result()
    except ray.exceptions.RayTaskError as error:
        raise _ours(error) from None


def _in_time(response: Any, timeout_s: float) -> Any:
    """`_answer`, for a request."""
    try:
        return response.result(timeout_s=timeout_s)
    except ray.exceptions.RayTaskError as error:
        cause = _ours(error)
        if isinstance(cause, ArtifactMismatch):  # no fault of whoever asks: a late replica found the next pair there
            raise NotReady(f"the pair that this request began with is gone: {cause}") from None
        raise cause from None
    except (TimeoutError, BackPressureError):
        raise Overloaded("the encoder or the index has too much to do to answer in time") from None


def _ours(error: Any) -> Exception:
    """Our own error as it was raised; any other with Ray's account of where it was."""
    cause: Exception = error.cause if isinstance(error.cause, ViewfoldError) else error
    return cause
