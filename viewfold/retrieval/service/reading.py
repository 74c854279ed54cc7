"""Requests to queries and settings: JSON, a bare image, or a form; nothing unknown is dropped."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.requests import Request

from viewfold.config import Config, parse
from viewfold.errors import InvalidInput
from viewfold.retrieval.selection.demos import Query
from viewfold.retrieval.service.backend import Embedded
from viewfold.retrieval.service.config import LimitsConfig
from viewfold.retrieval.service.images import from_text
from viewfold.retrieval.service.schemas import EmbedBody, QueryBody

C = TypeVar("C", bound=Config)

QUERY_FIELDS = frozenset(field.name for field in fields(QueryBody))
_JSON = "application/json"
_TEXTS = ("sha256", "phash", "id", "group")
_OF_VECTOR = ("base_vector", "sha256", "phash")
_LONGEST_TEXT = 1024
_DEEPEST = 8  # more than any setting has above it
_LONGEST_SETTINGS = 1 << 16
_LONGEST_VECTOR = 1 << 16


@dataclass(frozen=True, eq=False)
class Asked:
    """One query as it was sent."""

    id: str
    image: bytes | InvalidInput | None
    """The file that was sent, not looked into yet, or why there is none; None where a vector was sent."""
    vector: NDArray[np.float64] | None
    base_vector: NDArray[np.float64] | None
    sha256: str | None
    phash: str | None
    group: str | None
    listed: bool
    """Whether it is one of a list, whose other queries are answered even if this one cannot be."""

    def query(self, embedded: Embedded | None) -> Query:
        """The query to select for; `embedded` is what the encoder made of the image."""
        if embedded is None:
            assert self.vector is not None
            return Query(self.id, self.vector, self.group, self.sha256, self.phash, self.base_vector)
        return Query(self.id, embedded.vector, self.group, embedded.sha256, embedded.phash, embedded.base_vector)


async def read_body(request: Request) -> dict[str, Any]:
    """The body as plain data: JSON as it stands; a bare image, or the file `image` of a form, under `image` as bytes,
    with settings in the address or the form (`k=5`, `filters.domains=["noto"]`).

    Raises:
        InvalidInput: another type of body, or one that is not what its type says.
    """
    kind = _kind(request)
    if kind == _JSON:
        return await read_json(request)
    if kind.startswith("image/"):
        return _with_image(list(request.query_params.multi_items()), await request.body())
    if kind == "multipart/form-data":
        return await _form(request)
    raise InvalidInput(f"content type {kind[:80]!r}: send application/json, image/* or multipart/form-data")


async def read_json(request: Request) -> dict[str, Any]:
    """The body of a route that takes nothing but a JSON object.

    Raises:
        InvalidInput: it is none.
    """
    if (kind := _kind(request)) != _JSON:
        raise InvalidInput(f"content type {kind[:80]!r}: send {_JSON}")
    if request.query_params:
        raise InvalidInput("settings stand in the JSON body, not in the address")
    return _json(await request.body())


def read_query(data: dict[str, Any], limits: LimitsConfig) -> Asked:
    """The one query of a body. Its keys are taken out of `data`; settings remain.

    Raises:
        InvalidInput: there is none, or not what one must be; says why.
    """
    return _asked(_taken(data), "query", limits, listed=False)


def read_queries(data: dict[str, Any], limits: LimitsConfig) -> list[Asked]:
    """The list `queries` of a body, taken out of `data`.

    Raises:
        InvalidInput: it is missing, empty or too long, or one is not what a query must be; says which and why.
    """
    if alone := _taken(data):
        raise InvalidInput(f"{', '.join(sorted(alone))}: stands in each of the queries, not beside them")
    queries = _checked_list("queries", data.pop("queries", None), limits)
    return [_asked(query, f"queries.{number}", limits, listed=True) for number, query in enumerate(queries)]


def read_images(data: Mapping[str, Any], limits: LimitsConfig) -> list[Asked]:
    """The images of a body that holds nothing else: `image`, or the list `images`.

    Raises:
        InvalidInput: none or too many, or another key.
    """
    if not data.keys() <= {"image", "images"}:
        parse(EmbedBody, dict.fromkeys(data), where="request")  # names the unknown key and the nearest known
    if "images" not in data:
        return [_asked(data, "image", limits, listed=False)]
    images = _checked_list("images", data["images"], limits)
    if "image" in data:
        raise InvalidInput("give either image or images, not both")
    return [_asked({"image": image}, f"images.{number}", limits, listed=True) for number, image in enumerate(images)]


def settings_text(data: Mapping[str, Any]) -> bytes:
    """Settings in their one form, to know equal ones by.

    Raises:
        InvalidInput: there are more of them than anyone means.
    """
    try:
        text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # it reads deeper than it writes
        raise InvalidInput("settings are nested too deep") from None
    if len(text) > _LONGEST_SETTINGS:  # hundreds of them are kept
        raise InvalidInput(f"settings of {len(text)} bytes are more than the {_LONGEST_SETTINGS} allowed")
    return text


def read_settings(cls: type[C], data: Mapping[str, Any]) -> C:
    """`parse`, remembered: clients send the same settings again and again.

    Raises:
        InvalidInput: what `parse` raises.
    """
    config: C = _parsed(cls, settings_text(data))  # type: ignore[arg-type]  # a class is hashable
    return config


@lru_cache(maxsize=256)
def _parsed(cls: Any, text: bytes) -> Any:
    return parse(cls, orjson.loads(text), where="request")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"the body must be a JSON object, got {type(data).__name__}")
    return data


async def _form(request: Request) -> dict[str, Any]:
    async with request.form(max_files=1, max_fields=64) as form:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise InvalidInput("a form needs the image as its file `image`")
        texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        texts += list(request.query_params.multi_items())
        return _with_image(texts, await image.read())


def _with_image(texts: list[tuple[str, str]], image: bytes) -> dict[str, Any]:
    data = _settings(texts)
    if "image" in data:
        raise InvalidInput("image: given twice")
    return {**data, "image": image}


def _settings(texts: list[tuple[str, str]]) -> dict[str, Any]:
    """Dotted names as nested settings; a value that is JSON counts as that, any other is a text.

    Raises:
        InvalidInput: a name is given twice, or lies below a value.
    """
    data: dict[str, Any] = {}
    for name, text in texts:
        *parents, leaf = name.split(".")
        node = data
        for parent in parents[:_DEEPEST]:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise InvalidInput(f"{name[:80]}: {parent[:80]} has a value already")
        if leaf in node:
            raise InvalidInput(f"{name[:80]}: given twice")
        node[leaf] = text if name in _TEXTS else _plain(text)
    return data


def _plain(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _taken(data: dict[str, Any]) -> dict[str, Any]:
    return {name: data.pop(name) for name in list(data) if name in QUERY_FIELDS}


def _checked_list(name: str, value: object, limits: LimitsConfig) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= limits.max_batch:
        raise InvalidInput(f"{name} must be a list of 1 to {limits.max_batch} (limits.max_batch of the service)")
    return value


def _asked(data: object, where: str, limits: LimitsConfig, *, listed: bool) -> Asked:
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{where}: must be an object with an image or a vector")
    if not data.keys() <= QUERY_FIELDS:
        parse(QueryBody, dict.fromkeys(data), where=where)  # names the unknown key and the nearest known
    given = {name: value for name, value in data.items() if value is not None}
    if ("image" in given) == ("vector" in given):
        raise InvalidInput(f"{where}: give either an image or a vector")
    if "image" in given and (beside := [name for name in _OF_VECTOR if name in given]):
        raise InvalidInput(f"{where}: {', '.join(beside)} stand beside a vector; of an image they are known")
    try:
        texts = {name: _text(name, given.get(name)) for name in _TEXTS}
        vector, base = (_vector(name, given.get(name)) for name in ("vector", "base_vector"))
        image = _image(given.get("image"))
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None
    name = where if texts["id"] is None else texts["id"]
    return Asked(name, image, vector, base, texts["sha256"], texts["phash"], texts["group"], listed)


def _text(name: str, value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= _LONGEST_TEXT):
        raise InvalidInput(f"{name} must be a text of at most {_LONGEST_TEXT} characters")
    return value


def _image(value: object) -> bytes | InvalidInput | None:
    """The file, or why it cannot be one; a value of another type is no image at all."""
    if value is None:
        return None
    if not isinstance(value, str | bytes):
        raise InvalidInput("image must be base64 or a data URI")
    try:
        return value if isinstance(value, bytes) else from_text(value)
    except InvalidInput as error:
        return error


def _vector(name: str, value: object) -> NDArray[np.float64] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= _LONGEST_VECTOR
        or not set(map(type, value)) <= {int, float}
    ):
        raise InvalidInput(f"{name} must be a list of numbers")
    vector = np.array(value, dtype=np.float64)
    with np.errstate(over="ignore"):
        length = float(vector @ vector)
    if not (0 < length < np.inf):
        raise InvalidInput(f"{name} is all zeros or not finite, so no cosine is defined")
    return vector
