"""The published recipes' names, read from the source of `recipes`: importing that takes torch, and seconds."""

import ast
from importlib.resources import files


def recipe_lines() -> dict[str, str]:
    """The first line of what each recipe says of itself, by name."""
    tree = ast.parse((files("viewfold.jobs") / "recipes.py").read_text(encoding="utf-8"))
    said = {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}
    recipes = next(node.value for node in tree.body if isinstance(node, ast.AnnAssign))
    assert isinstance(recipes, ast.Dict)
    named = zip(recipes.keys, recipes.values, strict=True)
    return {ast.literal_eval(name): said[ast.unparse(recipe)].partition("\n")[0] for name, recipe in named if name}
