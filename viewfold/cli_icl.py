"""The verb `icl-eval`."""

from pathlib import Path
from typing import Annotated

import typer


def icl_eval(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FILE.yaml", help="icl-emoji, or a file of the same form.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as 'seeds=[0,1,2]'."),
    ] = None,
    lmm: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Also ask the model of this OpenAI-compatible server; `vote` counts labels."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="M", help="The model's name on that server.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; default runs/NAME.")] = None,
) -> None:
    """Which selector finds demonstrations of the right class for a domain that nothing has seen, and by how much."""
    from viewfold.jobs.icl_eval import evaluate_recipe

    typer.echo(evaluate_recipe(recipe, overrides or [], lmm=lmm, model=model, out=out))
