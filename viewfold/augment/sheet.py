"""A policy at one glance: stored images, views of them, where the geometry moved them and what became of colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from viewfold.augment.field_warp import FOLD_BUDGET, FieldWarp
from viewfold.augment.frame import resample
from viewfold.augment.geometry import common_frame, compose
from viewfold.augment.policies import PolicyConfig
from viewfold.augment.transform import Geometric, Photometric, Transform
from viewfold.augment.view import describe, draw_view, render
from viewfold.config import dump

LEAST_TILE_PX = 128
"""Smaller views are enlarged by a whole factor, pixel by pixel, until their longer side has this many pixels."""
_GAP, _CAPTION_PX, _MARGIN = 8, 18, 10
_CELLS, _OVERSAMPLING = 8, 3
_PAPER, _OUTSIDE, _ROWS, _COLUMNS, _CORNER = "white", (170, 170, 170), (190, 40, 40), (30, 70, 160), (250, 190, 60)
_GROUND, _TEXT, _TITLE_PX, _LINE_PX = (236, 236, 236), (80, 80, 80), 30, 18
_EPOCH = 0

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, kw_only=True)
class _Part(PolicyConfig):
    """Some families of a policy; they draw by their columns' names, so the same as in the whole."""

    families: tuple[Transform, ...]

    def transforms(self) -> tuple[Transform, ...]:
        return self.families


@dataclass(frozen=True)
class _Column:
    title: str
    tiles: list[Image.Image]
    captions: list[str]
    reference: Image.Image | None = None
    """What the tiles would be without the policy, drawn above them."""


def policy_sheet(
    policy: PolicyConfig,
    images: Float[Tensor, "image 3 height width"],
    samples: Sequence[str],
    *,
    num_views: int,
    seed: int,
) -> Image.Image:
    """A row for each image (0..1): as stored, `num_views` views, then what view 0 does to a grid and to a colour card.

    The views are those that a training with this seed sees of `samples` in epoch 0. Grey in a grid is what lies outside
    of the image, where views are mirrored at its border; orange is the cell that was in the upper left corner.
    """
    height, width = images.shape[2:]
    scale = max(1, math.ceil(LEAST_TILE_PX / max(height, width)))
    draws = [_drawn(policy, samples, seed, view) for view in range(num_views)]
    folds = [describe(policy, drawn, height=height, width=width).fold_fraction for drawn in draws]
    columns = [_Column("as stored", _pictures(images, scale), [s.partition("/")[2] or s for s in samples])]
    for view, (drawn, folded) in enumerate(zip(draws, folds, strict=True)):
        captions = [""] * len(samples) if folded is None else [f"folded {_percent(part)}" for part in folded.tolist()]
        columns.append(_Column(f"view {view}", _pictures(render(policy, images, drawn), scale), captions))
    columns += _grids(policy, images, samples, seed, scale) + _cards(policy, images, samples, seed, scale)
    shares = [part for part in folds if part is not None]
    facts = policy_facts(policy, fold_fraction=float(torch.stack(shares).mean()) if shares else None)
    facts.append(f"{len(images)} images x {num_views} views at {width} x {height} px, seed {seed}, epoch {_EPOCH}")
    return _laid_out(str(dump(policy).get("name", type(policy).__name__)), facts, columns)


def policy_facts(policy: PolicyConfig, *, fold_fraction: float | None) -> list[str]:
    """What a policy is, in lines of text; `fold_fraction` is the mean of the views that were drawn."""
    changed = _changes(dump(policy), dump(type(policy)()))
    families = ", ".join(type(family).__name__ for family in policy.transforms())
    facts = [(type(policy).__doc__ or "").splitlines()[0]]
    facts.append(f"families: {families}" if families else "no families: the views are the stored images")
    facts.append(f"settings: {', '.join(changed) or 'default'}")
    for family in policy.transforms():
        if isinstance(family, FieldWarp):
            budget = family.config.gradient_budget
            facts.append(f"gradient budget {budget:.2f} (up to {FOLD_BUDGET:.2f} images hardly ever fold)")
    if fold_fraction is not None:
        facts.append(f"mean fold fraction of the views below: {_percent(fold_fraction)}")
    return facts


def _drawn(policy: PolicyConfig, samples: Sequence[str], seed: int, view: int) -> Float[Tensor, "batch draw"]:
    return draw_view(policy, seed=seed, epochs=[_EPOCH] * len(samples), samples=samples, view=view)


def _grids(policy: PolicyConfig, images: Tensor, samples: Sequence[str], seed: int, scale: int) -> list[_Column]:
    """A lattice rendered through the map of view 0."""
    families = tuple(family for family in policy.transforms() if isinstance(family, Geometric))
    if not families:
        return []
    # The draws hold at any resolution: at several times the tile's, lines stay thin and become smooth when it shrinks.
    height, width = (side * scale * _OVERSAMPLING for side in images.shape[2:])
    lattice, frame = _lattice(height, width), common_frame(families, height, width)
    draws = _drawn(_Part(families=families), samples, seed, 0)
    grids = []
    for row in torch.split(draws, 1):
        drawn = torch.split(row, [len(family.names) for family in families], dim=1)
        places = compose(families, drawn, frame)
        grids.append(resample(lattice, places, frame, padding="zeros"))
    return [_Column("its grid, view 0", [_paper(grid) for grid in grids], [""] * len(grids), _paper(lattice))]


