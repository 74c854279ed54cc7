"""Answers as JSON: data classes and arrays as they are, without a copy of them made first."""

from typing import Any

import orjson
from starlette.responses import Response


def answer(content: Any) -> Response:
    """`content` (data classes, arrays, plain data) as a JSON answer."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain)
    return Response(body, media_type="application/json")


def _plain(value: object) -> Any:
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
