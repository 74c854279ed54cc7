"""Videos to tracks: drawn videos whose boxes are known, and a real one."""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from viewfold.cli import main
from viewfold.errors import InvalidInput, MissingDependency
from viewfold.jobs.data import import_videos_to
from viewfold.pipeline import StreamConfig, index_shards, read_images, stream_batches
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.video import REPORT_NAME, SHEET_NAME, VideoConfig, import_videos, windows
from viewfold.pipeline.video.boxes import Box, overlap
from viewfold.pipeline.video.follow import _moved
from viewfold.pipeline.video.points import CELL_PX

HEIGHT, WIDTH, SIDE = 128, 208, 48
QUICK = VideoConfig(frames=12, every=4, images_per_track=3, size=32, windows=(0.38, 0.45))
Place = Callable[[int], tuple[float, float] | None]


def texture(seed: int, height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.2))


GROUND, THING = texture(0, HEIGHT, 2 * WIDTH), texture(1, SIDE, SIDE)


def frame(ground_x: float, place: tuple[float, float] | None) -> NDArray[np.uint8]:
    """The ground from this column on, and the thing with its left upper corner at a place; whole pixels."""
    picture = GROUND.crop((round(ground_x), 0, round(ground_x) + WIDTH, HEIGHT))
    if place is not None:
        picture.paste(THING, (round(place[0]), round(place[1])))
    return np.asarray(picture)


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    cv2 = pytest.importorskip("cv2")
    height, width, _ = frames[0].shape
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    assert writer.isOpened()
    for pixels in frames:
        writer.write(pixels[:, :, ::-1].copy())
    writer.release()
    return path


def place(number: int) -> tuple[float, float]:
    """Where the thing is in this frame, counted from 1."""
    return 10 + 6.0 * number, 20 + 2.0 * number


def abouts(manifest: ShardManifest) -> list[dict[str, object]]:
    with manifest.reader() as reader:
        members = [manifest.samples.about(row) for row in range(len(manifest))]
        return [json.loads(reader.read(manifest.shard(row), member)) for row, member in enumerate(members) if member]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "walk.avi", [frame(0, place(number)) for number in range(1, 14)])


def test_a_moving_square_is_found_where_it_is_and_followed(video: Path, tmp_path: Path) -> None:
    manifest, (counts,) = import_videos([video], tmp_path / "out", QUICK)
    (about,) = abouts(manifest)
    assert (about["track"], about["group"], about["source"]) == ("walk-00000", "walk", "walk.avi")
    assert about["frames"] == [1, 7, 12]
    for number, box in zip(about["frames"], about["boxes"], strict=True):  # type: ignore[call-overload]
        assert overlap(Box(*box), Box(*place(number), SIDE, SIDE)) > 0.65
    assert (counts.frames, counts.stated, counts.tracks) == (13, 13, 1)
    (batch,) = read_images(manifest, [0], image_size=32, batch_size=9)
    assert batch.images.shape == (3, 3, 32, 32)


def test_tracks_are_samples_of_several_images_to_index_and_stream(video: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "back.avi", [frame(40, place(14 - number)) for number in range(1, 14)])
    manifest, _ = import_videos([video, other], tmp_path / "out", QUICK)
    again = index_shards(sorted((tmp_path / "out").glob("*.tar")), tmp_path / "again")
    assert again.hash == manifest.hash
    assert manifest.groups == ("back", "walk")
    config = StreamConfig(batch_size=2, image_size=32, images_per_sample=2)
    for batch in stream_batches(again, config, num_steps=3):
        assert batch.images.shape == (2, 2, 3, 32, 32)
        assert (batch.members[0] != batch.members[1]).all()


