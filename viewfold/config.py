"""Typed configuration: frozen dataclasses, one strict edge between text and types.

A YAML file, a dict and `a.b=value` on the command line all pass through `parse`: an unknown key is an error that
suggests the known one, a wrong type names the field, and nothing is dropped in silence.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml

from viewfold.errors import InvalidInput


class Config:
    """Base of every configuration dataclass; subclasses are `@dataclass(frozen=True, kw_only=True)`."""

    # Without this pydantic drops unknown keys of a dataclass in silence.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    RUNNING: ClassVar[tuple[str, ...]] = ()
    """Fields that say how the work is carried out and change nothing in what comes out: see `essence`."""


C = TypeVar("C", bound=Config)
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", re.ASCII)
"""Numbers that YAML 1.1 reads as text: 1e-3 has no dot, 1.5e3 no sign. All else that it calls text is text."""

_QUOTES = (
    "it is read as YAML, where a text with signs such as []{},:# stands in quotes, as in data.shards='[\"a[1]/b\"]'"
)


def parse(cls: type[C], data: Mapping[str, Any], where: str = "configuration") -> C:
    """Build `cls` from plain data; `where` (a file, say) opens the message of an error.

    Raises:
        InvalidInput: an unknown key (with the nearest known one), a missing one, a wrong type, a value out of range.
    """
    from pydantic import ValidationError

    try:
        checked: C = _adapter(cls).validate_python(dict(data))  # type: ignore[arg-type]  # a class is hashable
        return checked
    except ValidationError as error:
        raise InvalidInput(f"{where}: {_first_problem(cls, error)}") from None


@cache
def _adapter(cls: type[Config]) -> Any:
    """Made once: it takes milliseconds, which a service would spend on every request."""
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def check_ranges(config: Config, **ranges: tuple[float, float]) -> None:
    """For `__post_init__`: each named field lies between its two ends, both included.

    Raises:
        ValueError: one does not; names the field, what is allowed and what it is.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in {low:.4g}..{high:.4g}, got {value}")


def is_setting(word: str) -> bool:
    """Whether a word of a command line is `key=value`, and not the path of something that exists."""
    return re.match(r"[A-Za-z_][\w.]*=", word) is not None and not word.endswith(".tar") and not Path(word).exists()


def load(cls: type[C], path: Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file and apply `a.b=value` overrides."""
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; check the path")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"{path}: expected `key: value` lines at the top, found {type(data).__name__}")
    return parse(cls, overridden(data, overrides), where=str(path))


def published(
    kind: str, cls: type[C], known: Mapping[str, Callable[[], C]], name: str, overrides: Sequence[str] = ()
) -> C:
    """A published configuration by name, or a YAML file, with `a.b=value` overrides.

    Raises:
        InvalidInput: neither one of them nor a file, or settings that `parse` refuses.
    """
    if name in known:
        return override(known[name](), overrides)
    if "." in name or "/" in name:
        if not Path(name).is_file():
            raise InvalidInput(f"{name}: no such file; check the path, or name a {kind}: {', '.join(known)}")
        return load(cls, Path(name), overrides)
    raise unknown(kind, name, list(known))


def override(config: C, overrides: Sequence[str]) -> C:
    """`config` with `a.b=value` overrides applied, checked as if it had been read from a file."""
    return parse(type(config), overridden(dump(config), overrides), where="override") if overrides else config


def overridden(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `data` with each `a.b=value` set; values are read as YAML, so `[1, 2]`, `true` and `1e-3` work."""
    result: dict[str, Any] = json.loads(json.dumps(data, default=str))
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise InvalidInput(
                f"override {item!r}: write it as key=value, nested keys with dots, such as train.steps=100"
            )
        node = result
        *parents, leaf = path.split(".")
        for parent in parents:
            child = node.get(parent)
            if child is None:  # what was left out has its defaults, but for the field that is set
                child = node[parent] = {}
            if not isinstance(child, dict):
                raise InvalidInput(f"override {item!r}: {parent!r} has no fields below it")
            node = child
        node[leaf] = _value(text)
    return result


def dump(config: Config) -> dict[str, Any]:
    """Plain data that `parse` reads back to an equal configuration."""
    # Read back once: a 5 given for a float is then written as 5.0, as it is from a file, and has one fingerprint.
    return _plain(parse(type(config), _plain(config)))


def essence(config: Config) -> dict[str, Any]:
    """`dump` without the fields named in `RUNNING`: when one of those changes, what was made need not be made again."""

    def kept(part: Config, data: dict[str, Any]) -> dict[str, Any]:
        return {
            name: kept(value, data[name]) if isinstance(value := getattr(part, name), Config) else data[name]
            for name in data
            if name not in part.RUNNING
        }

    return kept(config, dump(config))


def _plain(config: Config) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))  # type: ignore[call-overload]
    return data


