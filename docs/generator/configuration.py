"""docs/reference/configuration.md: every setting there is, from the data classes that hold them."""

import ast
import math

from docs.generator.source import Field, Package
from docs.generator.text import wrapped

ROOTS: dict[str, tuple[tuple[str, ...], str]] = {
    "A run": (
        ("RunConfig",),
        "`viewfold run RECIPE|FILE.yaml KEY=VALUE ...` reads these, and so do the verbs of single stages.",
    ),
    "A nightly": (
        ("NightlyConfig",),
        "`viewfold nightly CONFIG.yaml KEY=VALUE ...`; the gates also `viewfold promote`.",
    ),
    "Asking": (
        ("AskConfig",),
        "`viewfold ask IMAGE KEY=VALUE ...`; `select` is also what a notebook hands to `select`.",
    ),
    "Measuring selection": (("IclConfig",), "`viewfold icl-eval RECIPE|FILE.yaml KEY=VALUE ...`."),
    "Serving": (("RayServeConfig",), "`viewfold serve SOURCE KEY=VALUE ...`; with `--ray` also those of Ray Serve."),
    "Videos": (("VideoConfig",), "`viewfold data video FILES... KEY=VALUE ...`."),
    "A cluster that runs": (("SubmitConfig",), "What the options of `viewfold submit` come to."),
    "Kubernetes": (
        ("RayJobConfig", "RayServiceConfig", "RayCronJobConfig", "CronJobConfig"),
        "`viewfold manifest KIND CONFIG.yaml KEY=VALUE ...`.",
    ),
    "Bodies of requests": (
        ("QueryBody", "SettingsBody", "SearchSettings", "EmbedBody", "ReloadBody", "KnnSettings", "MetadataBody"),
        "What the service reads; [HTTP API](http.md) says where.",
    ),
    "Records in files": (
        ("FeatureInfo", "BundleInfo", "HeadConfig", "SubspaceHeadConfig", "Served"),
        "Written by the program and read back by the same strict parser; nobody sets these by hand.",
    ),
}
"""For each part of the page: the configurations it begins with, and who reads them."""

INTRODUCTION = """\
# Configuration

Every setting, as the source declares it. A YAML file, a dict in Python and `key=value` on the command line pass through
one strict parser: an unknown key is an error that suggests the known one. Keys inside of keys are joined by dots:
`pretrain.optim.lr=1e-3`. `viewfold recipe show NAME` prints a whole tree with its values.

A setting without a default is required. Where a range is named, both ends are allowed; a value outside is refused with
a line that names the range.
"""


def page(package: Package) -> str:
    """The whole page.

    Raises:
        LookupError: a configuration that no root leads to; add it to `ROOTS`.
    """
    blocks = [INTRODUCTION]
    seen: set[str] = set()
    for heading, (roots, sentence) in ROOTS.items():
        places: dict[str, list[str]] = {}
        for root in roots:
            _walk(package, root, "", places)
        blocks += [f"## {heading}\n", wrapped(sentence)]
        blocks += [_section(package, name, paths) for name, paths in places.items() if name not in seen]
        seen |= set(places)
    if left := sorted(set(package.configs) - seen):
        raise LookupError(f"no part of docs/reference/configuration.md leads to {', '.join(left)}; add it to ROOTS")
    return "\n".join(blocks)


def _walk(package: Package, name: str, path: str, places: dict[str, list[str]]) -> None:
    """Note where `name` and all below it are set, in the order in which they are met."""
    places.setdefault(name, []).append(path)
    for base in package.bases(name):
        if path not in places.get(base, []):
            _walk(package, base, path, places)
    for child in package.children(name) if path else []:
        if path not in places.get(child, []):
            _walk(package, child, path, places)
    for field in package.fields(name).values():
        for found in _configs(package, field.kind):
            _walk(package, found, f"{path}.{field.name}".lstrip("."), places)


def _configs(package: Package, kind: ast.AST) -> list[str]:
    return [node.id for node in ast.walk(kind) if isinstance(node, ast.Name) and node.id in package.configs]


def _section(package: Package, name: str, paths: list[str]) -> str:
    where = ", ".join(f"`{path}`" for path in paths if path)
    names = _literal(package, name)
    chosen = f", where `name` is `{names}`" if names and where else ""
    lines = [f"### {name}\n", wrapped(package.doc(name) + (f" Key: {where}{chosen}." if where else ""))]
    if bases := package.bases(name):
        lines.append(wrapped(f"It also has the settings of {_links(bases)}."))
    if children := [child for child in package.children(name) if _literal(package, child)]:
        lines.append("One of these, picked by `name`:\n")
        lines += [f"- `{_literal(package, child)}`: [{child}](#{child.lower()})" for child in children] + [""]
    fields = [_item(package, field) for field in package.fields(name).values()]
    presets = [f"`{key}`" + (f" ({made})" if made else "") for key, made in package.presets(name)]
    if presets:
        fields += ["", wrapped(f"Published variants: {'; '.join(presets)}.").rstrip("\n")]
    return "\n".join([*lines, *fields, ""])


def _literal(package: Package, name: str) -> str:
    """What `name` must be for this class to be picked."""
    field = package.fields(name).get("name")
    return str(field.default.value) if field and isinstance(field.default, ast.Constant) and field.default.value else ""


def _item(package: Package, field: Field) -> str:
    configs = _configs(package, field.kind)
    kind = ast.unparse(field.kind)
    shown = f"`{kind}`" if kind not in package.configs else f"[{kind}](#{kind.lower()})"
    if configs and kind not in package.configs:
        shown += f", see {_links(configs)}"
    facts = [shown, _default(package, field), _range(field)]
    text = f"- **`{field.name}`** ({'; '.join(fact for fact in facts if fact)})" + (
        f": {field.text}" if field.text else ""
    )
    return wrapped(text, indent="  ").rstrip("\n")


def _default(package: Package, field: Field) -> str:
    if field.default is None:
        return "required"
    if not isinstance(field.default, ast.Call) or ast.unparse(field.default.func) != "field":
        return f"default `{ast.unparse(field.default)}`"
    (made,) = (word.value for word in field.default.keywords if word.arg == "default_factory")
    if isinstance(made, ast.Lambda):
        return f"default `{ast.unparse(made.body)}`"
    plain = {"dict": "`{}`", "list": "`[]`", "tuple": "`()`"}
    name = ast.unparse(made)
    if name == ast.unparse(field.kind):
        return "default: its own defaults"
    return f"default {plain[name]}" if name in plain else f"default: [{name}](#{name.lower()})"


def _range(field: Field) -> str:
    if math.isinf(field.low):
        return "" if math.isinf(field.high) else f"at most {_number(field.high)}"
    if math.isinf(field.high):
        return f"at least {_number(field.low)}"
    return f"{_number(field.low)} to {_number(field.high)}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _links(names: list[str]) -> str:
    return ", ".join(f"[{name}](#{name.lower()})" for name in dict.fromkeys(names))