def _cards(policy: PolicyConfig, images: Tensor, samples: Sequence[str], seed: int, scale: int) -> list[_Column]:
    """A smooth card of colours after the photometric families of view 0."""
    families = tuple(family for family in policy.transforms() if isinstance(family, Photometric))
    if not families:
        return []
    part, card = _Part(families=families), _card(*images.shape[2:])
    cards = render(part, card.expand(len(images), -1, -1, -1).contiguous(), _drawn(part, samples, seed, 0))
    return [_Column("its colours, view 0", _pictures(cards, scale), [""] * len(cards), _pictures(card, scale)[0])]


def _lattice(height: int, width: int) -> Float[Tensor, "1 4 height width"]:
    """Lines on paper with one cell filled, and as the fourth channel where there is paper."""
    picture = Image.new("RGB", (width, height), _PAPER)
    pen, side = ImageDraw.Draw(picture), max(height, width)
    cell, line = side / _CELLS, round(side / 100)
    pen.rectangle((0, 0, cell, cell), fill=_CORNER)
    for number in range(_CELLS + 1):
        at = min(max(round(number * cell), line // 2), side - 1 - line // 2)
        pen.line((at, 0, at, height), fill=_COLUMNS, width=line)
        pen.line((0, at, width, at), fill=_ROWS, width=line)
    ink = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    return torch.cat([ink, torch.ones_like(ink[:1])])[None]


def _paper(lattice: Float[Tensor, "1 4 height width"]) -> Image.Image:
    """The lattice, with what lies outside of it in grey, at the size of a tile."""
    ink, inside = lattice[0, :3], lattice[0, 3:]
    outside = torch.tensor(_OUTSIDE).view(3, 1, 1) / 255
    return _picture(ink + (1 - inside) * outside).reduce(_OVERSAMPLING)


def _card(height: int, width: int) -> Float[Tensor, "1 3 height width"]:
    """Grey at the top, more and more coloured to the bottom, all hues from left to right; R, G and B have mean 0.5."""
    hue = (torch.arange(width) + 0.5) / width
    saturation = (torch.arange(height)[:, None] + 0.5) / height
    waves = [torch.cos(2 * torch.pi * (hue - third / 3)) for third in range(3)]
    return torch.stack([0.5 + 0.45 * saturation * wave for wave in waves])[None]


def _pictures(images: Float[Tensor, "image 3 height width"], scale: int) -> list[Image.Image]:
    size = (images.shape[3] * scale, images.shape[2] * scale)
    return [_picture(image).resize(size, Image.Resampling.NEAREST) for image in images]


def _picture(image: Float[Tensor, "3 height width"]) -> Image.Image:
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _changes(now: Any, default: Any, path: str = "") -> list[str]:
    """`a.b=value` for each setting that differs."""
    if isinstance(now, dict) and isinstance(default, dict):
        return [line for key in now for line in _changes(now[key], default.get(key), f"{path}.{key}" if path else key)]
    if now == default:
        return []
    return [f"{path}={now:.4g}" if isinstance(now, float) else f"{path}={now}"]


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _laid_out(title: str, facts: Sequence[str], columns: Sequence[_Column]) -> Image.Image:
    """A header with the references at its right, then a titled column of captioned tiles for each of `columns`."""
    (tile_width, tile_height), num_rows = columns[0].tiles[0].size, len(columns[0].tiles)
    step, line_step = tile_width + _GAP, tile_height + _CAPTION_PX + _GAP
    plain = sum(column.reference is None for column in columns)
    small = ImageFont.load_default(size=13)
    lines = [line for fact in facts for line in _wrapped(fact, small, plain * step - 2 * _GAP)]
    reference_px = _CAPTION_PX + tile_height if plain < len(columns) else 0
    header = max(_TITLE_PX + _LINE_PX * len(lines), reference_px) + 2 * _GAP
    size = (2 * _MARGIN + len(columns) * step - _GAP, _MARGIN + header + _CAPTION_PX + num_rows * line_step)
    sheet = Image.new("RGB", size, _GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, fill="black", font=ImageFont.load_default(size=20))
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + _TITLE_PX + _LINE_PX * number), line, fill=_TEXT, font=small)
    for number, column in enumerate(columns):
        left, top = _MARGIN + number * step, _MARGIN + header
        if column.reference is not None:
            pen.text((left, _MARGIN), "without the policy", fill=_TEXT, font=small)
            sheet.paste(column.reference, (left, _MARGIN + _CAPTION_PX))
        pen.text((left, top), column.title, fill="black", font=small)
        for row, (tile, caption) in enumerate(zip(column.tiles, column.captions, strict=True)):
            at = top + _CAPTION_PX + row * line_step
            sheet.paste(tile, (left, at))
            pen.text((left, at + tile_height + 1), _fitted(caption, small, tile_width), fill=_TEXT, font=small)
    return sheet


def _wrapped(text: str, font: Font, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fitted(text: str, font: Font, width: float) -> str:
    """`text`, with its beginning left out where it is too long: keys differ at their end."""
    kept = len(text)
    while kept and font.getlength(text if kept == len(text) else f"..{text[-kept:]}") > width:
        kept -= 1
    return text if kept == len(text) else f"..{text[len(text) - kept :]}"
