"""Whether a block of YAML or JSON is what it looks like: settings that a strict configuration takes, or a resource."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from viewfold.config import Config, parse
from viewfold.errors import InvalidInput


def check_json(text: str) -> None:
    """It parses."""
    json.loads(text)


def check_yaml(text: str) -> str:
    """The name of the configuration that takes these settings whole, or `resource` where Kubernetes or Ray does.

    Raises:
        InvalidInput: none does; says what each that shares a key with it has against it.
    """
    labels = text.startswith("# words.yaml")
    answers = [_owner(document, labels=labels) for document in yaml.safe_load_all(text) if document is not None]
    if not answers:
        raise InvalidInput("no settings in this block; a block of output is `text`")
    return answers[0]


def _owner(document: Any, *, labels: bool) -> str:
    if not isinstance(document, Mapping):
        raise InvalidInput(f"expected `key: value` lines, found {type(document).__name__}")
    if labels:
        return "labels"
    if {"apiVersion", "kind"} <= document.keys() or "deployments" in document:
        return "resource"
    refused = {}
    for cls in _known():
        try:
            parse(cls, document)
        except InvalidInput as error:
            if document.keys() & cls.__dataclass_fields__.keys():  # type: ignore[attr-defined]
                refused[cls.__name__] = str(error)
        else:
            return cls.__name__
    raise InvalidInput("; ".join(f"{name}: {error}" for name, error in refused.items()) or "keys of no configuration")


def _known() -> tuple[type[Config], ...]:
    from viewfold.jobs.ask import AskConfig
    from viewfold.jobs.drift import DriftConfig
    from viewfold.jobs.evaluate_config import EvaluateConfig
    from viewfold.jobs.gates_config import GatesConfig
    from viewfold.jobs.icl_config import IclConfig
    from viewfold.jobs.manifest_job import RayJobConfig
    from viewfold.jobs.manifest_nightly import CronJobConfig, RayCronJobConfig
    from viewfold.jobs.manifest_service import RayServiceConfig
    from viewfold.jobs.nightly_config import NightlyConfig
    from viewfold.jobs.run_config import RunConfig
    from viewfold.jobs.serve import ServeConfig
    from viewfold.jobs.serve_ray import RayServeConfig
    from viewfold.retrieval import SelectConfig

    return (
        RunConfig, NightlyConfig, GatesConfig, IclConfig, ServeConfig, RayServeConfig, RayJobConfig, RayServiceConfig,
        RayCronJobConfig, CronJobConfig, SelectConfig, AskConfig, DriftConfig, EvaluateConfig,
    )  # fmt: skip
