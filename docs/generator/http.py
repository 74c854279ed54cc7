"""docs/reference/http.md: what the service answers, from its OpenAPI description."""

import json
from collections.abc import Iterator
from typing import Any

from docs.generator.source import ROOT
from docs.generator.text import wrapped

INTRODUCTION = """\
# HTTP API

What `viewfold serve` answers, from [openapi.json](../openapi.json), which is the service's own description of itself;
a running service has it at `/openapi.json`. [The service](../serve.md) has examples, keys, limits, and how versions
take over.

An error is `{"error": {"code": ..., "message": ...}}`, with a message of one line: what, where, what to do.
"""


def page() -> str:
    """The whole page."""
    described = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    routes = [route for methods in described["paths"].values() for route in methods.values()]
    told = {code: answer["description"] for route in routes for code, answer in route["responses"].items()}
    blocks = [INTRODUCTION, "\n".join(f"- {code}: {text}" for code, text in sorted(told.items()) if code >= "400")]
    blocks.append("\n## Requests\n")
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            blocks.append(_route(f"{method.upper()} {path}", route))
    blocks.append("## Objects\n")
    schemas = described["components"]["schemas"]
    blocks += [_schema(name, schema) for name, schema in sorted(schemas.items())]
    return "\n".join(blocks)


def _route(title: str, route: dict[str, Any]) -> str:
    lines = [f"### {title}\n", wrapped(" ".join(route.get("description", route["summary"]).split()))]
    items = [
        f"- **`{part['name']}`** ({part['in']}; {_kind(part.get('schema', {}))}"
        f"{'; required' if part.get('required') else ''})" + _told(part)
        for part in route.get("parameters", [])
    ]
    body = route.get("requestBody", {}).get("content", {})
    items += [f"- Body, `{media}`: {_kind(content.get('schema', {}))}" for media, content in body.items()]
    good = route["responses"]["200"].get("content", {})
    items.append(
        "- Answer: " + " or ".join(f"{_kind(part.get('schema', {}))}, `{media}`" for media, part in good.items())
    )
    items.append("- Errors: " + ", ".join(code for code in sorted(route["responses"]) if code >= "400"))
    return "\n".join([*lines, *(wrapped(item, indent="  ").rstrip("\n") for item in items), ""])


def _schema(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}\n"]
    if "description" in schema:
        lines.append(wrapped(" ".join(schema["description"].split())))
    for key, part in schema.get("properties", {}).items():
        facts = [_kind(part), *_facts(part), *(["required"] if key in schema.get("required", []) else [])]
        lines.append(wrapped(f"- **`{key}`** ({'; '.join(facts)}){_told(part)}", indent="  ").rstrip("\n"))
    return "\n".join([*lines, ""])


def _told(part: dict[str, Any]) -> str:
    return f": {' '.join(part['description'].split())}" if part.get("description") else ""


def _facts(part: dict[str, Any]) -> Iterator[str]:
    if part.get("default") is not None:
        yield f"default `{json.dumps(part['default'])}`"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words, linked where it is an object of its own."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
