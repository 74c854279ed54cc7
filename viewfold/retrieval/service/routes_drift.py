"""How far what is asked has drifted from the index."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from viewfold.retrieval.drift import Drift
from viewfold.retrieval.service.answers import answer
from viewfold.retrieval.service.context import pair_of, recent_of
from viewfold.retrieval.service.openapi import answered

router = APIRouter(tags=["index"])


@router.get("/v1/drift", **answered(Drift))
async def drift(request: Request) -> Response:
    """The latest queries that this process answered with demonstrations, beside the index's own images."""
    return answer(recent_of(request).drift(pair_of(request).info))
