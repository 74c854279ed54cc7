"""The application: routes over a backend, with keys, limits, metrics and a log around them."""

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from viewfold import __version__
from viewfold.retrieval.service import (
    routes_admin,
    routes_clip,
    routes_demonstrations,
    routes_drift,
    routes_index,
    routes_page,
    routes_search,
)
from viewfold.retrieval.service.auth import read_keys
from viewfold.retrieval.service.backend import Backend
from viewfold.retrieval.service.border import Border
from viewfold.retrieval.service.choosing import chooser
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.failures import failure_of
from viewfold.retrieval.service.openapi import describe
from viewfold.retrieval.service.recent import RecentQueries

ROUTERS = (
    routes_demonstrations.router,
    routes_search.router,
    routes_index.router,
    routes_drift.router,
    routes_admin.router,
    routes_clip.router,
    routes_page.router,
)


def make_app(backend: Backend, settings: ServiceConfig) -> FastAPI:
    """The application over a backend that is loaded, or will be; on shutdown it closes the backend.

    Without keys the Host header must name this machine (`TestClient(app, base_url="http://127.0.0.1")`), and what a
    page of another origin sends is refused.

    Raises:
        InvalidInput: no keys for a host that is not loopback, or a keys file that cannot be used.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await backend.close()

    # Pillow warns of damaged tags in words that whoever sends the file can choose, and each would be kept for ever.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    app = FastAPI(
        title="viewfold",
        version=__version__,
        description="Labelled demonstrations for an image, from an index of images.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from a foreign host
        redoc_url=None,
    )
    app.state.backend, app.state.settings, app.state.choose = backend, settings, chooser(settings)
    app.state.recent = RecentQueries()
    app.add_middleware(Border, backend=backend, keys=read_keys(settings), limits=settings.limits)
    app.add_exception_handler(HTTPException, _framework_error)
    app.add_exception_handler(RequestValidationError, _framework_error)
    for router in ROUTERS:
        app.include_router(router)
    describe(app)
    return app


async def _framework_error(request: Request, error: Exception) -> Response:
    failure = failure_of(error)
    request.state.error = failure.code
    return failure.response(request.state.request_id)
