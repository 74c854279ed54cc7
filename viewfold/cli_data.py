"""The verbs `viewfold data`: images, videos and published sets to shards, shards to a checked manifest."""

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Images to shards; shards to a checked manifest.", no_args_is_help=True)

Shards = Annotated[
    list[str], typer.Argument(metavar="SHARDS...", help="Tar files, folders of them, globs or brace ranges; demo:NAME.")
]


@data_app.command("import")
def data_import(
    folder: Annotated[Path, typer.Argument(help="One folder per class, or the images that --csv names.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards and their manifest.")],
    csv: Annotated[Path | None, typer.Option(help="A CSV with a column of image paths, relative to FOLDER.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HEADER", help="Header of the CSV's image, label, domain or group, if it differs."),
    ] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard, in MB.")] = 256,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out and list them.")] = False,
) -> None:
    """Images to shards with a manifest: a folder per class, or a CSV with label, domain and group."""
    from viewfold.jobs.data import import_images

    typer.echo(import_images(folder, out, csv=csv, columns=column or [], shard_bytes=shard_mb << 20, skip_bad=skip_bad))


@data_app.command("import-3diebench")
def data_import_3diebench(
    root: Annotated[Path, typer.Argument(help="3DIEBench as it was downloaded: a folder per synset.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder: shards and a manifest of each split.")],
    index: Annotated[
        Path | None, typer.Option(help="Folder of the official train_images.npy and the like; default ROOT.")
    ] = None,
    split: Annotated[str, typer.Option(metavar="train|val|both", help="Which objects.")] = "both",
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard, in MB.")] = 256,
) -> None:
    """3DIEBench to shards of objects: all views of one with their latents, in the official order and splits."""
    from viewfold.jobs.data import import_3diebench_to

    typer.echo(import_3diebench_to(root, out, index=index, split=split, shard_bytes=shard_mb << 20))


@data_app.command("video")
def data_video(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES... [KEY=VALUE]...",
            help="Videos; then settings of how tracks are found: windows=[0.5675] min_moving=0.25 (docs/video.md).",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder: shards, their manifest and a contact sheet.")],
    tracks: Annotated[
        list[Path] | None,
        typer.Option(metavar="MOT.csv", help="Take these tracks instead: a CSV for each video, in their order."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Length of the tracks that are found; default 30. Not with --tracks.")
    ] = None,
    images_per_track: Annotated[int | None, typer.Option(help="Patches kept of a track; default 5.")] = None,
    size: Annotated[int | None, typer.Option(metavar="PX", help="Side of the patches; default 96.")] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard, in MB.")] = 256,
) -> None:
    """Videos to shards of tracks: patches of one moving thing are the images of one sample."""
    from viewfold.config import is_setting
    from viewfold.jobs.data import import_videos_to

    files = [Path(word) for word in words if not is_setting(word)]
    flags = {"frames": frames, "images_per_track": images_per_track, "size": size}
    settings = [f"{name}={value}" for name, value in flags.items() if value is not None]
    settings += [word for word in words if is_setting(word)]
    typer.echo(import_videos_to(files, out, tracks=tracks or [], settings=settings, shard_bytes=shard_mb << 20))


@data_app.command("index")
def data_index(
    shards: Shards,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for manifest.json and the table of samples.")],
    max_bad_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the samples to leave out and list, where they cannot be used."),
    ] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="Decode every image, too, as a run does.")] = False,
) -> None:
    """Shards to a manifest: counts, digests, and where each member lies."""
    from viewfold.jobs.data import index_shards_to

    typer.echo(index_shards_to(shards, out, max_bad_share=max_bad_share, decode=check))


@data_app.command("verify")
def data_verify(
    manifest: Annotated[Path, typer.Argument(help="A manifest.json, or the folder that holds one.")],
    quarantine: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write what is wrong to this file, as JSON lines.")
    ] = None,
) -> None:
    """Read and decode every image of a manifest; list what is wrong. Exit code 2 if anything is."""
    from viewfold.jobs.data import verify_manifest

    report, sound = verify_manifest(manifest, quarantine=quarantine)
    typer.echo(report)
    raise typer.Exit(0 if sound else 2)


@data_app.command("repair")
def data_repair(
    shards: Shards,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the clean shards and their manifest.")],
    shard_bytes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cut shards of more bytes; default: one for each given.")
    ] = None,
) -> None:
    """Damaged shards to clean ones: every sample that is whole, and a list of what was left out and mended."""
    from viewfold.jobs.data import repair_shards_to

    typer.echo(repair_shards_to(shards, out, shard_bytes=shard_bytes))


@data_app.command("ledger")
def data_ledger(
    folder: Annotated[Path, typer.Argument(help="What a training wrote with stream.ledger=FOLDER.")],
) -> None:
    """Count what a training consumed, epoch by epoch. Exit code 2 if a sample came twice or lines are missing."""
    from viewfold.jobs.data import ledger_report

    report, sound = ledger_report(folder)
    typer.echo(report)
    raise typer.Exit(0 if sound else 2)


@data_app.command("stats")
def data_stats(
    manifest: Annotated[Path, typer.Argument(help="A manifest.json, or the folder that holds one.")],
    sheet: Annotated[Path, typer.Option(help="Where the contact sheet goes.")] = Path("contact-sheet.png"),
) -> None:
    """Counts by label and domain, and a contact sheet."""
    from viewfold.jobs.data import manifest_stats

    typer.echo(manifest_stats(manifest, sheet))
