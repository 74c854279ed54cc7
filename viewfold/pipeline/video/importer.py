"""Videos to shards whose samples are tracks: each holds some patches of one thing."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from viewfold.config import dump
from viewfold.errors import InvalidInput
from viewfold.folders import whole_folder
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.jpeg import encode_jpeg
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.packing import refuse_used, shard_writer
from viewfold.pipeline.stage import write_whole
from viewfold.pipeline.video.config import CUT_SETTINGS, VideoConfig
from viewfold.pipeline.video.frames import Frame, read_frames, stated_frames
from viewfold.pipeline.video.mine import mine
from viewfold.pipeline.video.mot import cut_given, read_mot
from viewfold.pipeline.video.reasons import REASONS
from viewfold.pipeline.video.sheet import Shown, track_sheet
from viewfold.pipeline.video.track import Track

REPORT_NAME = "tracks.json"
SHEET_NAME = "tracks.png"
FORMAT = 1

_QUALITY = 95
_UNSAFE = re.compile(r"[^\w-]+")  # a dot would end the key, a slash make it a folder


@dataclass
class VideoCounts:
    """What became of one video."""

    video: str
    """Name of the file."""
    group: str
    """Its name in keys and in the manifest."""
    frames: int = 0
    """Decoded."""
    stated: int = 0
    """As the file says; 0 where it does not say."""
    tracks: int = 0
    """Kept."""
    rejected: Counter[str] = field(default_factory=Counter)
    """By reason: `REASONS`."""


def import_videos(
    files: Sequence[Path],
    out: Path,
    config: VideoConfig,
    *,
    tracks: Sequence[Path] = (),
    shard_bytes: int = 256_000_000,
    progress: Callable[[int], object] = lambda num_frames: None,
) -> tuple[ShardManifest, list[VideoCounts]]:
    """Pack the tracks of videos into shards `out/tracks-000000.tar ...`, index them, and say what became of each video.

    Without `tracks` they are found (`mine`); with it, one CSV of the MOT challenge for each video in the same order.
    Beside the shards: the contact sheet `tracks.png` and the counts and settings, `tracks.json`. The same input gives
    the same bytes; `config.frames` frames are in memory at a time. `out` appears whole or not at all. `progress` is
    called with 1 after each frame.

    Raises:
        InvalidInput: `out` is in use, a file that is missing, cannot be decoded or has the name of another, a CSV that
            cannot be used, or no track in any video, with what there was instead.
        MissingDependency: OpenCV is not installed.
    """
    refuse_used(out)
    if not files:
        raise InvalidInput("no video given; name one or more files")
    if tracks and len(tracks) != len(files):
        raise InvalidInput(f"{len(tracks)} files of tracks for {len(files)} videos; give one for each, in their order")
    counts = [VideoCounts(path.name, _group(path), stated=stated_frames(path)) for path in files]
    _refuse_same(files, counts)
    given = [read_mot(path) for path in tracks]
    shown = Shown()
    with whole_folder(out.absolute()) as part:
        with shard_writer(part, "tracks", shard_bytes=shard_bytes) as writer:
            for number, (path, count) in enumerate(zip(files, counts, strict=True)):
                frames = _counted(read_frames(path), count, progress)
                if tracks:
                    found = cut_given(frames, given[number], config, count.rejected, where=tracks[number])
                else:
                    found = mine(frames, config, count.rejected)
                for track in found:
                    key = f"{count.group}-{track.name}"
                    writer.write({"__key__": key, **_members(key, track, count)})
                    shown.add(key, track)
                    count.tracks += 1
        if not shown.num_tracks:
            raise InvalidInput(_nothing(counts, config))
        index_shards(sorted(part.glob("*.tar")), part)
        track_sheet(shown, part / SHEET_NAME)
        _write_report(counts, config, part / REPORT_NAME, given=bool(tracks))
    return ShardManifest.load(out), counts


def _group(path: Path) -> str:
    return _UNSAFE.sub("-", path.stem)


def _refuse_same(files: Sequence[Path], counts: Sequence[VideoCounts]) -> None:
    first: dict[str, Path] = {}
    for path, count in zip(files, counts, strict=True):
        if count.group in first:
            raise InvalidInput(
                f"{path}: its tracks would be named {count.group} like those of {first[count.group]}; rename one"
            )
        first[count.group] = path


def _counted(frames: Iterable[Frame], count: VideoCounts, progress: Callable[[int], object]) -> Iterator[Frame]:
    for frame in frames:
        count.frames += 1
        progress(1)
        yield frame


def _members(key: str, track: Track, count: VideoCounts) -> dict[str, bytes]:
    """The patches by their extension, and the JSON."""
    width = max(2, len(str(len(track.patches) - 1)))
    about = {
        "track": key,
        "group": count.group,
        "source": count.video,
        "frames": track.frames,
        "boxes": [[round(value, 2) for value in box] for box in track.boxes],
    }
    patches = {f"{n:0{width}d}.jpg": encode_jpeg(patch, _QUALITY) for n, patch in enumerate(track.patches)}
    return {**patches, "json": json.dumps(about, ensure_ascii=False).encode()}


def _nothing(counts: Sequence[VideoCounts], config: VideoConfig) -> str:
    """That there is no track, what there was instead, and what could be changed."""
    rejected = sum((count.rejected for count in counts), Counter[str]())
    num_frames = sum(count.frames for count in counts)
    where = f"{counts[0].video}: no track" if len(counts) == 1 else f"no track in {len(counts)} videos"
    if not rejected:
        return f"{where}: {num_frames} frames are fewer than the {config.frames} of a track; lower frames"
    found = ", ".join(f"{number} {REASONS[reason].what}" for reason, number in rejected.most_common())
    return f"{where} in {num_frames} frames: {found}; {REASONS[rejected.most_common(1)[0][0]].cure}"


def _write_report(counts: Sequence[VideoCounts], config: VideoConfig, path: Path, *, given: bool) -> None:
    had_effect = {name: value for name, value in dump(config).items() if name in CUT_SETTINGS or not given}
    fields = {
        "format": FORMAT,
        "given": given,
        "settings": had_effect,
        "videos": [{**asdict(count), "rejected": dict(sorted(count.rejected.items()))} for count in counts],
    }
    write_whole(path, lambda file: file.write(json.dumps(fields, indent=1, ensure_ascii=False).encode()))
