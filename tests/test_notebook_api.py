"""What `import viewfold as vf` offers: loaded late, typed, and shown as HTML in which metadata is only text."""

import ast
import io
import json
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny import write_images

import viewfold as vf
from viewfold.errors import InvalidInput
from viewfold.jobs.embed import Embedder
from viewfold.jobs.notebook import ImageLike
from viewfold.pipeline.indexer import index_shards
from viewfold.retrieval import DemoItem, image_hashes
from viewfold.ssl.encoder import EncoderConfig, Preprocessing, save_encoder

ROOT = Path(vf.__file__).parent
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\" onload='x' &lt; \u202e\x1b[2J"
SHOWN = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "pre"}


def typed() -> dict[str, str]:
    """The module of each name, as type checkers read it."""
    branches = [node for node in ast.parse((ROOT / "__init__.py").read_text("utf-8")).body if isinstance(node, ast.If)]
    (imports,) = ([node for node in branch.body if isinstance(node, ast.ImportFrom)] for branch in branches)
    return {alias.name: str(node.module) for node in imports for alias in node.names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder of random weights."""
    folder = tmp_path_factory.mktemp("encoders") / "encoder"
    config = EncoderConfig(backbone="resnet-small", equivariant_dim=64, preprocessing=Preprocessing(image_size=16))
    save_encoder(vf.Encoder(config).eval(), folder, lineage={})
    return folder


@pytest.fixture(scope="module")
def encoder(folder: Path) -> vf.Encoder:
    return vf.load_encoder(folder)


def pictures(number: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, size=(number, 20, 24, 3), dtype=np.uint8))


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Read(HTMLParser):
    """Tags, attributes and text of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self.cells += [""] if tag == "td" else []

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells:
            self.cells[-1] += data


def test_importing_it_loads_no_other_module_at_all() -> None:
    code = "import sys; before = set(sys.modules); import viewfold; print(*(set(sys.modules) - before))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert process.stdout.split() == ["viewfold"]


def test_type_checkers_know_every_name_by_the_module_that_it_is_loaded_from() -> None:
    assert typed() == vars(vf)["_MODULES"]
    assert set(typed()) == set(vf.__all__) <= set(dir(vf))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.heavy) if name == "open_pair" else name for name in vf.__all__]
)
def test_a_name_is_the_object_of_its_module(name: str) -> None:
    assert getattr(vf, name) is getattr(import_module(typed()[name]), name)


def test_a_name_that_is_not_there_is_refused_and_the_folders_stay_importable() -> None:
    with pytest.raises(AttributeError, match="module 'viewfold' has no attribute 'encode_all'"):
        getattr(vf, "encode_all")  # noqa: B009  # mypy would refuse the plain form, which is the point of the types
    from viewfold import retrieval

    assert retrieval.select is vf.select


def test_files_bytes_and_pixels_of_one_image_are_embedded_alike(encoder: vf.Encoder, tmp_path: Path) -> None:
    (pixels,) = pictures(1)
    path = tmp_path / "one.png"
    path.write_bytes(png(pixels))
    images: list[ImageLike] = [path, str(path), path.read_bytes(), pixels]
    found = vf.embed(encoder, images, labels=["a", None, "b", "c"])
    assert (found.vectors == found.vectors[:1]).all()
    assert found.keys == [str(path), str(path), "image-000002", "image-000003"]
    assert found.column("label") == ["a", None, "b", "c"]
    assert found.column("sha256")[:3] == [image_hashes(path.read_bytes())[0]] * 3
    assert len(set(found.column("phash"))) == 1
    assert (found.encoder_id, found.part) == (encoder.id, "invariant")


