"""Views to look at: the verb `replay`, what a training saw, and `augment preview`, what one would see."""

from pathlib import Path
from typing import Annotated

import typer

augment_app = typer.Typer(help="What a policy makes of images.", no_args_is_help=True)


def replay(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/demo/emoji.")],
    key: Annotated[str, typer.Option(help="The sample, SHARD/KEY, or KEY where only one shard has it.")],
    epoch: Annotated[int, typer.Option(help="The epoch, counted from 0.")],
    view: Annotated[int, typer.Option(help="Which of the sample's views, counted from 0.")],
    stage: Annotated[str, typer.Option(metavar="pretrain|adapt", help="The training that saw it.")] = "pretrain",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The PNG; a JSON of the same name goes beside it.")
    ] = None,
) -> None:
    """One training view again: its exact pixels as a PNG, all that was drawn for it as JSON."""
    from viewfold.jobs.replay import replay

    typer.echo(replay(run_folder, key=key, epoch=epoch, view=view, stage=stage, out=out))


@augment_app.command("preview")
def augment_preview(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="SHARDS... [KEY=VALUE]...",
            help="As for `data index`, or folders with a manifest; then settings of the policy: affine.shear_rad=0.3.",
        ),
    ],
    policy: Annotated[str, typer.Option("--policy", "-p", help="A name of `viewfold list policies`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to draw.")] = Path("views.png"),
    images: Annotated[int, typer.Option(help="Rows of the sheet, 1..64.")] = 6,
    views: Annotated[int, typer.Option(help="Views of each image, 1..16.")] = 4,
    size: Annotated[
        int, typer.Option(metavar="PX", help="Side of the views, 16..512; the training's is stream.image_size.")
    ] = 128,
    seed: Annotated[int, typer.Option(help="The training's seed draws its own views of epoch 0.")] = 0,
) -> None:
    """A contact sheet: stored images, views of them, and what the policy does to a grid and to colours."""
    from viewfold.jobs.preview import preview

    typer.echo(preview(words, policy=policy, out=out, images=images, views=views, size=size, seed=seed))
