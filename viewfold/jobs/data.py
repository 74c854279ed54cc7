"""Shards in and out of a manifest: what the `data` verbs and the first stage of every run do."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from viewfold.config import Config, dump, override, unknown
from viewfold.errors import InvalidInput
from viewfold.jobs.data_replay import ReplayConfig, replayed
from viewfold.pipeline.import_3diebench import import_3diebench
from viewfold.pipeline.importer import COLUMNS, import_folder
from viewfold.pipeline.index_3diebench import SPLITS, read_index, statement
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.ledger import audit
from viewfold.pipeline.locations import expand_shards, stamps
from viewfold.pipeline.manifest import MANIFEST_NAME, ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.pipeline.quarantine import QUARANTINE_NAME, read_quarantine, write_quarantine
from viewfold.pipeline.repair import LEFT_OUT_NAME, REPAIRED_NAME, repair_shards
from viewfold.pipeline.shards import Fault
from viewfold.pipeline.stats import contact_sheet, count
from viewfold.pipeline.verify import verify
from viewfold.pipeline.video import CUT_SETTINGS, REASONS, SHEET_NAME, VideoConfig, VideoCounts, import_videos

SHIPPED = "demo:"
"""Prefix of the names of the data sets that come with the package."""
PACK = "pack:"
"""Prefix of the names of shards in the folder that the variable below names; too large for the package."""
PACKS_VARIABLE = "VIEWFOLD_DATA"
PICKS = ("domains", "without_domains", "without_groups", "labelled")
"""Fields of the configuration below that choose among the samples of the shards, whatever stage reads them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which shards, and which of their samples."""

    shards: tuple[str, ...]
    """Tar files, folders of them, globs or brace ranges such as `a-{000000..000005}.tar`; `demo:NAME` is shipped,
    `pack:NAME` lies in the folder that VIEWFOLD_DATA names."""
    domains: tuple[str, ...] = ()
    """Only samples of these domains; empty for all."""
    without_domains: tuple[str, ...] = ()
    """No samples of these domains: what is held out."""
    without_groups: tuple[str, ...] = ()
    """No samples of these groups: patients, or things, that are neither learned from nor shown."""
    labelled: bool = False
    """Only samples with a label."""
    check: bool = True
    """Decode every image once, when the shards are indexed; without it, unreadable ones are met in the training."""
    max_bad_share: float = 0.0
    """Share of the samples that may be left out because they cannot be used, in 0..1; they are listed."""
    replay: ReplayConfig | None = None
    """How much of what an earlier training saw `adapt` learns from again; left out: all of it. Nothing else is thinned
    by it."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad_share < 1:
            raise ValueError(f"max_bad_share must lie in 0..1 and below 1, got {self.max_bad_share}")


def locate(shards: tuple[str, ...]) -> list[str]:
    """The paths and URLs of the shards that `shards` names.

    Raises:
        InvalidInput: a name that matches nothing.
    """
    return expand_shards([_pattern(name) for name in shards])


def _pattern(name: str) -> str:
    if name.startswith(PACK):
        packs, stem = os.environ.get(PACKS_VARIABLE), name.removeprefix(PACK)
        if packs is None or not sorted(Path(packs).glob(f"{stem}-[0-9]*.tar")):
            raise InvalidInput(
                f"{name}: {PACKS_VARIABLE}={packs or '(not set)'} has no {stem}-*.tar; set it to the folder of the "
                "data packs, or name other shards (data.shards=...)"
            )
        return str(Path(packs) / f"{stem}-[0-9]*.tar")
    if not name.startswith(SHIPPED):
        return name
    folder, stem = Path(str(files("viewfold") / "demo_data")), name.removeprefix(SHIPPED)
    if not sorted(folder.glob(f"{stem}-*.tar")):
        known = sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.tar")})
        raise InvalidInput(f"{name}: no such shipped data; there are {', '.join(SHIPPED + k for k in known)}")
    return str(folder / f"{stem}-*.tar")


def manifest_of(shards: str | Sequence[str], out: Path) -> ShardManifest:
    """The manifest that `shards` names, by its file or its folder, or else one of these shards, written into `out`."""
    names = (shards,) if isinstance(shards, str) else tuple(shards)
    if len(names) == 1 and (Path(names[0]).name == MANIFEST_NAME or (Path(names[0]) / MANIFEST_NAME).is_file()):
        return ShardManifest.load(Path(names[0]))
    out.mkdir()
    return index_shards(locate(names), out)


def shard_stamps(shards: tuple[str, ...]) -> dict[str, str]:
    """What tells, without reading a shard, that it changed, and that a manifest is out of date."""
    return stamps(locate(shards))