def test_the_same_videos_give_the_same_bytes(video: Path, tmp_path: Path) -> None:
    one, two = (import_videos([video], tmp_path / out, QUICK)[0] for out in ("one", "two"))
    assert one.hash == two.hash
    for name in ("tracks-000000.tar", SHEET_NAME, REPORT_NAME):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("frames", "settings", "says"),
    [
        ([frame(0, (60, 40))] * 13, {}, "1 frames without a window that moved enough; lower moving_px"),
        ([frame(3 * n, (60, 40)) for n in range(13)], {}, "1 frames that moved with the camera; raise max_moving"),
        (
            [frame(0, place(n) if n < 6 else None) for n in range(1, 14)],
            {},
            "1 windows that could not be followed to the end; lower frames",
        ),
        ([frame(0, (100 + 8 * n, 40)) for n in range(13)], {}, "1 windows that left the frame"),
        (
            [frame(0, place(n)) for n in range(1, 14)],
            {"min_travel": 3.0},
            "1 windows that hardly moved; lower min_travel",
        ),
        ([frame(0, place(n)) for n in range(1, 14)], {"min_contrast": 99.0}, "1 windows with a blank patch"),
        ([frame(0, place(n)) for n in range(1, 14)], {"min_moving": 0.9}, "1 frames in which too few points moved"),
        ([frame(0, place(n)) for n in range(1, 6)], {}, "5 frames are fewer than the 12 of a track; lower frames"),
    ],
    ids=["still", "camera", "vanishes", "leaves", "travel", "blank", "noise", "short"],
)
def test_what_is_no_track_is_counted_by_its_reason(
    frames: list[NDArray[np.uint8]], settings: dict[str, float], says: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "clip.avi", frames)
    config = dataclasses.replace(QUICK, every=100, **settings)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=f"^clip.avi: no track.*{says}"):
        import_videos([path], tmp_path / "out", config)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["clip.avi"]


def test_two_things_are_two_tracks_and_none_begins_on_one_that_is_followed(tmp_path: Path) -> None:
    frames = []
    for number in range(1, 25):
        pixels = frame(0, (2 * number, 8)).copy()
        pixels[72:120, 150 - 2 * number : 198 - 2 * number] = np.asarray(THING)[::-1]
        frames.append(pixels)
    manifest, (counts,) = import_videos([write_video(tmp_path / "two.avi", frames)], tmp_path / "out", QUICK)
    tracks = abouts(manifest)
    assert [about["frames"] for about in tracks] == [[1, 7, 12], [1, 7, 12], [13, 19, 24], [13, 19, 24]]
    assert not counts.rejected
    for about in tracks:
        for number, box in zip(about["frames"], about["boxes"], strict=True):  # type: ignore[call-overload]
            true = (Box(2 * number, 8, SIDE, SIDE), Box(150 - 2 * number, 72, SIDE, SIDE))
            assert max(overlap(Box(*box), one) for one in true) > 0.55


