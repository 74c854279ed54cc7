"""The package as its source text has it: nothing is imported, so no extra has to be installed to read it."""

import ast
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting of a configuration."""

    name: str
    kind: ast.expr
    """Its annotation, without `Annotated[...]`."""
    default: ast.expr | None
    text: str
    """The sentence under it; empty where there is none."""
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        """Dotted, as it is imported."""
        return ".".join(self.path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    @cached_property
    def assigned(self) -> dict[str, ast.expr]:
        """What stands on the right of the file's own assignments."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                found[node.target.id] = node.value
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = node.value
        return found

    @cached_property
    def defined(self) -> dict[str, ast.ClassDef | ast.FunctionDef]:
        """Its classes and functions."""
        return {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}

    @cached_property
    def taken(self) -> dict[str, tuple[str, str]]:
        """For each name that it imports from the package: the module, and the name there."""
        return {
            alias.asname or alias.name: (str(node.module), alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("viewfold")
            for alias in node.names
        }


class Package:
    """All files of the package, and the configurations in them."""

    def __init__(self) -> None:
        files = sorted((ROOT / "viewfold").rglob("*.py"))
        modules = [Module(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files]
        self.modules = {module.name: module for module in modules}
        classes = {name: module for module in modules for name in module.defined if _class(module, name)}
        self.configs = {name: module for name, module in classes.items() if self._is_config(name, classes)}
        """Every public subclass of `Config`, and where it is."""

    def _is_config(self, name: str, classes: dict[str, Module]) -> bool:
        bases = _bases(classes[name].defined[name])
        public = not name.startswith("_")
        return public and any(
            base == "Config" or (base in classes and self._is_config(base, classes)) for base in bases
        )

    def doc(self, name: str) -> str:
        """What a configuration says of itself."""
        return " ".join((ast.get_docstring(self.configs[name].defined[name]) or "").split())

    def bases(self, name: str) -> list[str]:
        """The configurations that it is made from, without `Config` itself."""
        return [base for base in _bases(self.configs[name].defined[name]) if base in self.configs]

    def children(self, name: str) -> list[str]:
        """The configurations that are made from it, theirs included."""
        direct = [other for other in self.configs if name in self.bases(other)]
        return [found for child in direct for found in (child, *self.children(child))]

    def fields(self, name: str) -> dict[str, Field]:
        """Those that it declares itself; `bases` have the others."""
        found: dict[str, Field] = {}
        node = self.configs[name].defined[name]
        for part, after in pairwise([*node.body, ast.Pass()]):
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and not _is_class_var(part):
                found[part.target.id] = Field(
                    name=part.target.id, kind=_bare(part.annotation), default=part.value, text=_sentence(after)
                )
        ranges = self._ranges(name)
        return {
            key: replace(field, low=ranges[key][0], high=ranges[key][1]) if key in ranges else field
            for key, field in found.items()
        }

    def _ranges(self, name: str) -> dict[str, tuple[float, float]]:
        """What its `__post_init__` hands to `check_ranges`."""
        found: dict[str, tuple[float, float]] = {}
        module = self.configs[name]
        for method in module.defined[name].body:
            if not isinstance(method, ast.FunctionDef) or method.name != "__post_init__":
                continue
            own = {
                node.targets[0].id: node.value
                for node in method.body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for node in ast.walk(method):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "check_ranges":
                    for keyword in node.keywords:
                        with suppress(_NotConstant):
                            one = ast.Call(ast.Name("dict", ast.Load()), [], [keyword])
                            found |= self._value(one, module, own)
        return found

    def _value(self, node: ast.expr, module: Module, own: dict[str, ast.expr]) -> Any:
        """The value of an expression of constants: names are those of the function (`own`), or of the module.

        Raises:
            _NotConstant: it depends on something else, such as another field.
        """
        names: dict[str, Any] = {}
        for part in ast.walk(node):
            if not isinstance(part, ast.Name) or part.id in {"dict", "math", "float"}:
                continue
            if part.id in own:
                names[part.id] = self._value(own[part.id], module, {})
            elif part.id in module.assigned:
                names[part.id] = self._value(module.assigned[part.id], module, {})
            elif part.id in module.taken:
                origin, name = module.taken[part.id]
                names[part.id] = self._value(ast.Name(name, ast.Load()), self.modules[origin], {})
            else:
                raise _NotConstant(part.id)
        code = compile(ast.fix_missing_locations(ast.Expression(node)), str(module.path), "eval")
        return eval(code, {"__builtins__": {"dict": dict, "float": float}, "math": math}, names)

    def presets(self, name: str) -> Iterator[tuple[str, str]]:
        """Names of published variants in the file of a configuration, and how each is made."""
        for variable, value in self.configs[name].assigned.items():
            if not variable.endswith("_PRESETS") or not isinstance(value, ast.Dict):
                continue
            for key, made in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(made, ast.Call) and ast.unparse(made.func) == name:
                    yield str(key.value), ", ".join(map(ast.unparse, made.keywords))

    def found(self, module: str, name: str) -> tuple[Module, ast.AST | None]:
        """Where a public name of a module is made, and its class or function; None for a value."""
        here = self.modules[module]
        while name not in here.defined and name not in here.assigned and name in here.taken:
            origin, name = here.taken[name]
            here = self.modules[origin]
        return here, here.defined.get(name)


class _NotConstant(Exception):
    """An expression whose value the source alone does not say."""


def _class(module: Module, name: str) -> bool:
    return isinstance(module.defined[name], ast.ClassDef)


def _bases(node: ast.AST) -> list[str]:
    return [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []


def _is_class_var(node: ast.AnnAssign) -> bool:
    return ast.unparse(node.annotation).startswith("ClassVar")


def _bare(annotation: ast.expr) -> ast.expr:
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        return annotation.slice.elts[0]
    return annotation


def _sentence(node: ast.stmt) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""
