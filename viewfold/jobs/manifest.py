"""Kubernetes resources as text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from viewfold.config import load, overridden, parse
from viewfold.jobs.manifest_config import ManifestConfig

M = TypeVar("M", bound=ManifestConfig)


def manifest_config(cls: type[M], word: str, key: str, overrides: Sequence[str]) -> M:
    """The file `word` (.yaml, .yml), else the defaults with `word` for the setting `key`; with `a.b=value` overrides.

    Raises:
        InvalidInput: no such file, or settings that `config.parse` refuses.
    """
    if word.endswith((".yaml", ".yml")):
        return load(cls, Path(word), overrides)
    data: dict[str, Any] = {}
    *parents, leaf = key.split(".")
    node = data
    for parent in parents:
        node = node.setdefault(parent, {})
    node[leaf] = word
    return parse(cls, overridden(data, overrides), where="manifest")


def manifest_text(documents: Sequence[Mapping[str, Any]]) -> str:
    """The documents as YAML for `kubectl apply -f -`; texts of several lines stay readable."""
    text: str = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes a text of several lines as a block, and equal parts in full, for people and tools that know no anchors."""


def _text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.ignore_aliases = lambda _self, _data: True
_Dumper.add_representer(str, _text)