def to_yaml(config: Config) -> str:
    """The configuration as YAML, in the order in which its fields are declared."""
    text: str = yaml.safe_dump(dump(config), sort_keys=False, allow_unicode=True)
    return text


def fingerprint(*parts: Any) -> str:
    """16 hex digits that change when any part (a configuration, plain data, a path) changes."""
    plain = [dump(part) if isinstance(part, Config) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def choose(
    kind: str, known: Mapping[str, type[C]], data: Mapping[str, Any] | Config, presets: Mapping[str, C] | None = None
) -> C:
    """The configuration that `data` describes: its `name` picks the class, the other keys are that class's fields.

    The name may be that of a preset, whose fields hold wherever `data` says nothing else.

    Raises:
        InvalidInput: no name or an unknown one (with the nearest known one), or what `parse` refuses.
    """
    plain = dump(data) if isinstance(data, Config) else data
    fields = dict(plain) if isinstance(plain, Mapping) else {"name": plain}
    name = str(fields.get("name", ""))
    if presets and name in presets:
        preset = dump(presets[name])
        if fields.keys() >= preset.keys():
            raise InvalidInput(f"{kind}.name={name}: nothing is left to the preset; write {kind}={name}")
        fields = {**preset, **fields, "name": preset["name"]}
        name = preset["name"]
    if name not in known:
        raise unknown(kind, name, [*known, *(presets or {})])
    return parse(known[name], fields, where=kind)


def chosen(kind: str, known: Mapping[str, type[C]], presets: Mapping[str, C] | None = None) -> Any:
    """For `Annotated[Base, chosen(...)]`: a field that holds one of the `known` configurations, picked by `name`."""
    from pydantic import PlainValidator

    return PlainValidator(lambda data: choose(kind, known, data, presets))


def unknown(kind: str, name: str, known: Sequence[str]) -> InvalidInput:
    """The error for a name that no registry entry has, with the nearest one that exists."""
    return InvalidInput(f"unknown {kind} {name!r}{_did_you_mean(name, known)}; known: {', '.join(sorted(known))}")


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise InvalidInput(f"override value {text!r}: {problem}; {_QUOTES}") from None
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    for whole in _cut_paths(value):
        raise InvalidInput(f"override value {text!r}: {whole!r} is one path and was read as two; {_QUOTES}")
    return value


def _cut_paths(value: Any) -> Iterator[str]:
    """What exists under the name of two neighbours in a list and the comma between them, while they do not."""
    texts = [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
    for left, right in pairwise(texts):
        if not (os.path.exists(left) or os.path.exists(right)):
            yield from (whole for comma in (",", ", ") if os.path.exists(whole := left + comma + right))


def _first_problem(cls: type[Config], error: Any) -> str:
    problem = error.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    if problem["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
        known = _known_keys(cls, path[:-1])
        return f"unknown key {'.'.join(path)!r}{_did_you_mean(path[-1], known)}"
    if problem["type"] in {"missing", "missing_argument"}:
        return f"{'.'.join(path)}: this key is required"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], (dict, list)) else f", got {problem['input']!r}"
    if problem["type"] == "string_type" and isinstance(problem["input"], dict):
        given = f", got {problem['input']!r}; {_QUOTES}"
    return f"{'.'.join(path)}: {message}{given}" if path else message


def _known_keys(cls: type[Config], path: Sequence[str]) -> list[str]:
    """Field names at `path`, found by walking the annotations; tags of unions are not fields and are skipped."""
    from typing import get_args, get_type_hints

    candidates: list[Any] = [cls]
    for part in path:
        children: list[Any] = []
        for candidate in candidates:
            if dataclasses.is_dataclass(candidate):
                hint = get_type_hints(candidate).get(part) if isinstance(candidate, type) else None
                children += [hint, *get_args(hint), *(a for g in get_args(hint) for a in get_args(g))]
        candidates = [c for c in children if dataclasses.is_dataclass(c)] or candidates
    return sorted({f.name for c in candidates if dataclasses.is_dataclass(c) for f in dataclasses.fields(c)})


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
