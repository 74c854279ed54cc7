"""A client of the retrieval service: images or vectors in, the library's own types out. It needs no extra.

client = Client("http://127.0.0.1:8000", key=os.environ["VIEWFOLD_KEY"])
demos = client.demonstrations("query.png", k=5, filters={"domains": ["noto"]})    a `DemoSet`, as of `select`
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from viewfold.config import Config, dump
from viewfold.errors import InvalidInput
from viewfold.retrieval.client_answers import demo_set, drift, found, made
from viewfold.retrieval.client_bodies import Asked, Picture, image_text, parts, query_body
from viewfold.retrieval.client_http import Connection, ServiceError
from viewfold.retrieval.drift import Drift
from viewfold.retrieval.prompt.budget import BudgetConfig
from viewfold.retrieval.prompt.cost import PromptCost
from viewfold.retrieval.prompt.images import MediaType
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.selection.demos import DemoSet, Query
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.guards import GuardConfig
from viewfold.retrieval.selection.ordering import Order
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.service.backend import Found
from viewfold.retrieval.service.schemas import Layout, Prompt

T = TypeVar("T")
Plain = Mapping[str, Any]


class Settings(TypedDict, total=False):
    """How demonstrations are chosen and shown; what is left out is as the service was started with.

    `service.schemas.SettingsBody` says what each of them does. A configuration may also be given as plain data.
    """

    strategy: Literal["random", "nearest", "invariant"]
    k: int
    filters: FilterConfig | Plain
    exclude_group: bool
    guards: GuardConfig | Plain
    quota: QuotaConfig | Plain
    diversity: DiversityConfig | Plain
    abstain: AbstainConfig | Plain
    order: Order
    seed: int
    layout: Layout
    task: str
    question: str
    words: Mapping[str, str]
    rationale: bool
    max_side: int
    media: MediaType
    budget: BudgetConfig | Plain


class Client:
    """One retrieval service. Threads may share a client; `close` it, or use it in a `with` statement.

    Every method raises `ServiceError` with the service's own sentence where a request is refused or fails, and
    `InvalidInput` where there is nothing to send: no such file, a vector that is not finite. What is asked about is an
    image (the bytes of its file, or the path), a vector of the index's encoder, or a `Query`.
    """

    def __init__(
        self, url: str, *, key: str | None = None, retries: int = 4, timeout_s: float = 60.0, batch: int = 32
    ) -> None:
        """`key` is shown as a bearer key.

        An answer that says that the service is busy (429, 503) is waited out as long as its Retry-After says, and the
        request sent again, at most `retries` times. Lists go out `batch` at a time, fewer where the images are large;
        each image file is read when its turn comes.

        Raises:
            InvalidInput: `url` is not an http address, or the key cannot be sent.
        """
        if batch < 1:
            raise InvalidInput(f"batch must be 1 or more, got {batch}")
        self._connection = Connection(url, key=key, retries=retries, timeout_s=timeout_s)
        self._batch = batch

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._connection.close()

    def demonstrations(self, query: Asked, **settings: Unpack[Settings]) -> DemoSet:
        """The demonstrations for one query."""
        answer = self._connection.answer("POST", "/v1/demonstrations", {**query_body(query), **_plain(settings)})
        return demo_set(answer["demonstrations"])

    def demonstrations_batch(
        self, queries: Sequence[Asked], **settings: Unpack[Settings]
    ) -> list[DemoSet | ServiceError]:
        """The demonstrations for each query; an image that cannot be read has its error in its place."""
        results = self._results("/v1/demonstrations:batch", "queries", queries, query_body, _plain(settings))
        return [
            result if isinstance(result, ServiceError) else demo_set(result["demonstrations"]) for result in results
        ]

    def messages(self, query: Asked, **settings: Unpack[Settings]) -> Prompt:
        """The prompt for an image: messages of a chat with its demonstrations, for any OpenAI-compatible server."""
        answer = self._connection.answer("POST", "/v1/messages", {**query_body(query), **_plain(settings)})
        return made(Prompt, {**answer["prompt"], "cost": made(PromptCost, answer["prompt"]["cost"])})

    def search(
        self, queries: Sequence[Asked], k: int = 10, filters: FilterConfig | Plain | None = None
    ) -> list[list[Found] | ServiceError]:
        """The `k` nearest images to each query, best first, without guards; an error in the place of a bad image."""
        settings = _plain({"k": k} if filters is None else {"k": k, "filters": filters})
        results = self._results("/v1/search", "queries", queries, query_body, settings)
        return [result if isinstance(result, ServiceError) else found(result["hits"]) for result in results]

    def embed(self, images: Sequence[Picture]) -> list[NDArray[np.float32] | ServiceError]:
        """The vector `[dim]` of each image, as the index's encoder gives it; an error in the place of a bad image."""
        results = self._results("/v1/embed", "images", images, image_text, {})
        return [
            result if isinstance(result, ServiceError) else np.asarray(result["vector"], dtype=np.float32)
            for result in results
        ]

    def record(self, key: str) -> dict[str, Any]:
        """What the index holds of an image: label, domain, group, shard, hashes."""
        answer: dict[str, Any] = self._connection.answer("GET", f"/v1/records/{quote(key, safe='')}")
        return answer

    def thumbnail(self, key: str) -> bytes:
        """The JPEG file of an image's thumbnail."""
        return self._connection.content("GET", f"/v1/records/{quote(key, safe='')}/thumbnail")

    def indexes(self) -> list[dict[str, Any]]:
        """What is served: the pair of encoder and bundle, the settings of a request that gives none, the limits."""
        answer: list[dict[str, Any]] = self._connection.answer("GET", "/v1/indexes")["indexes"]
        return answer

    def drift(self) -> Drift:
        """How far the latest queries lie from the index that answers them, in the process that answers this."""
        return drift(self._connection.answer("GET", "/v1/drift"))

    def reload(self, source: str | None = None, *, timeout_s: float = 600.0) -> dict[str, Any]:
        """Put another pair in the place of the one that answers; None opens the service's own source anew.

        The answer says which `pair` it is now and whether it `changed`. A refused one leaves the old pair in use. It
        comes when the new pair is open and verified, which for a large index takes minutes: `timeout_s` bounds that.
        """
        body = {} if source is None else {"source": source}
        answer: dict[str, Any] = self._connection.answer("POST", "/v1/admin/reload", body, timeout_s=timeout_s)
        return answer

    def _results(
        self, path: str, name: str, asked: Sequence[T], body_of: Callable[[T], Any], settings: Plain
    ) -> Iterator[Any]:
        """The answers to a list, in its order, a `ServiceError` in the place of each `error`."""
        if isinstance(asked, bytes | str | Path | Query):
            raise InvalidInput(f"{name} is a list; put the one that you ask about into brackets")
        for part in parts(map(body_of, asked), self._batch):
            for result in self._connection.answer("POST", path, {name: part, **settings})["results"]:
                error = result.get("error")
                yield (
                    result if error is None else ServiceError(error["message"], 422, error["code"], error["request_id"])
                )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dump(value) if isinstance(value, Config) else value for name, value in settings.items()}
