"""The verb `drift`: whether what is asked of a service is still like its index."""

from typing import Annotated

import typer


def drift(
    url: Annotated[str, typer.Argument(metavar="URL", help="A service, such as http://127.0.0.1:8000.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Thresholds, such as psi=0.1 domain_psi=null min_queries=200."),
    ] = None,
    *,
    key_variable: Annotated[
        str, typer.Option(metavar="NAME", help="The environment variable that holds the service's key, if any.")
    ] = "VIEWFOLD_KEY",
    as_json: Annotated[bool, typer.Option("--json", help="Print what the service answers, and the verdict.")] = False,
) -> None:
    """How far the latest queries of a service have drifted from its index; exit code 1 where they have."""
    import dataclasses
    import json
    import os

    from viewfold.config import overridden, parse
    from viewfold.errors import printable
    from viewfold.jobs.drift import DriftConfig, drift_of, judged, table

    config = parse(DriftConfig, overridden({}, settings or []), where="drift")
    found = drift_of(url, os.environ.get(key_variable) or None)
    verdict = judged(found, config)
    if as_json:
        typer.echo(json.dumps({"verdict": dataclasses.asdict(verdict), "drift": dataclasses.asdict(found)}, indent=2))
    else:
        typer.echo("\n".join(map(printable, table(found, config).splitlines())))
    raise typer.Exit(1 if verdict.drifted else 0)