def test_a_frame_is_cut_at_its_full_size_and_boxes_are_in_its_pixels(video: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(QUICK, analysed_px=100)
    manifest, _ = import_videos([video], tmp_path / "out", config)
    (about,) = abouts(manifest)
    assert overlap(Box(*about["boxes"][-1]), Box(*place(12), SIDE, SIDE)) > 0.6  # type: ignore[index]


def test_the_points_of_a_window_are_those_that_counting_finds() -> None:
    rng = np.random.default_rng(0)
    shape = (40, 60)
    points = rng.uniform(0, [60, 40], size=(200, 2)).astype(np.float32)
    sums = windows._sums(points, shape)
    for side, margin in ((3, 0), (4, 1)):
        counted = windows._counted(sums, side, margin)
        for row, column in np.ndindex(counted.shape):
            low = CELL_PX * (np.array([column, row]) - margin)
            high = low + CELL_PX * (side + 2 * margin)
            assert counted[row, column] == ((points >= low) & (points < high)).all(axis=1).sum()


def test_the_window_around_a_thing_wins_over_larger_and_smaller_ones() -> None:
    y, x = np.mgrid[2:160:4, 2:240:4]
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    thing: NDArray[np.bool_] = np.all((points > [80, 40]) & (points < [128, 88]), axis=1)
    motion = np.where(thing[:, None], [2.0, 1.0], 0.0).astype(np.float32)
    (window,) = windows.best_windows(
        points, motion, thing, shape=(160, 240), sides=(0.15, 0.3, 0.6), min_share=0.25, min_points=12
    )
    assert overlap(window.box, Box(80, 40, 48, 48)) > 0.9
    assert set(window.points) == set(np.flatnonzero(thing))


def test_a_box_goes_and_grows_with_its_points() -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform([10, 10], [30, 30], size=(21, 2)).astype(np.float32)
    now = (1.5 * (start - 20) + [60, 50]).astype(np.float32)
    assert _moved(Box(10, 10, 20, 20), start, now) == pytest.approx(Box(45, 35, 30, 30), abs=1e-3)


def test_patches_and_boxes_of_given_tracks_are_theirs(video: Path, tmp_path: Path) -> None:
    lines = [f"{n},7,{place(n)[0] + 1},{place(n)[1] + 1},{SIDE},{SIDE},1,-1,-1,-1" for n in range(13, 0, -1)]
    lines += ["2,3,1,1,20,40,0", "1,4,1,1,20,40,0.9", "1,9,-60,5,50,50", "", "2,9,-60,5,50,50", "3,9,-60,5,50,50"]
    table = tmp_path / "tracks.csv"
    table.write_text("\n".join(lines))
    config = dataclasses.replace(QUICK, size=SIDE)
    manifest, (counts,) = import_videos([video], tmp_path / "out", config, tracks=[table])
    (about,) = abouts(manifest)
    assert (about["track"], about["frames"]) == ("walk-00007", [1, 7, 13])
    assert about["boxes"] == [[*place(number), SIDE, SIDE] for number in (1, 7, 13)]
    assert dict(counts.rejected) == {"few": 2}
    (batch,) = read_images(manifest, [0], image_size=SIDE, batch_size=9)
    error = batch.images[:, :, 4:-4, 4:-4].numpy().astype(int) - np.asarray(THING).transpose(2, 0, 1)[:, 4:-4, 4:-4]
    assert np.abs(error).mean() < 8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,1,0,0,5,5\n1,1,0,0\n", "line 2: 4 columns, expected frame,id,left,top,width,height"),
        ("1,1,0,zero,5,5\n", "line 1: top is 'zero', expected a number"),
        ("1,1,0,nan,5,5\n", "line 1: top is nan, expected a finite number"),
        ("0,1,0,0,5,5\n", "line 1: frame 0, id 1; expected whole numbers, frames from 1"),
        ("1,1.5,0,0,5,5\n", "line 1: frame 1, id 1.5; expected"),
        ("1,1,0,0,5,0\n", "line 1: a box of 5 x 0 pixels"),
        ("1,1,0,0,5,5\n2,1,0,0,5,5\n1,1,0,0,5,5\n", "line 3: track 1 has a box in frame 1 already, in line 1"),
        ("1,1,0,0,5,5,0\n", "no box in it"),
        ("1,1,9,9,9,9\n2,1,9,9,9,9\n99,1,9,9,9,9\n", "line 3: frame 99, but the video has 13"),
        ("1,1,9,9,9,9\n2,1,9,9,9,9\n", None),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused_by_its_line(
    video: Path, tmp_path: Path, text: str, says: str | None
) -> None:
    (tmp_path / "t.csv").write_text(text)
    expected = (
        f"t.csv: {says}" if says else "no track in 13 frames: 1 given tracks with too few.*; lower images_per_track"
    )
    with pytest.raises(InvalidInput, match=expected):
        import_videos([video], tmp_path / "out", QUICK, tracks=[tmp_path / "t.csv"])
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit_are_refused(video: Path, tmp_path: Path) -> None:
    (tmp_path / "words.avi").write_text("not a video")
    for files, tracks, says in (
        ([tmp_path / "words.avi"], [], "words.avi: not a video"),
        ([tmp_path / "none.avi"], [], "none.avi: no such file"),
        ([video], [tmp_path / "none.csv"], "none.csv: no such file"),
        ([video], [tmp_path], r"cannot be read \(Is a directory\); name a CSV file"),
        ([video, video], [], "would be named walk like those of"),
        ([video], [tmp_path / "a.csv", tmp_path / "b.csv"], "2 files of tracks for 1 videos"),
        ([], [], "no video"),
    ):
        with pytest.raises(InvalidInput, match=says):
            import_videos(files, tmp_path / "out", QUICK, tracks=tracks)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="exists and is not empty"):
        import_videos([video], tmp_path, QUICK)