def source(manifest: Path, config: DataConfig) -> ShardManifest:
    """The samples of an indexed manifest that `config` asks for."""
    loaded = ShardManifest.load(manifest)
    if config.domains or config.without_domains or config.labelled:
        loaded = loaded.subset(
            domains=config.domains or None,
            without_domains=config.without_domains or None,
            labelled=True if config.labelled else None,
        )
    if config.without_groups:
        loaded = _without_groups(loaded, config.without_groups)
    return loaded if config.replay is None else replayed(loaded, locate(config.replay.shards), config.replay)


def _without_groups(manifest: ShardManifest, names: Sequence[str]) -> ShardManifest:
    number = {name: index for index, name in enumerate(manifest.groups)}
    for name in names:
        if name not in number:
            raise InvalidInput(f"data.without_groups: no sample is of group {name!r}; correct it, or leave it out")
    rows = np.flatnonzero(~np.isin(manifest.group, [number[name] for name in names]))
    if not len(rows):
        raise InvalidInput(f"data.without_groups: all {len(manifest)} samples are of these groups; name fewer")
    return manifest.take(rows)


def index_checked(config: DataConfig, out: Path) -> dict[str, Any]:
    """Write the manifest of the shards into `out`, without the samples that may be left out, and a contact sheet.

    Raises:
        InvalidInput: a shard or a sample cannot be used; names the first, counts the others.
    """
    manifest = _indexed(locate(config.shards), out, max_bad_share=config.max_bad_share, decode=config.check)
    contact_sheet(manifest, out / "contact-sheet.png")
    return {"manifest_hash": manifest.hash, **count(manifest), "left_out": len(_quarantined(out))}


def import_images(
    folder: Path, out: Path, *, csv: Path | None, columns: Sequence[str], shard_bytes: int, skip_bad: bool
) -> str:
    """Images to shards; returns what is said about it. `columns` are `name=header` pairs for other headers."""
    headers = dict(_header(pair) for pair in columns)
    with progress("import", total=None) as bar:
        manifest = import_folder(
            folder, out, csv=csv, columns=headers, shard_bytes=shard_bytes, skip_bad=skip_bad, progress=bar.advance
        )
    labelled = int((manifest.label >= 0).sum())
    counts = f"{len(manifest)} images ({labelled} with a label) in {len(manifest.shards)} shards"
    return f"{counts}, manifest {manifest.hash[:16]}: {out}"


def import_3diebench_to(root: Path, out: Path, *, index: Path | None, split: str, shard_bytes: int) -> str:
    """3DIEBench to shards of objects; returns what is said about it. `split` is one of them, or `both`."""
    if split not in ("both", *SPLITS):
        raise unknown("split", split, ("both", *SPLITS))
    splits = read_index(index or root, SPLITS if split == "both" else (split,))
    with progress("import objects", total=sum(len(one.objects) for one in splits)) as bar:
        manifests = import_3diebench(root, splits, out, shard_bytes=shard_bytes, progress=bar.advance)
    lines = []
    for one in splits:
        manifest = manifests[one.name]
        counts = f"{len(manifest)} objects of {manifest.num_images(0)} views in {len(manifest.shards)} shards"
        lines.append(f"{one.name}: {counts}, manifest {manifest.hash[:16]}: {out / one.name} ({statement(one)})")
    return "\n".join(lines)


def import_videos_to(
    files: Sequence[Path], out: Path, *, tracks: Sequence[Path], settings: Sequence[str], shard_bytes: int
) -> str:
    """Videos to shards of tracks; returns what is said about it. `settings` are `key=value` pairs of `VideoConfig`.

    Raises:
        InvalidInput: with `tracks`, a setting of how they are found; and what `import_videos` refuses.
    """
    config = override(_given_tracks(settings) if tracks else VideoConfig(), settings)
    with progress("frames", total=None) as bar:
        manifest, counts = import_videos(
            files, out, config, tracks=tracks, shard_bytes=shard_bytes, progress=bar.advance
        )
    lines = [
        f"{len(manifest)} tracks of {manifest.num_images(0)} patches in {len(manifest.shards)} shards, "
        f"manifest {manifest.hash[:16]}: {out}",
        *(line for count in counts for line in _video_lines(count)),
        f"contact sheet: {out / SHEET_NAME}",
    ]
    return "\n".join(lines)


def _given_tracks(settings: Sequence[str]) -> VideoConfig:
    """What `settings` begin with where the tracks are given, once it is sure that each of them has an effect."""
    names = dict.fromkeys(word.partition("=")[0] for word in settings)
    idle = [name for name in names if name in dump(VideoConfig()) and name not in CUT_SETTINGS]
    if idle:
        raise InvalidInput(
            f"{', '.join(idle)}: how tracks are found, without effect on those of --tracks; leave it out"
        )
    return VideoConfig(frames=1000)  # given tracks have any length, and this one bounds the images of a track


def _video_lines(count: VideoCounts) -> list[str]:
    lines = [f"{count.video}: {count.tracks} tracks in {count.frames} frames"]
    if count.frames < count.stated:
        lines.append(f"  the file says that it has {count.stated} frames; it may be damaged or cut short")
    return lines + [f"  not kept: {number} {REASONS[name].what}" for name, number in count.rejected.most_common()]


