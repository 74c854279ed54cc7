"""The verbs `viewfold manifest`: resources of Kubernetes and KubeRay to apply with kubectl."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

manifest_app = typer.Typer(help="Resources of Kubernetes and KubeRay, to apply with kubectl.", no_args_is_help=True)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings of the resource, such as workers=4 worker.gpus=8."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write there; default: print.")]


@manifest_app.command()
def rayjob(
    config: Annotated[
        str, typer.Argument(metavar="RECIPE|CONFIG.yaml", help="A name of `viewfold recipe list`, or the settings.")
    ],
    settings: Settings = None,
    out: Out = None,
) -> None:
    """A RayJob: `viewfold run` on a cluster that is started for it. 'settings=[pretrain.steps=500]' sets the recipe."""
    from viewfold.jobs.manifest import manifest_config
    from viewfold.jobs.manifest_job import RayJobConfig
    from viewfold.jobs.manifest_job import rayjob as documents

    _write(documents(manifest_config(RayJobConfig, config, "recipe", settings or [])), out)


@manifest_app.command()
def rayservice(
    config: Annotated[
        str, typer.Argument(metavar="SOURCE|CONFIG.yaml", help="What `viewfold serve` takes, or the settings.")
    ],
    settings: Settings = None,
    out: Out = None,
) -> None:
    """A RayService: `viewfold serve --ray` on a cluster that is kept going. serve.parts=4 sets the service."""
    from viewfold.jobs.manifest import manifest_config
    from viewfold.jobs.manifest_service import RayServiceConfig
    from viewfold.jobs.manifest_service import rayservice as documents

    _write(documents(manifest_config(RayServiceConfig, config, "serve.source", settings or [])), out)


Nightly = Annotated[
    str, typer.Argument(metavar="CONFIG.yaml", help="The file for `viewfold nightly`, or the resource's settings.")
]


@manifest_app.command()
def raycronjob(config: Nightly, settings: Settings = None, out: Out = None) -> None:
    """A RayCronJob: `viewfold nightly` on a cluster that is started for it, night for night."""
    from viewfold.jobs.manifest_nightly import RayCronJobConfig, scheduled_config
    from viewfold.jobs.manifest_nightly import raycronjob as documents

    _write(documents(scheduled_config(RayCronJobConfig, config, settings or [])), out)


@manifest_app.command()
def cronjob(config: Nightly, settings: Settings = None, out: Out = None) -> None:
    """A CronJob: `viewfold submit nightly` to a cluster that runs already, such as cluster=mine."""
    from viewfold.jobs.manifest_nightly import CronJobConfig, scheduled_config
    from viewfold.jobs.manifest_nightly import cronjob as documents

    _write(documents(scheduled_config(CronJobConfig, config, settings or [])), out)


def _write(documents: Sequence[dict[str, Any]], out: Path | None) -> None:
    from viewfold.jobs.manifest import manifest_text

    text = manifest_text(documents)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")
