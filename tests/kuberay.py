"""What KubeRay's own resource definitions say of a resource."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]


def problems_with(resource: dict[str, Any]) -> list[str]:
    """Why it would be refused; the test is skipped where the definitions are not found."""
    import jsonschema  # type: ignore[import-untyped]  # ships no types

    validator = jsonschema.Draft202012Validator(_schema(resource["kind"]))
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(resource)]


@cache
def _schema(kind: str) -> dict[str, Any]:
    """What the resource definition says of version v1, where unknown fields are errors, as they are for kubectl."""
    folder = Path(os.environ.get("VIEWFOLD_DATA", CHECKOUT.parent / "shared" / "data")) / "kuberay"
    file = folder / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"no {file}: KubeRay's resource definitions are found in `kuberay` of the folder VIEWFOLD_DATA")
    definition = yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    closed: dict[str, Any] = _close(version["schema"]["openAPIV3Schema"])
    return closed


def _close(node: Any) -> Any:
    if isinstance(node, list):
        return [_close(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _close(entry) for key, entry in node.items()}
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
