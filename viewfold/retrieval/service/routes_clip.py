"""The interface of clip-retrieval's backend, so that its own `ClipClient` and front end work with this service.

An id is a row of the index. What needs models that an encoder of images has not (text, safety, violence, aesthetics)
is refused where it is asked for by name (`text`), and has no effect where clients send it unasked (the switches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import orjson
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import PlainTextResponse, Response

from viewfold.config import Config, check_ranges, unknown
from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.service import metrics
from viewfold.retrieval.service.answers import answer
from viewfold.retrieval.service.backend import Found, ServedPair
from viewfold.retrieval.service.context import pair_of, settings_of, timed
from viewfold.retrieval.service.embedding import embedded_files
from viewfold.retrieval.service.images import from_text
from viewfold.retrieval.service.openapi import answered
from viewfold.retrieval.service.reading import read_settings

NAME = "viewfold"
"""What the index is called here, whichever is loaded; its bundle's id is understood too."""
MAX_IDS = 1000
"""Records in one answer."""

router = APIRouter(tags=["clip-retrieval"])


@dataclass(frozen=True, kw_only=True)
class KnnSettings(Config):
    """What stands beside the query, in clip-retrieval's words."""

    text: str | None = None
    """Refused: an encoder of images has no text tower."""
    image_url: str | None = None
    """Refused: addresses are not fetched."""
    modality: Literal["image", "text"] = "image"
    num_images: int = 40
    """Answers with all that is known; those behind them have an id and a similarity."""
    num_result_ids: int | None = None
    """Answers; left out, as many as `num_images`."""
    indice_name: str | None = None
    """One of /indices-list; left out, the only one."""
    deduplicate: bool = False
    """Of images with the same bytes or the same perceptual hash, show the nearest alone."""
    use_mclip: bool = False
    """Without effect, as the next four: there are no such models, and clients send these unasked."""
    use_safety_model: bool = False
    use_violence_detector: bool = False
    aesthetic_score: float | str | None = None
    aesthetic_weight: float | str | None = None

    def __post_init__(self) -> None:
        check_ranges(self, num_images=(0, 10_000))
        if self.num_result_ids is not None:
            check_ranges(self, num_result_ids=(1, 10_000))


@dataclass(frozen=True, kw_only=True)
class MetadataBody(Config):
    """Images whose records are wanted."""

    ids: list[int]
    indice_name: str | None = None
    """One of /indices-list; left out, the only one."""

    def __post_init__(self) -> None:
        if len(self.ids) > MAX_IDS:
            raise ValueError(f"ids: at most {MAX_IDS} at a time, got {len(self.ids)}")


def _body(*required: str, **properties: Mapping[str, Any]) -> dict[str, Any]:
    """What a route reads and answers, for its decorator."""
    schema = {"type": "object", "required": list(required), "properties": properties}
    content = {"application/json": {"schema": schema}}
    extra = {"requestBody": {"required": True, "content": content}}
    return {**answered(None, media="application/json"), "openapi_extra": extra}


_INDEX = {"type": "string", "enum": [NAME]}
_QUERY: dict[str, Any] = {
    "image": {"type": "string", "contentEncoding": "base64"},
    "embedding_input": {"type": "array", "items": {"type": "number"}},
}


@router.post(
    "/knn-service",
    **_body(
        **_QUERY,
        modality={"type": "string", "enum": ["image"]},
        num_images={"type": "integer", "minimum": 0, "default": 40},
        num_result_ids={"type": "integer", "minimum": 1},
        indice_name=_INDEX,
        deduplicate={"type": "boolean", "default": False},
    ),
)
async def knn_service(request: Request) -> Response:
    """The nearest images to an image or a vector."""
    pair, limits = pair_of(request), settings_of(request).limits
    data = _object(await request.body())
    image, numbers = data.pop("image", None), data.pop("embedding_input", None)
    body = read_settings(KnnSettings, data)
    _check_name(body.indice_name, pair)
    wanted = body.num_images if body.num_result_ids is None else body.num_result_ids
    if not 1 <= wanted <= limits.max_k:
        raise InvalidInput(f"num_result_ids must lie in 1..{limits.max_k} (limits.max_k), got {wanted}")
    if body.modality == "text" or body.text:
        raise InvalidInput("text: the encoder of this index takes images alone; send image or embedding_input")
    if body.image_url:
        raise InvalidInput("image_url: addresses are not fetched; send the image itself as image, in base64")
    vector = _numbers(numbers, pair) if image is None else await _embedded(request, pair, image)
    with timed(request, "search"):
        (hits,) = await pair.search(vector, wanted, FilterConfig())
    records: Mapping[int, dict[str, Any] | None] = {}
    if body.deduplicate or body.num_images:
        rows = [hit.row for hit in (hits if body.deduplicate else hits[: body.num_images])]
        records = dict(zip(rows, await pair.records(rows), strict=True))
    if body.deduplicate:
        hits = _unlike(hits, records)
    thumbnails = f"{request.base_url}v1/records"
    shown = [_shown(hit, records.get(hit.row), thumbnails) for hit in hits[: body.num_images]]
    rest = [{"id": hit.row, "similarity": hit.score} for hit in hits[body.num_images :]]
    return answer([*shown, *rest])


