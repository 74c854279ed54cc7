"""Whether the service lives and can answer, what it has counted, and what it is to serve."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import PurePath

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.answers import answer
from viewfold.retrieval.service.context import backend_of, pair_of, recent_of, settings_of
from viewfold.retrieval.service.metrics import CONTENT_TYPE, exposition
from viewfold.retrieval.service.openapi import answered, described
from viewfold.retrieval.service.reading import read_json, read_settings
from viewfold.retrieval.service.schemas import ReloadAnswer, ReloadBody, StatusAnswer

router = APIRouter(tags=["service"])


@router.get("/healthz", **answered(StatusAnswer))
async def healthz() -> Response:
    """The process is alive."""
    return answer({"status": "ok", "pair": None})


@router.get("/readyz", **answered(StatusAnswer))
async def readyz(request: Request) -> Response:
    """An encoder and an index are loaded and belong together; 503 until then, and not while others are loaded."""
    return answer({"status": "ready", "pair": pair_of(request).info.id})


@router.get("/metrics", **answered(None, media="text/plain"))
async def metrics(request: Request) -> Response:
    """What the service has counted, for Prometheus."""
    pair = request.state.pair
    if pair is None:
        return Response(exposition(None, None), media_type=CONTENT_TYPE)
    return Response(exposition(pair.info, recent_of(request).drift(pair.info)), media_type=CONTENT_TYPE)


@router.post("/v1/admin/reload", **described("ReloadBody", ReloadAnswer))
async def reload(request: Request) -> Response:
    """Load another encoder and index beside those that answer, check them, and let them answer; what cannot be used is
    refused, and what answered goes on."""
    body = read_settings(ReloadBody, await read_json(request) if await request.body() else {})
    _check_source(body.source, settings_of(request).reload_sources)
    before = request.state.pair
    info = await backend_of(request).reload(body.source)
    request.state.pair = backend_of(request).pair()
    return answer({"pair": info, "changed": before is None or before.info.id != info.id})


def _check_source(source: str | None, allowed: Sequence[str]) -> None:
    """A pattern says which places are meant, and a way back up would lead to others."""
    if source is None or (".." not in PurePath(source).parts and any(fnmatchcase(source, one) for one in allowed)):
        return
    raise InvalidInput(
        f"source {source[:200]!r}: not one that this service may open; send none to open its own again, or start it "
        "with a pattern for this one in service.reload_sources (on Ray, deploy again with another user_config.source)"
    )
