"""Demonstrations for one image: the encoder and its index, found in a run folder or in the model registry."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from viewfold.errors import InvalidInput
from viewfold.jobs.registry import Registry
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.stage import write_whole
from viewfold.retrieval import DemoSet, IndexBundle, Query, SelectConfig, image_hashes, majority, select
from viewfold.ssl.encoder import Encoder, load_encoder

TILE_PX = 96
CAPTION_PX = 28


def demonstrations(image: Path, *, k: int, source: str, home: Path, sheet: Path | None) -> str:
    """The `k` demonstrations for `image` as a table, most similar first; `sheet` also gets them as a picture.

    `source` is a run folder that holds an index, or `models:/name@alias` in the registry of `home`.
    """
    if not image.is_file():
        raise InvalidInput(f"{image}: no such file; give the path of an image")
    encoder, bundle = open_pair(source, home)
    data = image.read_bytes()
    try:
        pixels = decode_image(data, encoder.config.preprocessing.image_size)
    except InvalidInput as error:
        raise InvalidInput(f"{image}: {error}") from None
    features = encoder.encode(torch.as_tensor(np.asarray(pixels))[None])
    vector = getattr(features, bundle.info.part)[0].numpy()
    query = Query(id=str(image), vector=vector, sha256=image_hashes(data)[0])
    (chosen,) = select(bundle, [query], SelectConfig(k=k, order="nearest_first"))
    if sheet is not None:
        draw_sheet(data, chosen, bundle, sheet)
    return _table(chosen, bundle)


def open_pair(source: str, home: Path) -> tuple[Encoder, IndexBundle]:
    """An encoder with the bundle that it built; a pair that does not belong together is refused."""
    if source.startswith("models:/"):
        version = Registry(home).resolve(source)
        if "bundle" not in version.tags:
            raise InvalidInput(
                f"{source}: registered without an index; run its recipe up to `index` and register again"
            )
        encoder, folder = load_encoder(version.encoder), Path(version.tags["bundle"])
    else:
        run = Path(source)
        folder = run / "index" / "bundle"
        stages = [path for stage in ("adapt", "pretrain", "start") if (path := run / stage / "encoder").is_dir()]
        if not stages or not folder.is_dir():
            raise InvalidInput(
                f"{source}: not a run folder with an encoder and an index; `viewfold index RECIPE` makes one"
            )
        encoder = load_encoder(stages[0])
    return encoder, IndexBundle.open(folder, encoder_id=encoder.id)


def draw_sheet(query: bytes, chosen: DemoSet, bundle: IndexBundle, out: Path) -> None:
    """The query and its demonstrations in one row, each with its label and cosine below."""
    tiles = [(Image.fromarray(decode_image(query, TILE_PX).transpose(1, 2, 0)), "query", "")]
    for item in chosen.items:
        thumbnail = bundle.thumbnail(item.key)
        if thumbnail is not None:
            picture = Image.fromarray(decode_image(thumbnail, TILE_PX).transpose(1, 2, 0))
            tiles.append((picture, item.label, f"{item.score:.3f}"))
    canvas = Image.new("RGB", (len(tiles) * (TILE_PX + 8) + 8, TILE_PX + CAPTION_PX + 16), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (tile, label, score) in enumerate(tiles):
        left = 8 + number * (TILE_PX + 8)
        canvas.paste(tile, (left, 8))
        pen.text((left, TILE_PX + 10), label[:16], fill="black")
        pen.text((left, TILE_PX + 22), score, fill="black")
    write_whole(out, lambda file: canvas.save(file, format="PNG"))


def _table(chosen: DemoSet, bundle: IndexBundle) -> str:
    lines = [f"{'rank':>4}  {'cosine':>7}  {'label':16} {'domain':20} key"]
    lines += [f"{i.rank:>4}  {i.score:7.4f}  {i.label:16} {i.domain or '-':20} {i.key}" for i in chosen.items]
    excluded = ", ".join(f"{count} by {reason}" for reason, count in chosen.excluded.items() if count) or "none"
    lines += [f"vote: {majority(chosen.items)}    excluded: {excluded}", *chosen.warnings]
    return "\n".join([*lines, f"encoder {bundle.info.encoder_id}, index {bundle.info.id} of {len(bundle)} images"])