@router.post(
    "/metadata",
    **_body(
        "ids",
        ids={"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": MAX_IDS},
        indice_name=_INDEX,
    ),
)
async def metadata(request: Request) -> Response:
    """The records of images by their ids."""
    pair = pair_of(request)
    body = read_settings(MetadataBody, _object(await request.body()))
    _check_name(body.indice_name, pair)
    size = pair.info.bundle.n
    outside = [row for row in body.ids if not 0 <= row < size]
    if outside:
        raise InvalidInput(f"/metadata: no image has the id {outside[0]}; they lie in 0..{size - 1}")
    records = await pair.records(body.ids)
    return answer([{"id": row, "metadata": record} for row, record in zip(body.ids, records, strict=True)])


@router.get("/indices-list", **answered(None, media="application/json"))
async def indices_list(request: Request) -> Response:
    """The names of the indexes: one."""
    pair_of(request)
    return answer([NAME])


@router.get("/metrics-summary", **answered(None, media="text/plain"))
async def metrics_summary() -> Response:
    """How often each route was asked since the start, and how long it took, as a table."""
    sums: dict[str, dict[str, float]] = {}
    for sample in (sample for metric in metrics.SECONDS.collect() for sample in metric.samples):
        if not sample.name.endswith(("_sum", "_count")):
            continue
        sums.setdefault(sample.labels["route"], {})[sample.name.rpartition("_")[2]] = sample.value
    lines = [
        f"{route:32} {found['count']:10.0f} {found['sum'] / found['count']:10.4f}s"
        for route, found in sorted(sums.items())
        if found.get("count")
    ]
    return PlainTextResponse("\n".join([f"{'route':32} {'requests':>10} {'average':>11}", *lines]) + "\n")


async def _embedded(request: Request, pair: ServedPair, image: object) -> NDArray[np.floating[Any]]:
    """`[1, dim]`: what the encoder makes of an image file in base64."""
    if not isinstance(image, str):
        raise InvalidInput("image must be base64")
    (embedded,) = await embedded_files(request, pair, [from_text(image)])
    if isinstance(embedded, InvalidInput):
        raise InvalidInput(f"image: {embedded}")
    return embedded.vector[None]


def _numbers(numbers: object, pair: ServedPair) -> NDArray[np.floating[Any]]:
    """`[1, dim]`: a vector as it was sent."""
    dim = pair.info.bundle.dim
    if not isinstance(numbers, list) or len(numbers) != dim or not set(map(type, numbers)) <= {int, float}:
        raise InvalidInput(
            f"send image (base64) or embedding_input, a list of the {dim} numbers of this index's vectors"
        )
    return np.array([numbers], dtype=np.float64)


def _shown(hit: Found, record: Mapping[str, Any] | None, thumbnails: str) -> dict[str, Any]:
    """All that is known of a hit, under clip-retrieval's names and ours."""
    return {
        **(record or {}),
        "id": hit.row,
        "similarity": hit.score,
        "image_path": hit.key,
        "caption": hit.label or "",
        "url": f"{thumbnails}/{quote(hit.key, safe='')}/thumbnail",
    }


def _unlike(hits: Sequence[Found], records: Mapping[int, Mapping[str, Any] | None]) -> list[Found]:
    """The hits without those that look like one before them."""
    seen: set[str] = set()
    kept = []
    for hit in hits:
        record = records[hit.row] or {}
        marks = {f"{name}:{record[name]}" for name in ("sha256", "phash") if record.get(name)}
        if not marks & seen:
            kept.append(hit)
        seen |= marks
    return kept


def _check_name(name: str | None, pair: ServedPair) -> None:
    if name not in (None, NAME, pair.info.bundle.id):
        raise unknown("indice_name", str(name), [NAME])


def _object(data: bytes) -> dict[str, Any]:
    """The body, whatever type it says it has: `ClipClient` names none."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidInput("the body is not a JSON object")
    return found
