"""The verbs `viewfold encoder`: encoders that others trained."""

from pathlib import Path
from typing import Annotated

import typer

encoder_app = typer.Typer(help="Encoders that others trained.", no_args_is_help=True)

Triple = tuple[float, float, float]


@encoder_app.callback()
def _encoder() -> None:
    pass  # one verb alone would otherwise be the whole of `viewfold encoder`


@encoder_app.command("import")
def encoder_import(
    backbone: Annotated[
        str, typer.Argument(help="A model of timm, torchvision:NAME, or open_clip:NAME (its image tower).")
    ],
    weights: Annotated[
        str,
        typer.Option(metavar="FILE|hub|TAG", help="A file (.safetensors, .pt, .pth), or published ones: hub; a tag."),
    ],
    image_size: Annotated[int, typer.Option(metavar="PX", min=8, help="Side to which the encoder resizes images.")],
    mean: Annotated[Triple | None, typer.Option(help="Of red, green, blue in 0..1; default: as published.")] = None,
    std: Annotated[Triple | None, typer.Option(help="Of red, green, blue in 0..1; default: as published.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Encoder folder; default encoders/BACKBONE-PX.")
    ] = None,
) -> None:
    """A published backbone and its weights to an encoder folder, which a run takes as `start`."""
    from viewfold.jobs.import_encoder import import_encoder

    typer.echo(import_encoder(backbone, weights, image_size=image_size, mean=mean, std=std, out=out))
