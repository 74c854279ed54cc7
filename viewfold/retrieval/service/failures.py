"""Errors as answers: one JSON object with a code, a sentence and the request's id, never a traceback."""

from dataclasses import dataclass
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from viewfold.errors import InvalidInput, MissingDependency, ViewfoldError
from viewfold.retrieval.service.backend import NotReady, Overloaded


class TooLarge(ViewfoldError):
    """A request's body is longer than is taken."""


class NotFound(ViewfoldError):
    """What a path names is not there."""


class Unauthorized(ViewfoldError):
    """No key came with the request, or a wrong one."""


class Forbidden(ViewfoldError):
    """A request that no key would help."""


@dataclass(frozen=True)
class Failure:
    """An answer to a request that failed."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self, request_id: str) -> dict[str, Any]:
        """What the answer says."""
        return {"error": {"code": self.code, "message": self.message, "request_id": request_id}}

    def response(self, request_id: str) -> Response:
        """The answer."""
        content = orjson.dumps(self.body(request_id))
        return Response(content, self.status, headers=dict(self.headers), media_type="application/json")


TIMEOUT = "the request took longer than {seconds:g} s; ask for less"
_INTERNAL = "something went wrong inside the service; its log has the request id"
_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (TooLarge, 413, "too_large"),
    (NotFound, 404, "not_found"),
    (Unauthorized, 401, "unauthorized"),
    (Forbidden, 403, "forbidden"),
    (NotReady, 503, "not_ready"),
    (Overloaded, 503, "overloaded"),
    (InvalidInput, 422, "invalid_input"),
    (MissingDependency, 501, "not_installed"),
)
_OF_STATUS = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 406: "not_acceptable"}


def failure_of(error: Exception) -> Failure:
    """The answer to an error; one that was not raised on purpose says nothing of itself."""
    if isinstance(error, HTTPException):
        return _of_framework(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        return Failure(422, "invalid_input", f"{place}: {first['msg']}" if place else str(first["msg"]))
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return Failure(status, code, str(error), _headers(error))
    return Failure(500, "internal", _INTERNAL)


def timed_out(seconds: float) -> Failure:
    """The answer to a request that took longer than `seconds`."""
    return Failure(504, "timeout", TIMEOUT.format(seconds=seconds))  # the same again would take as long


def _of_framework(error: HTTPException) -> Failure:
    code = _OF_STATUS.get(error.status_code, "http_error")
    return Failure(error.status_code, code, str(error.detail), tuple((error.headers or {}).items()))


def _headers(error: Exception) -> tuple[tuple[str, str], ...]:
    if isinstance(error, Unauthorized):
        return (("WWW-Authenticate", "Bearer"),)
    if isinstance(error, Overloaded):
        return (("Retry-After", str(error.retry_after_s)),)
    return (("Retry-After", "2"),) if isinstance(error, NotReady) else ()