@pytest.mark.parametrize("settings", [{"windows": ()}, {"windows": (0.01,)}, {"images_per_track": 40}, {"size": 8}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must"):
        VideoConfig(**settings)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "a.avi").write_bytes(b"")
    with pytest.raises(MissingDependency, match=r"pip install 'viewfold\[video\]'"):
        import_videos([tmp_path / "a.avi"], tmp_path / "out", QUICK)


def test_the_verb_takes_files_flags_and_settings(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--out", str(out), "--frames", "12", "--images-per-track", "4", "--size", "40"]
    with pytest.raises(SystemExit) as stopped:
        main(["data", "video", str(video), "windows=[0.38]", *flags])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "1 tracks of 4 patches in 1 shards" in said
    assert "walk.avi: 1 tracks in 13 frames" in said
    report = json.loads((out / REPORT_NAME).read_text())
    assert (report["settings"]["size"], report["videos"][0]["tracks"], report["given"]) == (40, 1, False)
    with Image.open(out / SHEET_NAME) as sheet:
        assert sheet.height == 98
    with pytest.raises(SystemExit) as stopped:
        main(["data", "video", str(video), "window=[0.38]", "--out", str(tmp_path / "other")])
    assert stopped.value.code == 2
    assert "did you mean 'windows'" in capsys.readouterr().err


def test_how_tracks_are_found_is_not_asked_of_given_ones(video: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "tracks.csv", tmp_path / "out"
    table.write_text("".join(f"{number},7,{number},9,{SIDE},{SIDE}\n" for number in range(1, 14)))

    def given(*settings: str) -> str:
        return import_videos_to([video], out, tracks=[table], settings=settings, shard_bytes=1 << 20)

    with pytest.raises(InvalidInput, match=r"^frames, windows: how tracks are found, without effect.*--tracks"):
        given("frames=30", "size=20", "windows=[0.5]")
    with pytest.raises(InvalidInput, match="did you mean 'windows'"):
        given("window=[0.5]")
    with pytest.raises(InvalidInput, match="1 given tracks with too few"):
        given("images_per_track=40")  # more than a track that is found has by default
    assert "1 tracks of 4 patches" in given("images_per_track=4", "size=20")
    assert json.loads((out / REPORT_NAME).read_text())["settings"] == {"images_per_track": 4, "size": 20}


@pytest.mark.slow
def test_walkers_before_a_camera_that_stands_still_are_found(data_packs: Path, tmp_path: Path) -> None:
    clip = data_packs / "video" / "vtest.avi"
    if not clip.is_file():
        pytest.skip(f"no {clip}")
    manifest, (counts,) = import_videos([clip], tmp_path / "out", VideoConfig())
    assert counts.frames == 795
    assert len(manifest) > 40
    assert (manifest.samples.image_counts() == 5).all()
    for about in abouts(manifest):
        boxes = np.array(about["boxes"])
        assert (boxes[:, 2] < 0.5 * 576).all()
        assert (boxes > -0.1 * boxes[:, 2:3]).all()
    with pytest.raises(InvalidInput, match="frames in which too few points moved; lower min_moving"):
        import_videos([clip], tmp_path / "paper", VideoConfig(min_moving=0.25))