def index_shards_to(shards: list[str], out: Path, *, max_bad_share: float, decode: bool) -> str:
    """Index shards; returns what is said about it."""
    manifest = _indexed(locate(tuple(shards)), out, max_bad_share=max_bad_share, decode=decode)
    counts = f"{len(manifest)} samples in {len(manifest.shards)} shards, manifest {manifest.hash[:16]}: {out}"
    return "\n".join([counts, *_left_out(out)])


def verify_manifest(path: Path, *, quarantine: Path | None) -> tuple[str, bool]:
    """A line for each problem and a summary; whether there was none. `quarantine` is a file to list them in."""
    manifest = ShardManifest.load(path)
    faults = _verified(manifest)
    if quarantine is not None:
        write_quarantine(quarantine, faults)
    summary = f"{len(manifest)} samples in {len(manifest.shards)} shards: {len(faults)} problems"
    return "\n".join([*(str(fault.error()) for fault in faults), summary]), not faults


def repair_shards_to(shards: list[str], out: Path, *, shard_bytes: int | None) -> str:
    """Clean shards of damaged ones; returns what is said about it."""
    with progress("repair samples", total=None) as bar:
        repaired = repair_shards(locate(tuple(shards)), out, shard_bytes=shard_bytes, progress=bar.advance)
    manifest = repaired.manifest
    lines = [f"{len(manifest)} samples in {len(manifest.shards)} shards, manifest {manifest.hash[:16]}: {out}"]
    for what, faults, name in (
        ("left out", repaired.left_out, LEFT_OUT_NAME),
        ("mended", repaired.mended, REPAIRED_NAME),
    ):
        keys = {(fault.shard, fault.key) for fault in faults if fault.key}
        where = f", listed in {out / name}" if faults else ""
        lines.append(f"{len(keys)} samples {what}{where}")
    return "\n".join(lines)


def ledger_report(folder: Path) -> tuple[str, bool]:
    """A line for each epoch and one for what was rolled back; whether no sample came twice."""
    found = audit(folder)
    lines = []
    for number, epoch in found.epochs.items():
        facts = [f"{epoch.taken} of {found.num_samples} samples"]
        facts += [f"{epoch.repeated} repeated to fill batches"] if epoch.repeated else []
        facts += [f"{epoch.stood_in} replaced because they cannot be read"] if epoch.stood_in else []
        facts += [f"{len(epoch.twice)} TWICE, {epoch.twice[0]} the first"] if epoch.twice else []
        lines.append(f"epoch {number}: {', '.join(facts)}")
    lines.append(f"attempts: {found.attempts}; {found.rolled_back} samples of steps that were rolled back do not count")
    if found.holes:
        step, rank = found.holes[0]
        lines.append(f"{len(found.holes)} lines are MISSING, the first of step {step}, rank {rank}")
    lines.append("every step is there and no sample came twice" if found.sound else "not exactly once")
    return "\n".join(lines), found.sound


def manifest_stats(path: Path, sheet: Path) -> str:
    """Counts as text, and the contact sheet drawn to `sheet`."""
    manifest = ShardManifest.load(path)
    contact_sheet(manifest, sheet)
    lines = []
    for name, value in count(manifest).items():
        lines.append(f"{name}:" if isinstance(value, dict) else f"{name}: {value}")
        lines += [f"  {key:28} {number}" for key, number in value.items()] if isinstance(value, dict) else []
    return "\n".join([*lines, *_left_out(path.parent if path.is_file() else path), f"contact sheet: {sheet}"])


def _indexed(locations: Sequence[str], out: Path, *, max_bad_share: float, decode: bool) -> ShardManifest:
    with progress("index shards", total=len(locations)) as bar:
        return index_shards(locations, out, max_bad_share=max_bad_share, decode=decode, progress=bar.advance)


def _left_out(folder: Path) -> list[str]:
    """A line on what was left out of the manifest in `folder`, if anything was."""
    keys = _quarantined(folder)
    return [f"{len(keys)} samples left out, listed in {folder / QUARANTINE_NAME}"] if keys else []


def _quarantined(folder: Path) -> set[tuple[str, str]]:
    path = folder / QUARANTINE_NAME
    return {(bad.shard, bad.key) for bad in read_quarantine(path)} if path.is_file() else set()


def _verified(manifest: ShardManifest) -> list[Fault]:
    with progress("verify samples", total=len(manifest)) as bar:
        return verify(manifest, progress=bar.advance)


def _header(pair: str) -> tuple[str, str]:
    name, _, header = pair.partition("=")
    if name not in COLUMNS or not header:
        raise InvalidInput(f"--column {pair}: write it as NAME=HEADER, where NAME is one of {', '.join(COLUMNS)}")
    return name, header
