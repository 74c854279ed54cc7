"""The stream: the same global batches for any ranks, processes and restarts; what is in a batch; what is refused."""

import dataclasses
import gc
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from servers import Fault, file_server
from tiny import break_image, truncate, write_images, write_objects, write_shards

from viewfold.config import parse
from viewfold.errors import InvalidInput, ShardError, TrainingStopped
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.images import read_images
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.plain import plain_stream
from viewfold.pipeline.quarantine import BadSample, read_quarantine
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig, make_order
from viewfold.values import Batch

PAIRS = StreamConfig(batch_size=8, image_size=32, images_per_sample=2, block=2)
SINGLES = StreamConfig(batch_size=8, image_size=32, block=4)

# webdataset 1.0.2 never closes a shard that it has read; the garbage collector does, and says so.
leaves_files_open = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def objects(tmp_path: Path) -> ShardManifest:
    return index_shards(write_objects(tmp_path), tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> ShardManifest:
    return index_shards(write_images(tmp_path), tmp_path)


def assert_same(got: Batch, expected: Batch) -> None:
    for field in dataclasses.fields(Batch):
        a, b = getattr(got, field.name), getattr(expected, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


def joined(parts: list[Batch]) -> Batch:
    """The global batch that the ranks' batches make."""
    axes = {"images": 1, "members": 1, "latents": 1, "parent": 1}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Batch):
        values = [getattr(part, field.name) for part in parts]
        if values[0] is None:
            fields[field.name] = None
            continue
        is_tensor = isinstance(values[0], torch.Tensor)
        fields[field.name] = torch.cat(values, axes.get(field.name, 0)) if is_tensor else sum(values[1:], values[0])
    return Batch(**fields)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_would(objects: ShardManifest, world_size: int) -> None:
    alone = stream_batches(objects, PAIRS, num_steps=4)
    ranks = [stream_batches(objects, PAIRS, rank=r, world_size=world_size, num_steps=4) for r in range(world_size)]
    for expected, *parts in zip(alone, *ranks, strict=True):
        assert_same(joined(parts), expected)


def test_loader_processes_change_nothing(objects: ShardManifest) -> None:
    expected = stream_batches(objects, PAIRS, num_steps=5)
    config = dataclasses.replace(PAIRS, loader_workers=2)
    for got, wanted in zip(stream_batches(objects, config, num_steps=5), expected, strict=True):
        assert_same(got, wanted)


@pytest.mark.parametrize("start", [1, 2, 4])
def test_a_stream_goes_on_in_the_middle_of_an_epoch_as_if_never_cut(objects: ShardManifest, start: int) -> None:
    whole = list(stream_batches(objects, PAIRS, num_steps=5))
    rest = stream_batches(objects, PAIRS, start_step=start, num_steps=5 - start)
    for got, wanted in zip(rest, whole[start:], strict=True):
        assert_same(got, wanted)


@pytest.mark.parametrize("loader_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_shards_on_a_server_that_fails_now_and_then_give_the_batches_of_local_ones(
    images: ShardManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader_workers: int
) -> None:
    monkeypatch.setenv("VIEWFOLD_CACHE", str(tmp_path / "cache"))
    config = dataclasses.replace(SINGLES, loader_workers=loader_workers)
    with file_server() as server:
        for shard in images.shards:
            server.files[f"/{shard.name}.tar"] = Path(shard.location).read_bytes()
            server.faults[f"/{shard.name}.tar"] = [Fault(cut_after=2000), Fault(status=503)]
        remote = index_shards([f"{server.url}/{shard.name}.tar" for shard in images.shards], tmp_path / "remote")
        assert remote.hash == images.hash
        shutil.rmtree(tmp_path / "cache")
        got = list(stream_batches(remote, config, num_steps=6))
    for batch, expected in zip(got, stream_batches(images, config, num_steps=6), strict=True):
        assert_same(batch, expected)


def test_every_sample_comes_once_an_epoch(objects: ShardManifest) -> None:
    batches = list(stream_batches(objects, PAIRS, num_steps=3))  # 24 slots: two epochs of 12
    keys = [(epoch, key) for batch in batches for epoch, key in zip(batch.epochs.tolist(), batch.keys, strict=True)]
    assert sorted(keys) == sorted((epoch, objects.key(row)) for epoch in (0, 1) for row in range(12))


def test_balanced_batches_hold_as_many_of_each_class_from_every_domain(images: ShardManifest) -> None:
    config = dataclasses.replace(SINGLES, batch_size=6, classes_per_batch=3)
    ranks = [stream_batches(images, config, rank=rank, world_size=2, num_steps=8) for rank in range(2)]
    for expected, *parts in zip(stream_batches(images, config, num_steps=8), *ranks, strict=True):
        assert_same(joined(parts), expected)
        assert sorted(expected.label.tolist()) == [0, 0, 1, 1, 2, 2]
        assert {(int(a), int(b)) for a, b in zip(expected.label, expected.domain, strict=True)} == {
            (label, domain) for label in range(3) for domain in range(2)
        }
    with pytest.raises(InvalidInput, match="classes_per_batch=4 is more than the 3 classes"):
        stream_batches(images, dataclasses.replace(config, batch_size=8, classes_per_batch=4), num_steps=1)


def test_a_pair_is_two_distinct_images_with_their_own_latents(objects: ShardManifest) -> None:
    seen = set()
    for batch in stream_batches(objects, PAIRS, num_steps=9):
        assert batch.latents is not None
        assert (batch.images.shape, batch.images.dtype) == ((2, 8, 3, 32, 32), torch.uint8)
        assert (batch.members[0] != batch.members[1]).all()
        with objects.reader() as reader:
            for slot, row in enumerate(batch.rows.tolist()):
                shard, about = objects.shard(row), objects.samples.about(row)
                assert about is not None
                latents = json.loads(reader.read(shard, about))["latents"]
                for view, member in enumerate(batch.members[:, slot].tolist()):
                    data = reader.read(shard, objects.samples.images(row)[member])
                    np.testing.assert_array_equal(batch.images[view, slot], decode_image(data, 32))
                    np.testing.assert_allclose(batch.latents[view, slot], latents[member], rtol=1e-6)
                    seen.add((view, member))
    assert seen == {(view, member) for view in (0, 1) for member in range(4)}


def test_a_draw_depends_on_seed_epoch_and_identity_alone(objects: ShardManifest) -> None:
    def members(config: StreamConfig) -> dict[tuple[str, int], list[int]]:
        return {
            (key, epoch): batch.members[:, slot].tolist()
            for batch in stream_batches(objects, config, num_steps=6 * 8 // config.batch_size)
            for slot, (key, epoch) in enumerate(zip(batch.keys, batch.epochs.tolist(), strict=True))
        }

    drawn = members(PAIRS)
    assert members(dataclasses.replace(PAIRS, batch_size=4, block=7)) == drawn
    assert members(dataclasses.replace(PAIRS, seed=1)) != drawn


def test_one_image_of_an_object_is_drawn_where_pairs_are_not_asked_for(objects: ShardManifest) -> None:
    config = dataclasses.replace(PAIRS, images_per_sample=1)
    batches = list(stream_batches(objects, config, num_steps=6))
    assert {batch.images.shape for batch in batches} == {(1, 8, 3, 32, 32)}
    assert {int(member) for batch in batches for member in batch.members.flatten()} == {0, 1, 2, 3}


def test_labels_domains_and_groups_are_those_of_the_rows(images: ShardManifest) -> None:
    (batch,) = stream_batches(images, SINGLES, num_steps=1)
    rows = batch.rows.numpy()
    for name in ("label", "domain", "group"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(images, name)[rows])
    assert (batch.latents, batch.members.tolist()) == (None, [[0] * 8])


def test_global_generators_are_left_alone(images: ShardManifest) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]
    list(stream_batches(images, SINGLES, num_steps=2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]


def test_a_stream_left_early_closes_its_files(images: ShardManifest) -> None:
    def open_shards() -> int:
        names = [os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()]
        return sum(shard.location in names for shard in images.shards)

    stream = stream_batches(images, SINGLES, num_steps=3)
    next(stream)
    assert open_shards() > 0
    stream.close()
    assert open_shards() == 0


@pytest.mark.parametrize(
    ("change", "world_size", "reason"),
    [
        ({"batch_size": 6}, 4, "batch_size=6 does not divide over 4 ranks; use 4 or 8, or 1, 2, 3 or 6 ranks"),
        ({"batch_size": 3}, 4, "use 4, or 1 or 3 ranks"),
        ({"batch_size": 25}, 1, "batch_size=25 is more than the 24 samples"),
        ({"images_per_sample": 2}, 1, r"images-000000/img-0000 has 1 \(24 such samples\); set images_per_sample=1"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_at_once(
    images: ShardManifest, change: dict[str, Any], world_size: int, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        stream_batches(images, dataclasses.replace(SINGLES, **change), world_size=world_size, num_steps=1)


@pytest.mark.parametrize("field", ["batch_size", "image_size", "block", "loader_workers", "max_bad_share"])
def test_a_configuration_out_of_range_names_its_field(field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        parse(StreamConfig, {field: -1})


def broken_set(folder: Path) -> ShardManifest:
    """Twelve objects of four views; one view of object 7 and all of object 3 are cut."""
    paths = write_objects(folder)
    manifest = index_shards(paths, folder)
    break_image(paths[1], "obj-0007.02.jpg")
    for view in range(4):
        break_image(paths[0], f"obj-0003.{view:02d}.jpg")
    return manifest


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_the_first_bad_sample_ends_a_run_by_name(tmp_path: Path, loader_workers: int) -> None:
    config = dataclasses.replace(PAIRS, loader_workers=loader_workers)
    with pytest.raises(ShardError, match=r"^objects-00000[01]: obj-000[37]: image 0\d at byte \d+: .*cut short"):
        list(stream_batches(broken_set(tmp_path), config, num_steps=3))


def test_a_bad_sample_is_replaced_by_the_next_good_one_and_written_down_once(tmp_path: Path) -> None:
    manifest = broken_set(tmp_path)
    config = dataclasses.replace(PAIRS, max_bad_share=0.3)
    good = write_objects(tmp_path / "good")
    wanted = stream_batches(
        dataclasses.replace(index_shards(good, tmp_path / "good"), hash=manifest.hash), config, num_steps=9
    )
    got = stream_batches(manifest, config, num_steps=9, quarantine=tmp_path / "quarantine.jsonl")
    order, replaced = make_order(manifest, config), 0
    for step, (batch, whole) in enumerate(zip(got, wanted, strict=True)):
        for slot, key in enumerate(whole.keys):
            if batch.keys[slot] != key:
                replaced += 1
                stand_ins = [order.stand_in(step, slot, nth) for nth in (1, 2, 3)]
                assert (int(batch.rows[slot]), int(batch.epochs[slot])) in stand_ins
            else:
                assert torch.equal(batch.images[:, slot], whole.images[:, slot])
    found = read_quarantine(tmp_path / "quarantine.jsonl")
    assert sorted(bad.key for bad in found) == ["obj-0003", "obj-0007"]
    assert replaced > got.num_bad == 2
    place = manifest.place(7, 2)
    (seven,) = (bad for bad in found if bad.key == "obj-0007")
    assert (seven.shard, seven.member, seven.offset) == ("objects-000001", 2, place.offset)


def test_ranks_find_the_same_stand_ins_as_one_would(tmp_path: Path) -> None:
    manifest, config = broken_set(tmp_path), dataclasses.replace(PAIRS, max_bad_share=0.3)
    alone = stream_batches(manifest, config, num_steps=6)
    ranks = [stream_batches(manifest, config, rank=r, world_size=4, num_steps=6) for r in range(4)]
    for expected, *parts in zip(alone, *ranks, strict=True):
        assert_same(joined(parts), expected)


def test_a_run_stops_when_the_share_is_exceeded(tmp_path: Path) -> None:
    config = dataclasses.replace(PAIRS, max_bad_share=0.05)
    with pytest.raises(TrainingStopped, match=r"step \d: \d bad samples of 12 are \d+\.\d+%, more than the 5\.00%"):
        list(stream_batches(broken_set(tmp_path), config, num_steps=9))


def test_a_set_without_a_good_sample_stops_the_run(tmp_path: Path) -> None:
    paths = write_images(tmp_path, samples=4)
    manifest = index_shards(paths, tmp_path)
    for n in range(4):
        break_image(paths[0], f"img-{n:04d}.png")
    config = StreamConfig(batch_size=2, image_size=32, max_bad_share=0.9)
    with pytest.raises(TrainingStopped, match=r"4 bad samples of 4 are 100\.00%"):
        list(stream_batches(manifest, config, num_steps=1))


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_shard_that_changed_ends_the_run_whatever_is_tolerated(tmp_path: Path, loader_workers: int) -> None:
    paths = write_images(tmp_path)
    manifest = index_shards(paths, tmp_path)
    truncate(paths[0])
    config = dataclasses.replace(SINGLES, max_bad_share=0.9, loader_workers=loader_workers)
    with pytest.raises(ShardError, match=r"images-000000\.tar: has \d+ bytes where the manifest says \d+"):
        list(stream_batches(manifest, config, num_steps=3))


def test_a_json_that_broke_since_is_a_bad_sample(tmp_path: Path) -> None:
    (path,) = write_objects(tmp_path, objects=4)
    manifest = index_shards([path], tmp_path)
    break_image(path, "obj-0001.json")
    with pytest.raises(ShardError, match=r"obj-0001: JSON at byte \d+: its JSON cannot be read"):
        list(stream_batches(manifest, StreamConfig(batch_size=4, images_per_sample=2), num_steps=1))


def test_reading_gives_every_stored_image_in_order(objects: ShardManifest) -> None:
    batches = list(read_images(objects, [5, 0, 1], image_size=16, batch_size=5))
    assert [len(batch.keys) for batch in batches] == [5, 5, 2]
    keys = [key for batch in batches for key in batch.keys]
    assert keys == [objects.image_key(row, member) for row in (5, 0, 1) for member in range(4)]
    assert [row for batch in batches for row in batch.rows] == [5] * 4 + [0] * 4 + [1] * 4
    assert batches[0].images.shape == (5, 3, 16, 16)
    assert batches[0].latents is not None
    with objects.reader() as reader, tarfile.open(objects.shards[1].location) as tar:
        wanted = json.loads(tar.extractfile("obj-0005.json").read())["latents"]  # type: ignore[union-attr]
        np.testing.assert_allclose(batches[0].latents[:4], wanted, rtol=1e-6)
        assert batches[0].data[4] == reader.read(0, objects.samples.images(0)[0])


def test_reading_a_bad_image_names_it(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"^objects-000000: obj-0003: image 00 at byte \d+: .*cut short"):
        list(read_images(broken_set(tmp_path), range(12), image_size=16, batch_size=5))


@leaves_files_open
def test_shards_without_a_manifest_stream_once_each(tmp_path: Path) -> None:
    paths = [str(path) for path in write_images(tmp_path)]
    batches = list(plain_stream(paths, image_size=16, batch_size=10, shuffle=8, seed=1))
    keys = [key for batch in batches for key in batch.keys]
    assert sorted(keys) == [f"images-{n // 10:06d}/img-{n:04d}" for n in range(24)]
    assert keys != sorted(keys)
    assert [batch.images.shape for batch in batches] == [(1, n, 3, 16, 16) for n in (10, 10, 4)]
    assert keys == [k for b in plain_stream(paths, image_size=16, batch_size=10, shuffle=8, seed=1) for k in b.keys]
    gc.collect()  # while the warning is still ignored


@leaves_files_open
def test_a_plain_stream_names_a_sample_that_it_cannot_read(tmp_path: Path) -> None:
    for member in ("a.jpg", "a.json"):
        (path,) = write_shards(tmp_path, "bad", [{member: b"x"}])
        with pytest.raises(ShardError, match=r"^bad-000000: a: (not an image|no image)"):
            list(plain_stream(str(path), image_size=16, batch_size=1))
    gc.collect()


def test_a_quarantine_that_is_none_is_refused_by_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"shard": 1}\n')
    with pytest.raises(InvalidInput, match="line 1 is not a quarantine record"):
        read_quarantine(tmp_path / "q.jsonl")
    assert str(BadSample("s", "k", -1, 7, "gone", 0).error()) == "s: k: JSON at byte 7: gone"