def test_a_long_list_is_embedded_as_its_images_are_one_by_one(encoder: vf.Encoder) -> None:
    images = pictures(130)  # more than are decoded at a time
    together = vf.embed(encoder, images, part="equivariant")
    assert together.vectors.shape == (130, 64)
    for row in (0, 127, 128, 129):
        alone = vf.embed(encoder, [images[row]], part="equivariant")
        np.testing.assert_allclose(together.vectors[row], alone.vectors[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "columns", "reason"),
    [
        ([], {}, "at least one"),
        ("one.png", {}, "give a list"),
        (["nowhere.png"], {}, "nowhere.png: cannot be read: No such file"),
        ([b"none"], {}, "image-000000: not an image"),
        ([np.zeros((8, 8, 3))], {}, r"image-000000: float64 \[8, 8, 3\], expected uint8"),
        (np.zeros((8, 8, 3), np.uint8), {}, r"image-000000: uint8 \[8, 3\], expected uint8"),
        (pictures(2), {"groups": ["a"]}, "groups: 1 for 2 images"),
    ],
)
def test_what_cannot_be_embedded_is_named(
    encoder: vf.Encoder, images: Any, columns: Mapping[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        vf.embed(encoder, images, **columns)


def test_features_are_not_filed_under_an_encoder_without_an_id(encoder: vf.Encoder) -> None:
    with pytest.raises(InvalidInput, match="no id"):
        vf.embed(vf.Encoder(encoder.config), pictures(1))


def test_shards_are_embedded_as_the_stage_does(encoder: vf.Encoder, folder: Path, tmp_path: Path) -> None:
    shards = write_images(tmp_path / "shards", samples=12, labels=3)
    manifest = index_shards(shards, tmp_path / "data")
    stage = Embedder({"it": folder}, tmp_path / "data", "all")(range(12))
    for named in (str(tmp_path / "shards"), list(map(str, shards)), str(tmp_path / "data")):
        found = vf.embed_shards(encoder, named, part="all")
        assert found.records.equals(stage.records)
        np.testing.assert_array_equal(found.vectors, stage.vectors["it"])
        assert found.manifest_hash == manifest.hash


def test_images_become_an_index_and_questions_to_it(encoder: vf.Encoder, tmp_path: Path) -> None:
    images = pictures(8)
    pool = vf.embed(
        encoder, images, labels=[f"class-{n % 2}" for n in range(8)], groups=[f"group-{n}" for n in range(8)]
    )
    bundle = vf.build_bundle(pool, tmp_path / "bundle")
    again = vf.IndexBundle.open(tmp_path / "bundle", encoder_id=encoder.id)
    assert bundle.info == again.info
    asked = vf.queries(pool)
    assert [query.id for query in asked] == pool.keys
    demos, *_ = vf.select(again, asked, vf.SelectConfig(k=3))
    assert len(demos.items) == 3
    assert demos.excluded["key"] == 1
    (other,) = vf.select(again, vf.queries(vf.embed(encoder, [png(images[0])])), vf.SelectConfig(k=3))
    assert other.query_id == "image-000000"


def demo_set(**changes: Any) -> vf.DemoSet:
    items = [
        DemoItem("far", "cat", None, 0.25, 2, "nearest"),
        DemoItem("near", "dog", "photo", 0.5, 1, "nearest", 0.75),
    ]
    body = {"query_id": "q", "items": items, "excluded": {"key": 1, "group": 0}, "warnings": ["careful"]}
    lineage = {"strategy": "invariant", "k": 2, "seed": 0, "encoder_id": "e1", "bundle_id": "b1"}
    return vf.DemoSet(**{**body, **lineage, **changes})


def test_a_set_of_demonstrations_shows_itself_first_choice_first() -> None:
    page = Read(demo_set()._repr_html_())
    assert page.cells[:7] == ["1", "0.5000", "dog", "photo", "near", "nearest", "0.75"]
    assert page.cells[7:13] == ["2", "0.2500", "cat", "-", "far", "nearest"]
    for said in ("2 of 2 demonstrations for q", "left out: 1 by key", "careful", "encoder e1, index b1"):
        assert said in page.text


def test_a_set_without_probabilities_has_no_column_of_them_and_an_empty_one_says_why() -> None:
    page = Read(demo_set(items=[], fallback="zero_shot")._repr_html_())
    assert page.cells == []
    assert "p_match" not in page.text
    assert "fallback: zero_shot" in page.text


def test_hostile_metadata_of_demonstrations_stays_text() -> None:
    item = DemoItem(HOSTILE, HOSTILE, HOSTILE, 0.5, 1, HOSTILE)
    names = dict.fromkeys(("query_id", "strategy", "encoder_id", "bundle_id", "fallback"), HOSTILE)
    page = Read(demo_set(items=[item], excluded={HOSTILE: 2}, warnings=[HOSTILE], **names)._repr_html_())
    assert page.tags <= TAGS
    assert page.attributes == []
    assert page.cells[2:5] == [SHOWN] * 3
    assert page.text.count(SHOWN) == 11


def test_a_card_is_its_table_and_hostile_words_in_it_stay_text(tmp_path: Path) -> None:
    measure = {"name": HOSTILE, "value": 0.5, "low": 0.25, "high": 0.75, "chance": 0.1}
    data = {
        "measures": {"trained": [measure]},
        "skipped": [{"encoder": "trained", "what": "rotation", "why": f"no {HOSTILE}"}],
    }
    card = vf.Card(tmp_path / "<b>card.html", data)
    page = Read(card._repr_html_())
    assert page.tags <= TAGS
    assert page.attributes == []
    assert page.text.count(SHOWN) == 2
    assert "0.500 [0.250, 0.750]" in str(card)
    assert "skipped" not in repr(card)


@pytest.mark.heavy
@pytest.mark.slow
def test_an_encoder_is_measured_and_the_card_is_kept(folder: Path, tmp_path: Path) -> None:
    shards = write_images(tmp_path / "shards", samples=48, labels=3)
    config = vf.EvaluateConfig(curve_images=0, k=1)
    card = vf.evaluate(folder, list(map(str, shards)), config=config, out=tmp_path / "out" / "card")
    assert json.loads((card.page.parent / "card.json").read_text(encoding="utf-8")) == card.data
    assert card.data["encoders"]["trained"]["folder"] == str(folder)
    assert "invariant/knn1/top1" in str(card)
