"""The demo's report: one self-contained HTML file, readable on a phone."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from viewfold import __version__
from viewfold.jobs.index import jpeg
from viewfold.jobs.plots import index_map, selector_bars, training_curves
from viewfold.jobs.run import environment
from viewfold.jobs.run_config import RunConfig
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import write_whole
from viewfold.retrieval import IndexBundle

SHEET_PX = 900
TITLES = {
    "invariant/knn5/top1": "kNN top-1 (invariant)",
    "invariant/linear/top1": "linear top-1 (invariant)",
    "equivariant/rotation/r2": "rotation R2 (equivariant)",
    "equivariant/rotation/r2_official": "rotation R2 as published",
    "equivariant/retrieval/mrr": "view retrieval MRR",
    "invariant/shift/consistency": "same class after 1 px shift",
    "invariant/effective_rank": "effective rank (invariant)",
}
"""What the demo shows of an encoder's card, and what it is called in tables."""


def write_report(out: Path, configs: dict[str, RunConfig], results: dict[str, Any]) -> Path:
    """Write `out/report.html` from the results and the artifacts of the two runs below `out`."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("viewfold.jobs", "."), autoescape=True, trim_blocks=True)
    emoji, objects = out / "emoji", out / "objects"
    bundle = IndexBundle.open(emoji / "index" / "bundle")
    curves = {
        "SIE on 3-D objects": training_curves(objects / "pretrain" / "metrics.jsonl"),
        "SIE on emoji, affine views": training_curves(emoji / "pretrain" / "metrics.jsonl"),
        "CCI on emoji, labels of the source styles": training_curves(emoji / "adapt" / "metrics.jsonl"),
    }
    html = pages.get_template("report.html.j2").render(
        version=__version__,
        results=results,
        configs=configs,
        titles=TITLES,
        trained=measures(results["objects"]["evaluate"], "trained"),
        untrained=measures(results["objects"]["evaluate"], "untrained"),
        environment=environment(),
        curves=curves,
        bars=selector_bars(results["emoji"]["compare"]["selectors"], results["emoji"]["compare"]["k"]),
        map=index_map(bundle.column("map_x"), bundle.column("map_y"), bundle.column("label")),
        map_explained=bundle.info.map_explained,
        gallery=gallery(emoji, bundle),
        sheets={part: _shrunk(out / part / "data" / "contact-sheet.png") for part in configs},
    )
    return write_whole(out / "report.html", lambda file: file.write(html.encode()))


def measures(card: dict[str, Any], which: str) -> dict[str, dict[str, Any]]:
    """Measures of one of a card's encoders, by name."""
    return {measure["name"]: measure for measure in card["measures"][which]}


def gallery(run: Path, bundle: IndexBundle) -> list[dict[str, Any]]:
    """For each query that the comparison kept: its picture, and the demonstrations of two selectors, nearest first."""
    body = json.loads((run / "compare" / "comparison.json").read_text(encoding="utf-8"))
    pictures = _query_pictures(run / "data" / "manifest.json", body["held_out"], set(body["gallery_labels"]))
    rows = []
    for number, (key, label) in enumerate(body["gallery_labels"].items()):
        row: dict[str, Any] = {"label": label, "picture": pictures[key], "selectors": {}}
        for selector in ("nearest-pretrained", "invariant"):
            items = sorted(body["gallery"][selector][number]["items"], key=lambda item: item["rank"])
            row["selectors"][selector] = [
                {**item, "hit": item["label"] == label, "picture": _uri(bundle.thumbnail(item["key"]) or b"", "jpeg")}
                for item in items
            ]
        rows.append(row)
    return rows


def _query_pictures(manifest: Path, domains: list[str], keys: set[str]) -> dict[str, str]:
    held_out = ShardManifest.load(manifest).subset(domains=tuple(domains))
    found = {}
    for batch in read_images(held_out, np.arange(len(held_out)), image_size=64, batch_size=256):
        for key, image in zip(batch.keys, batch.images, strict=True):
            if key in keys:
                found[key] = _uri(jpeg(image.permute(1, 2, 0).numpy()), "jpeg")
    return found


def _shrunk(path: Path) -> str:
    """A contact sheet small enough to stand in a page."""
    with Image.open(path) as sheet:
        small = sheet.convert("RGB")
        small.thumbnail((SHEET_PX, SHEET_PX * 4))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=80)
    return _uri(buffer.getvalue(), "jpeg")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
