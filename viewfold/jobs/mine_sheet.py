"""Mined pairs at one glance: for each kind of edge some pairs drawn by lot, and whether their labels agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from viewfold.jobs.mine_facts import purity_text
from viewfold.jobs.mine_graph import Edges
from viewfold.jobs.mine_nodes import Nodes
from viewfold.keyed import generator
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.partners import KINDS
from viewfold.pipeline.reader import ShardReader
from viewfold.pipeline.stage import write_whole

_MEANING = {
    "inter": "two things that look alike: images that list one another among their nearest",
    "intra": "one thing twice: images of one track",
    "transitive": "joined by one inter edge between their tracks",
}
_TILE, _GUTTER, _GAP, _MARGIN = 80, 2, 18, 16
_COLUMNS, _ROWS = 8, 2
_TITLE_PX, _CAPTION_PX = 46, 20
_GROUND, _TEXT, _UNKNOWN, _SAME, _OTHER = "white", (80, 80, 80), (140, 140, 140), (0, 110, 60), (190, 60, 0)
_PAIR = 2 * _TILE + _GUTTER


def draw_pairs(
    manifest: ShardManifest,
    nodes: Nodes,
    edges: Mapping[str, Edges],
    facts: Mapping[str, Any],
    path: Path,
    *,
    seed: int,
) -> Path:
    """Draw pairs of each kind to a PNG; `facts` are those of `mine`.

    Under a pair stands `=` and the label that both carry, or both labels; nothing is chosen by label.
    """
    chosen = {kind: _drawn(edges[kind], kind, seed) for kind in KINDS if len(edges[kind])}
    block = _TITLE_PX + _GAP
    line = _TILE + _CAPTION_PX + _GAP // 2
    heights = [block + -(-len(pairs) // _COLUMNS) * line for pairs in chosen.values()]
    sheet = Image.new("RGB", (2 * _MARGIN + _COLUMNS * (_PAIR + _GAP) - _GAP, 2 * _MARGIN + sum(heights)), _GROUND)
    pen, top = ImageDraw.Draw(sheet), _MARGIN
    with manifest.reader() as reader:
        for (kind, pairs), height in zip(chosen.items(), heights, strict=True):
            _put_title(pen, top, kind, facts)
            for place, pair in enumerate(pairs.tolist()):
                row, column = divmod(place, _COLUMNS)
                at = (_MARGIN + column * (_PAIR + _GAP), top + _TITLE_PX + row * line)
                for side, node in enumerate(pair):
                    tile = _tile(manifest, reader, int(nodes.row[node]), int(nodes.member[node]))
                    sheet.paste(tile, (at[0] + side * (_TILE + _GUTTER), at[1]))
                _put_labels(pen, at, *(_label(manifest, int(nodes.row[node])) for node in pair))
            top += height
    return write_whole(path, lambda file: sheet.save(file, "PNG"))


def _drawn(edges: Edges, kind: str, seed: int) -> Edges:
    number = min(len(edges), _COLUMNS * _ROWS)
    return edges[np.sort(generator("pairs sheet", kind, seed).choice(len(edges), number, replace=False))]


def _put_title(pen: ImageDraw.ImageDraw, top: int, kind: str, facts: Mapping[str, Any]) -> None:
    title = f"{kind}: {facts['counts'][kind]:,} pairs"
    pen.text((_MARGIN, top), title, fill="black", font=ImageFont.load_default(size=18))
    text = f"{_MEANING[kind]}; same label: {purity_text(facts['purity'][kind], facts['chance'])}"
    pen.text((_MARGIN, top + 24), text, fill=_TEXT, font=ImageFont.load_default(size=13))


def _put_labels(pen: ImageDraw.ImageDraw, at: tuple[int, int], first: str | None, second: str | None) -> None:
    font = ImageFont.load_default(size=13)
    if first is None or second is None:
        text, ink = (f"{first or '?'} | {second or '?'}", _UNKNOWN)
    elif first == second:
        text, ink = (f"= {first}", _SAME)
    else:
        text, ink = (f"{first} | {second}", _OTHER)
    while font.getlength(text) > _PAIR:
        text = f"{text.removesuffix('..')[:-1]}.."
    pen.text((at[0], at[1] + _TILE + 1), text, fill=ink, font=font)


def _label(manifest: ShardManifest, row: int) -> str | None:
    number = int(manifest.label[row])
    return manifest.labels[number] if number >= 0 else None


def _tile(manifest: ShardManifest, reader: ShardReader, row: int, member: int) -> Image.Image:
    data = reader.read(manifest.shard(row), manifest.samples.images(row)[member])
    return Image.fromarray(decode_image(data, _TILE).transpose(1, 2, 0))
