"""How fast stored JPEGs become pixels: beside PIL and the decoders that come with torchvision and kornia.

One core; JPEGs of quality 90, mosaics of the shipped images with a sensor's noise, cropped and scaled to the sizes that
training takes. All sides get the same bytes and give the same square, by the same resize but for PIL, which uses its
own. `damage_found` is the share of damaged files that a decoder refuses. The last line printed is the record, as JSON.
"""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

import viewfold
from benchmarks.measure import Label, Row, compare, compared, isolated, run_suite, worst_case
from viewfold.pipeline.decode import decode_image

SOURCES = ((64, 64), (256, 256), (512, 384), (1024, 768))
"""Width and height of the stored images."""
SIZES = (64, 128, 224)
TARGET = 1.15
WHOLE = (
    "what the decoder can scale down by itself is decoded faster: files of four times the size and more, for twice the "
    "size is kept for a sharp resize; smaller ones are decoded whole on all sides, and little lies between them"
)
_WHAT, _CASE = "stored JPEGs to squares of pixels", "{source} to {size} px"
LABELS = {
    "vs_pil": Label(what=_WHAT, beside="PIL", case=_CASE),
    "vs_torchvision": Label(what=_WHAT, beside="torchvision's `decode_jpeg`", case=_CASE, why=WHOLE),
    "vs_kornia_rs": Label(what=_WHAT, beside="kornia_rs", case=_CASE, why=WHOLE),
    "damage_found": Label(what="share of damaged files that are refused", case="{decoder}", unit="share"),
}
_TILES = (4, 3)
_NOISE = 4.0

Pixels = NDArray[np.uint8]
Decoder = Callable[[bytes, int], Pixels]


def stored_jpegs() -> list[bytes]:
    """The JPEGs that the package ships, of 64 x 64 pixels."""
    found = []
    for shard in sorted((Path(viewfold.__file__).parent / "demo_data").glob("objects-*.tar")):
        with tarfile.open(shard) as tar:
            found += [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]
    return found


def photographs(width: int, height: int, num: int) -> list[bytes]:
    """JPEGs of quality 90 whose content is real and whose bytes are as many as a camera's: mosaics with noise."""
    random = np.random.default_rng(0)
    stored = stored_jpegs()
    if (width, height) == (64, 64):
        return [stored[index] for index in random.integers(0, len(stored), num)]
    made = []
    for _ in range(num):
        mosaic = Image.new("RGB", (64 * _TILES[0], 64 * _TILES[1]))
        for tile, index in enumerate(random.integers(0, len(stored), _TILES[0] * _TILES[1]).tolist()):
            place = (64 * (tile % _TILES[0]), 64 * (tile // _TILES[0]))
            mosaic.paste(Image.open(io.BytesIO(stored[index])), place)
        pixels = np.asarray(mosaic.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
        noise = random.standard_normal(pixels.shape, dtype=np.float32) * _NOISE
        buffer = io.BytesIO()
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def by_pil(data: bytes, size: int) -> Pixels:
    """PIL alone: scaled in the decoder as far as sharpness allows, then its own resize."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (2 * size, 2 * size))
        upright = image if image.getexif().get(0x0112, 1) == 1 else ImageOps.exif_transpose(image)
        square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def by_torchvision(data: bytes, size: int) -> Pixels:
    """`torchvision.io.decode_jpeg`, without scales; deprecated since 0.29 for that of torchcodec, without them too."""
    from torchvision.io import decode_jpeg

    return _fitted(decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)), size)


def by_kornia_rs(data: bytes, size: int) -> Pixels:
    """libjpeg-turbo through kornia's Rust library, which offers no scales."""
    from kornia_rs.io import decode_image_jpegturbo

    return _fitted(torch.from_numpy(decode_image_jpegturbo(data, "rgb")).permute(2, 0, 1), size)


def _fitted(pixels: torch.Tensor, size: int) -> Pixels:
    _, height, width = pixels.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[:, top : top + side, left : left + side]
    if side != size:
        square = torch.nn.functional.interpolate(square[None], (size, size), mode="bicubic", antialias=True)[0]
    fitted: Pixels = square.contiguous().numpy()
    return fitted


PEERS: dict[str, Decoder] = {"pil": by_pil, "torchvision": by_torchvision, "kornia_rs": by_kornia_rs}


def speed_row(peer: str, source: tuple[int, int], size: int, repeats: int) -> Row:
    """How often our time fits into the peer's, for the same files."""
    files = photographs(*source, num=max(8, 60_000 // source[0] // source[1] * 64))

    def all_by(decoder: Decoder) -> Callable[[], object]:
        return lambda: [decoder(data, size) for data in files]

    measured = compare(all_by(decode_image), all_by(PEERS[peer]), repeats=repeats)
    row = compared(f"vs_{peer}", TARGET, measured, source="{}x{}".format(*source), size=size)
    return {**row, **{f"{side}_us_per_image": row[f"{side}_ms"] * 1e3 / len(files) for side in ("ours", "peer")}}


def damaged() -> list[bytes]:
    """Files that lost a part: cut and closed again by an end marker, or with bytes missing or zeroed in the middle."""
    files = []
    for number, whole in enumerate(photographs(256, 256, num=24)):
        place = len(whole) // 3 + 97 * number
        files += [
            whole[:place] + b"\xff\xd9",
            whole[:place] + whole[place + 200 :],
            whole[:place] + bytes(200) + whole[place + 200 :],
        ]
    return files


def damage_row(name: str, decoder: Decoder) -> Row:
    """The share of damaged files that the decoder refuses."""
    files = damaged()
    return {"name": "damage_found", "decoder": name, "value": sum(map(_refuses(decoder), files)) / len(files)}


def _refuses(decoder: Decoder) -> Callable[[bytes], bool]:
    def refuses(data: bytes) -> bool:
        try:
            decoder(data, 64)
        except Exception:  # each raises errors of its own kind, kornia_rs a bare Exception
            return True
        return False

    return refuses


def rows(repeats: int, sources: Sequence[tuple[int, int]] = SOURCES, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """All measurements, one by one."""
    for source in sources:
        for size in sizes if source[0] > 64 else sizes[:1]:
            for peer in PEERS:
                yield isolated(speed_row, peer, source, size, repeats)
    for name, decoder in {"ours": decode_image, **PEERS}.items():
        yield damage_row(name, decoder)


def facts(measured: list[Row]) -> dict[str, Any]:
    """The worst case of each comparison, and what one must know to read the rows."""
    return {
        "worst_case": worst_case(row for row in measured if row["name"] != "damage_found"),
        "notes": [
            "the same bytes on both sides, out of memory; one core",
            "all but PIL scale by the same bicubic resize; ours lets libjpeg-turbo scale while it decodes, as PIL does",
        ],
    }


if __name__ == "__main__":
    packages = ("pillow", "simplejpeg", "torchvision", "kornia_rs")
    run_suite("decode", rows, about=__doc__, repeats=9, packages=packages, labels=LABELS, facts=facts)
