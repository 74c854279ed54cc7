"""The verb `serve`: demonstrations over HTTP."""

from pathlib import Path
from typing import Annotated

import typer


def serve(  # noqa: PLR0913 - each is one word of a command line, and none is passed on: they become one configuration
    source: Annotated[str, typer.Argument(help="A run folder with an index, a bundle, or models:/name@champion.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Other settings, such as watch_s=60 service.limits.max_k=32 service.select.strategy=nearest.",
        ),
    ] = None,
    *,
    host: Annotated[str, typer.Option(help="Where to listen; all but this machine alone needs keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys that requests must show, one a line; or VIEWFOLD_SERVICE_KEYS."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="The encoder of a bundle that lies in no run folder: as for `evaluate`.")
    ] = None,
    home: Annotated[Path, typer.Option(help="Folder of the local registry (mlflow.db).")] = Path("runs"),
    shards: Annotated[
        list[str] | None, typer.Option(help="Where the index's images lie, if they were moved. Repeatable.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="On Ray Serve: the cluster of RAY_ADDRESS, else a Ray of this machine.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="With --ray: print the config file for `serve deploy` and leave.")
    ] = False,
) -> None:
    """Demonstrations over HTTP, from an index and the encoder that made it; a moved alias is followed as it runs."""
    from viewfold.config import overridden, parse
    from viewfold.errors import InvalidInput

    service = {"host": host, "port": port, "keys_file": str(keys) if keys else None}
    data = {"source": source, "home": str(home), "encoder": encoder, "shards": shards or [], "service": service}
    data = overridden(data, settings or [])
    if not ray:
        if print_config:
            raise InvalidInput("--print-config has no effect without --ray: one process needs no config file")
        from viewfold.jobs.serve import ServeConfig
        from viewfold.jobs.serve import serve as run

        run(parse(ServeConfig, data, where="serve"))
        return
    from viewfold.jobs.serve_ray import RayServeConfig
    from viewfold.jobs.serve_ray_run import serve_config, serve_on_ray

    config = parse(RayServeConfig, data, where="serve")
    if print_config:
        typer.echo(serve_config(config), nl=False)
    else:
        serve_on_ray(config)
