"""The OpenAPI description of what the routes read and answer; bodies are read by us, so they are described by us."""

import ast
import inspect
from itertools import pairwise
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from viewfold.retrieval.prompt.budget import BudgetConfig
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.selection.diversity import DiversityConfig
from viewfold.retrieval.selection.filters import FilterConfig
from viewfold.retrieval.selection.guards import GuardConfig
from viewfold.retrieval.selection.quota import QuotaConfig
from viewfold.retrieval.service.schemas import (
    EmbedBody,
    ErrorAnswer,
    QueryBody,
    ReloadBody,
    SearchSettings,
    SettingsBody,
)

Schema = dict[str, Any]

_ERRORS = {
    400: "The request cannot be read.",
    401: "No key, or a wrong one.",
    403: "A service without keys answers to this machine alone.",
    413: "The body is too long.",
    422: "Something in the request cannot be used; `message` says what, where and what to do.",
    503: "Overloaded, or not ready; Retry-After says when to come back.",
    504: "It took longer than the service allows.",
}
_PARTS = (AbstainConfig, BudgetConfig, DiversityConfig, FilterConfig, GuardConfig, QuotaConfig)
_BODIES = (QueryBody, SettingsBody, SearchSettings, EmbedBody, ReloadBody)


def answered(model: type | None, *, media: str = "application/json", missing: bool = False) -> dict[str, Any]:
    """For a route's decorator: what it answers, a `model` or a file of type `media`; with `missing` also 404."""
    good: dict[str, Any] = {"description": "As asked."}
    if model is None:
        good["content"] = {media: {}}
    else:
        good["model"] = model
    errors = {**_ERRORS, **({404: "There is none."} if missing else {})}
    responses = {status: {"model": ErrorAnswer, "description": text} for status, text in sorted(errors.items())}
    return {"responses": {200: good, **responses}, "response_class": Response, "response_model": None}


def described(body: str, model: type, *, image: bool = False) -> dict[str, Any]:
    """For a route's decorator: which of `components` it reads as JSON, and whether it takes an image file too."""
    content: Schema = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}
    if image:
        file = {"type": "string", "format": "binary"}
        content["image/*"] = {"schema": file}
        content["multipart/form-data"] = {
            "schema": {"type": "object", "required": ["image"], "properties": {"image": file}}
        }
    return {**answered(model), "openapi_extra": {"requestBody": {"required": True, "content": content}}}


def describe(app: FastAPI) -> None:
    """Let `app.openapi` describe the bodies too."""
    plain = app.openapi

    def openapi() -> Schema:
        if app.openapi_schema is None:
            schema = plain()
            schema["components"]["schemas"] |= _components()
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}, {}]
            for part in schema["components"]["schemas"].values():
                if "description" in part:  # a docstring's examples are Python, and nobody's who sends JSON
                    part["description"] = part["description"].partition("\n\n>>>")[0]
        return app.openapi_schema or schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _components() -> Schema:
    """Schemas of all bodies, and of what they hold, from the data classes that read them."""
    notes = FastAPI(title="bodies")
    for body in _BODIES:

        def route(data: Any) -> None: ...

        route.__annotations__["data"] = body
        notes.post(f"/{body.__name__}")(route)
    schemas: Schema = notes.openapi()["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for kind in (*_BODIES, *_PARTS):
        for name, text in _told(kind).items():
            schemas[kind.__name__]["properties"][name]["description"] = text
    query, settings, search = (schemas[kind.__name__] for kind in (QueryBody, SettingsBody, SearchSettings))
    queries = {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/QueryBody"}}
    several = {"properties": {"queries": {**queries, "description": "Several queries, which share their settings."}}}
    schemas["DemonstrationsBody"] = _joined("DemonstrationsBody", query, settings)
    schemas["BatchBody"] = {**_joined("BatchBody", several, settings), "required": ["queries"]}
    schemas["SearchBody"] = _joined("SearchBody", query, search, several)
    del schemas[SettingsBody.__name__], schemas[SearchSettings.__name__]  # parts of others, sent by nobody
    return schemas


def _joined(title: str, *parts: Schema) -> Schema:
    properties = {name: schema for part in parts for name, schema in part["properties"].items()}
    return {"title": title, "type": "object", "additionalProperties": False, "properties": properties}


def _told(kind: type) -> dict[str, str]:
    """The sentence under each field of a data class, which Python itself forgets."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
