"""The running service: told of a new champion, asked which pair it serves, asked the canaries."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from viewfold.errors import InvalidInput
from viewfold.jobs.nightly_canary import Canary
from viewfold.jobs.nightly_config import ServiceTarget
from viewfold.jobs.registry import VersionFacts
from viewfold.retrieval import Client, DemoSet, SelectConfig, ServiceError

T = TypeVar("T")
ABSENT = ("unreachable", "timeout", "http", "not_ready")
"""Codes of a `ServiceError` where no service answers: nobody is there, or a proxy alone, or one that has no pair."""
_PAUSE_S = 1.0
_FINAL = (400, 401, 403, 404, 405, 422)
"""Answers that will be the same in a minute."""


def client_of(target: ServiceTarget) -> Client:
    """A client of the service.

    Raises:
        InvalidInput: the variable that was to hold its key is not set.
    """
    key = None
    if target.key_variable:
        key = os.environ.get(target.key_variable)
        if not key:
            raise InvalidInput(f"service.key_variable: {target.key_variable} is not set; set it to the service's key")
    return Client(target.url, key=key)


def tell(target: ServiceTarget) -> None:
    """Have the service open its source anew.

    Raises:
        ServiceError: it does not answer within the time, or refuses; the pair that it had is served on.
    """
    with client_of(target) as client:
        _patiently(target.wait_s, lambda: client.reload(timeout_s=max(1.0, target.wait_s)))


def serves(target: ServiceTarget, version: VersionFacts) -> None:
    """Wait until the service serves this version.

    Of several processes behind one address some may still have the old pair when another has the new one.

    Raises:
        ServiceError: it does not within the time; says what it serves.
    """
    wanted = (version.tags["encoder_id"], version.tags["bundle_id"])

    def look() -> None:
        pair = pair_served(client)
        found = (pair["encoder_id"], pair["bundle"]["id"])
        if found != wanted:
            raise ServiceError(
                f"{target.url} serves encoder {found[0]} and index {found[1]} from {pair['source']}, not version "
                f"{version.version} of {version.name}",
                code="other",
            )

    with client_of(target) as client:
        _patiently(target.wait_s, look)


def pair_served(client: Client) -> dict[str, Any]:
    """What the service says of the pair that answers."""
    pair: dict[str, Any] = client.indexes()[0]["pair"]
    return pair


def asked_there(target: ServiceTarget, version: VersionFacts, canaries: Sequence[Canary], k: int) -> list[DemoSet]:
    """The demonstrations for each canary, all of them from `version`.

    They are asked for again until no answer comes from another pair, for of several processes behind one address some
    may still have the old one. They are chosen as where nothing is set: what a service drops by its own settings says
    nothing of the pair.

    Raises:
        ServiceError: it does not answer, cannot read an image, or answers with another pair until the time is over.
    """
    wanted = (version.tags["encoder_id"], version.tags["bundle_id"])
    plain = SelectConfig(k=k)

    def ask() -> list[DemoSet]:
        answers = client.demonstrations_batch(
            [canary.file for canary in canaries],
            k=k,
            strategy="invariant",
            filters=plain.filters,
            quota=plain.quota,
            diversity=plain.diversity,
            abstain={"min_p_match": 0.0},
        )
        found = []
        for answer in answers:
            if isinstance(answer, ServiceError):
                raise answer
            if (answer.encoder_id, answer.bundle_id) != wanted:
                raise ServiceError(
                    f"{target.url} answers with encoder {answer.encoder_id} and index {answer.bundle_id}, not with "
                    f"version {version.version} of {version.name}",
                    code="other",
                )
            found.append(answer)
        return found

    with client_of(target) as client:
        return _patiently(target.wait_s, ask)


def _patiently(wait_s: float, ask: Callable[[], T]) -> T:
    """The answer, asked for again for so long as what stands in the way may pass."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except ServiceError as error:
            if error.status in _FINAL or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)
