"""The backend in one process: what it checks, how it exchanges pairs, what it keeps."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served import Thumbnails, backend, built, images, opened, picture

from viewfold.config import parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import Calibration, FilterConfig, IndexBundle, Query, SelectConfig, select
from viewfold.retrieval.selection.abstention import AbstainConfig
from viewfold.retrieval.service.backend import Embedded, NotReady, Overloaded, PairInfo, pair_id
from viewfold.retrieval.service.config import BatchingConfig
from viewfold.retrieval.service.local import LocalBackend, LocalPair, Opened
from viewfold.retrieval.service.metrics import REGISTRY


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("other") / "bundle", encoder_id="thumbnails-5", count=9)


def local(bundle: IndexBundle) -> LocalPair:
    return LocalPair(opened(bundle), BatchingConfig())


def reloads(result: str) -> float:
    return REGISTRY.get_sample_value("viewfold_reload_total", {"result": result}) or 0.0


def test_concurrent_requests_are_one_call_of_the_encoder_and_one_search(bundle: IndexBundle) -> None:
    encode = Thumbnails()
    pair = LocalPair(opened(bundle, encode), BatchingConfig())
    files = [picture("red", number) for number in range(6)]
    config = SelectConfig(k=2)

    async def scene() -> list[list[Embedded | InvalidInput]]:
        return list(await asyncio.gather(*(pair.embed([data]) for data in files)))

    embedded = [one for (one,) in asyncio.run(scene()) if isinstance(one, Embedded)]
    assert encode.calls[1:] in ([6], [1, 5])  # the first may have been taken before the others came
    queries = [Query(str(number), one.vector) for number, one in enumerate(embedded)]

    async def selecting() -> list[object]:
        return [demos for (demos,) in await asyncio.gather(*(pair.select([query], config) for query in queries))]

    assert asyncio.run(selecting()) == select(bundle, queries, config)


def test_an_encoder_that_did_not_build_the_bundle_is_refused(bundle: IndexBundle) -> None:
    with pytest.raises(ArtifactMismatch, match=r"thumbnails-4.*thumbnails-9"):
        LocalPair(opened(bundle, Thumbnails("thumbnails-9")), BatchingConfig())
    with pytest.raises(ArtifactMismatch, match="base encoder None"):
        LocalPair(replace(opened(bundle), base_encode=Thumbnails("base")), BatchingConfig())


class Broken(Thumbnails):
    """Makes vectors that cannot be searched for."""

    def __init__(self, vector: list[float]) -> None:
        super().__init__()
        self._made = np.array(vector)

    def __call__(self, images):  # type: ignore[no-untyped-def]
        return [self._made for _ in images]


@pytest.mark.parametrize("vector", [[0.0] * 48, [float("nan")] * 48, [1.0] * 47])
def test_a_pair_whose_encoder_makes_nothing_of_a_picture_is_refused(bundle: IndexBundle, vector: list[float]) -> None:
    with pytest.raises(InvalidInput):
        LocalPair(opened(bundle, Broken(vector)), BatchingConfig())


def test_what_cannot_be_used_is_refused_and_the_old_pair_stays(
    bundle: IndexBundle, other: IndexBundle, tmp_path: Path
) -> None:
    served = backend(bundle.folder)
    before, refused = served.pair(), reloads("refused")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in other.folder.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "index.faiss").write_bytes(b"\0" * 100)
    for source in (str(tmp_path / "none"), str(damaged)):
        with pytest.raises(InvalidInput):
            asyncio.run(served.reload(source))
    assert served.pair() is before
    assert reloads("refused") == refused + 2


def test_a_request_keeps_the_pair_that_it_took(bundle: IndexBundle, other: IndexBundle) -> None:
    served = backend(bundle.folder)
    taken = served.pair()
    info = served.load(str(other.folder))
    assert (info.id, served.pair().info) == (pair_id("thumbnails-5", other.info.id), info)
    (demos,) = asyncio.run(taken.select([Query("q", np.ones(48))], SelectConfig(k=1)))
    assert (demos.bundle_id, demos.encoder_id) == (bundle.info.id, "thumbnails-4")


def test_the_old_pair_is_gone_with_its_last_request(bundle: IndexBundle, other: IndexBundle) -> None:
    served = backend(bundle.folder)
    taken = served.pair()
    asyncio.run(taken.embed([picture("red", 1)]))
    asyncio.run(taken.select([Query("q", np.ones(48))], SelectConfig(k=1)))
    asyncio.run(taken.search(np.ones((1, 48)), 1, FilterConfig()))
    gone = weakref.ref(taken)
    held = weakref.ref(taken._bundle)
    gc.disable()  # nothing may wait for the collector: an index takes gigabytes
    try:
        served.load(str(other.folder))
        assert gone() is taken
        del taken
        assert (gone(), held()) == (None, None)
    finally:
        gc.enable()


def test_nothing_is_open_before_it_is_loaded_nor_after_it_is_closed(bundle: IndexBundle) -> None:
    served = LocalBackend(lambda _: opened(bundle))
    with pytest.raises(NotReady):
        served.pair()
    served.load()
    served.pair()
    asyncio.run(served.close())
    with pytest.raises(NotReady):
        served.pair()


def test_one_bad_image_does_not_hurt_the_others(bundle: IndexBundle) -> None:
    good, bad = picture("red", 1), picture("red", 1)[:200]
    first, second, third = asyncio.run(local(bundle).embed([good, bad, good]))
    assert isinstance(second, InvalidInput)
    assert isinstance(first, Embedded)
    assert isinstance(third, Embedded)
    np.testing.assert_array_equal(first.vector, third.vector)


HALF = {"kind": "isotonic", "scores": (0.0,), "probabilities": (0.5,), "num_pairs": 9, "base_rate": 0.5}


@pytest.mark.parametrize("before", [None, "thumbnails-4"])
def test_a_calibration_that_comes_later_counts_neither_for_choices_nor_for_their_reasons(
    tmp_path: Path, before: str | None
) -> None:
    bundle, query = built(tmp_path / "bundle"), Query("q", np.ones(48))
    file = bundle.folder / "calibration.json"
    if before is not None:
        parse(Calibration, {**HALF, "encoder_id": before}).save(file)
    pair = local(bundle)
    answers = []
    for _ in range(2):
        (demos,) = asyncio.run(pair.select([query], SelectConfig(k=2)))
        answers.append((demos, asyncio.run(pair.explain(query, SelectConfig(k=2), 9))))
        parse(Calibration, {**HALF, "encoder_id": "thumbnails-5"}).save(file)
    assert answers[0] == answers[1]
    assert [item.p_match for item in answers[1][0].items] == [None if before is None else 0.5] * 2


def test_what_may_be_dropped_and_replaced_is_judged_by_that_calibration_too(tmp_path: Path) -> None:
    bundle, query = built(tmp_path / "bundle"), Query("q", np.ones(48))
    parse(Calibration, {**HALF, "encoder_id": "thumbnails-4"}).save(bundle.folder / "calibration.json")
    pair = local(bundle)
    parse(Calibration, {**HALF, "encoder_id": "thumbnails-5"}).save(bundle.folder / "calibration.json")
    abstain = AbstainConfig(min_p_match=0.9, fallback="stratified_random")
    (demos,) = asyncio.run(pair.select([query], SelectConfig(k=3, abstain=abstain)))
    assert [item.p_match for item in demos.items] == [0.5] * 3


def test_a_few_reloads_too_many_are_turned_away_and_searches_go_on(bundle: IndexBundle) -> None:
    go = threading.Event()
    go.set()

    def opener(_: str | None) -> Opened:
        assert go.wait(10)
        return opened(bundle)

    served = LocalBackend(opener)
    served.load()
    go.clear()

    async def scene() -> list[object]:
        reloads = [asyncio.create_task(served.reload(None)) for _ in range(40)]  # more than threads to work with
        await asyncio.sleep(0)
        try:
            ((found,),) = await asyncio.wait_for(served.pair().search(np.ones((1, 48)), 1, FilterConfig()), 10)
            assert await asyncio.wait_for(served.pair().record(found.key), 10) is not None
        finally:
            go.set()
        return [type(end) for end in await asyncio.gather(*reloads, return_exceptions=True)]

    ends = asyncio.run(scene())
    assert (ends.count(PairInfo), ends.count(Overloaded)) == (2, 38)
    assert asyncio.run(served.reload(None)).id == served.pair().info.id  # there is room again


def test_a_reload_that_nobody_waits_for_ends_all_the_same(bundle: IndexBundle) -> None:
    go, done = threading.Event(), threading.Event()

    def opener(_: str | None) -> Opened:
        assert go.wait(60)
        done.set()
        return opened(bundle)

    async def scene(served: LocalBackend) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(served.reload(None), 0.01)

    served = LocalBackend(opener)
    asyncio.run(scene(served))
    go.set()
    assert done.wait(60)
    assert asyncio.run(served.reload(None)).id == served.pair().info.id


ENDING = """
import asyncio, threading
from viewfold.retrieval.service.local import LocalBackend

