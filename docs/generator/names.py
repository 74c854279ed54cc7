"""docs/reference/python.md: the public names of the package, from its `__all__` lists."""

import ast

from docs.generator.source import Module, Package
from docs.generator.text import wrapped

INTRODUCTION = """\
# Python names

What may be imported, folder by folder: each `__all__`. `import viewfold` loads nothing; its names are loaded when they
are first used ([In a notebook](../notebook.md)). A function is shown with its arguments, all others by what they are.
"""


def page(package: Package) -> str:
    """The whole page."""
    blocks = [INTRODUCTION]
    for name, module in package.modules.items():
        listed = module.assigned.get("__all__")
        if module.path.name == "__init__.py" and isinstance(listed, ast.List) and listed.elts:
            public = sorted((ast.literal_eval(element) for element in listed.elts), key=str.lower)
            blocks += [f"## {name}\n", _sentence(ast.get_docstring(module.tree)) + "\n"]
            blocks += [_item(package, name, one) for one in public] + [""]
    return "\n".join(blocks)


def _item(package: Package, module: str, name: str) -> str:
    home, node = package.found(module, name)
    if isinstance(node, ast.FunctionDef):
        shown, text = f"{name}({_arguments(node)})", _sentence(ast.get_docstring(node))
    elif isinstance(node, ast.ClassDef):
        shown, text = name, _sentence(ast.get_docstring(node))
        if name in package.configs:
            text += f" [Its settings](configuration.md#{name.lower()})."
    else:
        shown, text = name, _value(home, name)
    return wrapped(f"- `{shown}`" + (f": {text}" if text else ""), indent="  ").rstrip("\n")


def _arguments(node: ast.FunctionDef) -> str:
    """Names and defaults; the types are in the source."""
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    words = [_argument(one, value) for one, value in zip(plain, [*missing, *arguments.defaults], strict=True)]
    if arguments.vararg:
        words.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        words.append("*")
    words += [_argument(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return ", ".join([*words, *([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return argument.arg + (f"={ast.unparse(default)}" if default is not None else "")


def _value(module: Module, name: str) -> str:
    """The sentence under an assignment."""
    body = module.tree.body
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        here = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if here and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            return _sentence(str(after.value.value))
    return ""


def _sentence(text: str | None) -> str:
    """The first paragraph."""
    return " ".join((text or "").strip().split("\n\n")[0].split())