async def scene(backend):
    reload = asyncio.create_task(backend.reload(None))
    await asyncio.sleep(0.1)
    reload.cancel()
    await backend.close()

asyncio.run(scene(LocalBackend(lambda source: threading.Event().wait())))
"""


@pytest.mark.slow
def test_a_process_ends_while_an_index_is_being_opened() -> None:
    subprocess.run([sys.executable, "-c", ENDING], check=True, timeout=120)


def test_records_are_those_of_the_rows_that_are_there_without_what_describes_thumbnails(bundle: IndexBundle) -> None:
    rows = [11, 0, 12, -1, 0]
    found = asyncio.run(local(bundle).records(rows))
    assert [record and record["row"] for record in found] == [11, 0, None, None, 0]
    table = bundle.records.to_pylist()
    for record in filter(None, found):
        known = table[record.pop("row")]
        assert record == {name: known[name] for name in known if not name.startswith("thumb_")}
    assert asyncio.run(local(bundle).records([])) == []


def test_an_image_whose_shard_is_gone_is_shown_by_its_thumbnail(bundle: IndexBundle) -> None:
    files = images()
    assert asyncio.run(local(bundle).image("red/00")) == files["red/00"]
    without = LocalPair(replace(opened(bundle), image_of=None), BatchingConfig())
    assert asyncio.run(without.image("red/00")) == bundle.thumbnail("red/00")
    assert asyncio.run(local(bundle).image("none")) is None


def test_an_index_without_labels_can_be_searched_and_gives_no_demonstrations(tmp_path: Path) -> None:
    bundle = built(tmp_path / "bundle", label=[None] * 12)
    pair = local(bundle)
    assert pair.info.labels == []
    ((first,),) = asyncio.run(pair.search(np.ones((1, 48)), 1, FilterConfig()))
    assert first.label is None
    with pytest.raises(InvalidInput, match="no label"):
        asyncio.run(pair.select([Query("q", np.ones(48))], SelectConfig(k=1)))
