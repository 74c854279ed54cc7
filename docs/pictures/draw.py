"""The pictures of docs/concepts.md, from the shipped images and from a run of `emoji-demo`; nothing in them is made up.

python -m docs.pictures.draw [RUN]     RUN: folder of a finished run of `emoji-demo`, by default runs/demo/emoji
"""

import base64
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

import viewfold as vf
from docs.pictures.cards import card, decoded, file_of, row_of, save, stored, strip, text, tile, to_pixels, wrapped
from viewfold.augment import AffineColourPolicy, describe, draw_view, param_names, render
from viewfold.config import load
from viewfold.jobs.ask import AskConfig, Asked, ask
from viewfold.jobs.data import locate
from viewfold.jobs.run_config import RunConfig
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import read_record
from viewfold.pipeline.stream_config import StreamConfig, make_order
from viewfold.retrieval import explain

INK, FAINT, BLUE, ORANGE, GREEN, RED = "#1c2733", "#8a97a5", "#2f6db5", "#d9822b", "#2e8b57", "#c0392b"
HELD_OUT = "twemoji"
THINGS = ("1f34e", "1f426", "1f3b7")
"""Code points of an apple, a bird and a saxophone."""
K = 7


def main(run: Path) -> None:
    """Draw them all."""
    mpl.rcParams.update({"font.size": 10, "text.color": INK, "axes.edgecolor": FAINT, "figure.facecolor": "white"})
    manifest = ShardManifest.load(run / "data")
    draw_shard(manifest)
    draw_stream(manifest)
    draw_views(manifest)
    draw_parts(manifest, run)
    draw_card(json.loads((run / "evaluate" / "card.json").read_text(encoding="utf-8")))
    draw_bundle(run)
    asked, query, group = question(manifest, run)
    draw_demonstrations(asked, query, group)
    draw_prompt(asked)
    draw_nightly()
    draw_lineage(run)


def draw_shard(manifest: ShardManifest) -> None:
    """The first members of a shipped shard, and what the manifest keeps of all shards."""
    figure, axes = card(5.2, 4.6)
    path = Path(locate(("demo:emoji",))[0])
    text(axes, 0.02, 0.95, path.name, weight="bold")
    with tarfile.open(path) as tar:
        for number, member in enumerate(tar.getmembers()[:6]):
            y, file = 0.87 - 0.072 * number, tar.extractfile(member)
            text(axes, 0.05, y, member.name)
            data = b"" if file is None else file.read()
            if member.name.endswith(".json"):
                told = json.loads(data)
                text(axes, 0.54, y, f"{told['label']}, group {told['group']}", color=BLUE)
            else:
                tile(axes, decoded(data, 64), 0.47, y, 0.06)
                text(axes, 0.54, y, f"{member.size} bytes", color=FAINT)
    text(axes, 0.05, 0.435, "...", color=FAINT)
    text(axes, 0.02, 0.35, "manifest.json and samples.arrow", weight="bold")
    rows = [
        ("shards", f"{len(manifest.shards)}, each with size and sha256"),
        ("samples", f"{len(manifest)}, each with the bytes it lies at"),
        ("labels, domains", f"{len(manifest.labels)}, {len(manifest.domains)}"),
        ("groups", f"{len(set(manifest.group.tolist()))} code points"),
        ("hash", f"{manifest.hash[:24]}..."),
    ]
    for number, (name, value) in enumerate(rows):
        text(axes, 0.05, 0.275 - 0.06 * number, name, color=FAINT)
        text(axes, 0.33, 0.275 - 0.06 * number, value)
    save(figure, "concept-shard")


def draw_stream(manifest: ShardManifest) -> None:
    """Which row every place of every batch holds, by lane; which rank reads it; where a run resumes."""
    order = make_order(manifest, StreamConfig(batch_size=64, block=16))
    steps = len(manifest) // 64
    rows = np.stack([order.places(step, 0, 64).rows for step in range(steps)])
    again = make_order(manifest, StreamConfig(batch_size=64, block=16))
    cut = 8
    if not all((again.places(step, 0, 64).rows == rows[step]).all() for step in range(cut, steps)):
        raise AssertionError("a resumed order differs")
    figure, axes = plt.subplots(figsize=(5.2, 4.4), dpi=150)
    lanes = np.repeat(np.arange(8), 8)
    for step in range(steps):
        axes.scatter(np.full(64, step), rows[step], c=lanes, cmap="tab10", s=9, vmin=0, vmax=9)
    axes.axvline(cut - 0.5, color=INK, lw=1.2, ls="--")
    axes.text(cut - 0.3, len(manifest) + 18, f"killed: goes on with step {cut}", va="bottom", ha="center", fontsize=9)
    for ranks, x in ((2, steps + 0.3), (4, steps + 2.0)):
        size = len(manifest) / ranks
        for rank in range(ranks):
            axes.add_patch(Rectangle((x, rank * size + 6), 1.4, size - 12, color="#dfe7f0"))
            axes.text(x + 0.7, (rank + 0.5) * size, f"rank {rank}", rotation=90, ha="center", va="center", fontsize=9)
        axes.text(x + 0.7, len(manifest) + 18, f"of {ranks}", ha="center", va="bottom", fontsize=9)
    axes.set(xlim=(-0.7, steps + 3.6), ylim=(-2, len(manifest) + 8), xlabel="step (a batch of 64 = 8 of each lane)")
    axes.set_ylabel(f"row of the manifest, 0..{len(manifest) - 1}")
    axes.set_xticks(range(0, steps, 4))
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, "concept-stream")


def draw_views(manifest: ShardManifest) -> None:
    """Views of three samples in two epochs, and one of them made again."""
    policy, rows = AffineColourPolicy(), [row_of(manifest, "fluent-emoji", group) for group in THINGS]
    figure, axes = card(5.2, 3.7)
    heads = ["stored", "epoch 0\nview 0", "epoch 0\nview 1", "epoch 1\nview 0", "made again\nepoch 1, view 0"]
    for column, head in enumerate(heads):
        axes.text(0.1 + 0.2 * column, 0.93, head, ha="center", va="center", fontsize=9)
    for line, row in enumerate(rows):
        images, key = stored(manifest, row, 96)[None], manifest.key(row)
        asked = [(0, 0), (0, 1), (1, 0), (1, 0)]
        views = []
        for epoch, view in asked:
            draws = draw_view(policy, seed=0, epochs=[epoch], samples=[key], view=view)
            views.append(render(policy, images, draws)[0])
        if not torch.equal(views[2], views[3]):
            raise AssertionError("a view made again differs")
        y = 0.71 - 0.28 * line
        for column, pixels in enumerate([images[0] / 255, *views]):
            tile(axes, to_pixels(pixels), 0.1 + 0.2 * column, y, 0.17)
        told = describe(policy, draw_view(policy, seed=0, epochs=[1], samples=[key], view=0), height=96, width=96)
        drawn = dict(zip(param_names(policy), told.params[0].tolist(), strict=True))
        axes.text(
            0.9,
            y - 0.142,
            f"turned by {np.degrees(drawn['rotation_rad']):.0f} degrees",
            ha="center",
            va="center",
            fontsize=8,
            color=BLUE,
        )
    save(figure, "concept-views")


def draw_parts(manifest: ShardManifest, run: Path) -> None:
    """Two views of an image that the encoder has not seen, and both parts of their features; means over all such."""
    encoder, policy = vf.load_encoder(run / "pretrain" / "encoder"), AffineColourPolicy()
    unseen = np.flatnonzero(manifest.domain == manifest.domains.index(HELD_OUT)).tolist()
    keys, images = [manifest.key(row) for row in unseen], torch.stack([stored(manifest, row, 64) for row in unseen])
    views = [
        render(policy, images, draw_view(policy, seed=0, epochs=[0] * len(keys), samples=keys, view=view))
        for view in (0, 1)
    ]
    features, shown = [encoder.encode(view) for view in views], unseen.index(row_of(manifest, HELD_OUT, THINGS[0]))
    figure, axes = card(5.2, 3.9)
    for number, y in enumerate((0.77, 0.45)):
        tile(axes, to_pixels(views[number][shown]), 0.1, y, 0.19)
        axes.text(0.1, y - 0.16, f"view {number}", ha="center", va="center", fontsize=9)
        axes.annotate("", (0.27, y), (0.21, y), arrowprops={"arrowstyle": "->", "color": INK})
        strip(figure, features[number].invariant[shown].numpy(), 0.28, y, 0.4)
        strip(figure, features[number].equivariant[shown].numpy(), 0.74, y, 0.22)
    for part, middle, color, wanted in (
        ("invariant", 0.48, GREEN, "shall stay the same"),
        ("equivariant", 0.85, ORANGE, "shall be predictable"),
    ):
        one, other = (torch.nn.functional.normalize(getattr(each, part), dim=1) for each in features)
        table = one @ other.T
        same, different = table.diag().mean(), table[~torch.eye(len(keys), dtype=torch.bool)].mean()
        axes.text(middle, 0.955, f"{part}, {one.shape[1]}", ha="center", va="center", weight="bold")
        axes.text(middle, 0.225, wanted, ha="center", va="center", color=color, weight="bold", fontsize=9)
        axes.text(middle, 0.15, f"one image: {same:.2f}", ha="center", va="center", fontsize=9)
        axes.text(middle, 0.09, f"two images: {different:.2f}", ha="center", va="center", fontsize=9)
    axes.text(0.1, 0.12, f"mean cosine,\n{len(keys)} images", ha="center", va="center", fontsize=8, color=FAINT)
    save(figure, "concept-parts")


def draw_card(data: dict[str, Any]) -> None:
    """Some measures of the trained encoder: interval, chance, and the untrained network beside them."""
    shown = {
        "invariant/knn5/top1": "class of 5 nearest",
        "invariant/linear/top1": "class, linear",
        "invariant/precision10": "right among 10 nearest",
        "invariant/shift/consistency": "class kept after a\none-pixel shift",
        "invariant/clusters/ari": "clusters (ARI)",
    }
    named = {who: {one["name"]: one for one in data["measures"][who]} for who in ("trained", "untrained")}
    names = [name for name in shown if name in named["trained"]]
    figure, axes = plt.subplots(figsize=(5.2, 3.6), dpi=150)
    for y, name in enumerate(reversed(names)):
        for who, color, shift in (("trained", BLUE, 0.12), ("untrained", FAINT, -0.12)):
            one = named[who][name]
            axes.plot([one["low"], one["high"]], [y + shift] * 2, color=color, lw=3, solid_capstyle="butt")
            axes.plot(one["value"], y + shift, "o", color=color, ms=6, label=who if y == 0 else None)
        chance = named["trained"][name]["chance"]
        axes.plot(chance, y, "|", color=RED, ms=18, mew=2, label="chance" if y == 0 else None)
    axes.set_yticks(range(len(names)), [shown[name] for name in reversed(names)])
    axes.set(xlim=(-0.03, 1), ylim=(-0.6, len(names) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", ncols=3, bbox_to_anchor=(0.35, 1.0), frameon=False, fontsize=9)
    save(figure, "concept-card")


def draw_bundle(run: Path) -> None:
    """The map of the index, with some of the images that it holds."""
    bundle = vf.IndexBundle.open(run / "index" / "bundle")
    records = bundle.records
    xs, ys = (np.asarray(records.column(name)) for name in ("map_x", "map_y"))
    domains, keys = records.column("domain").to_pylist(), records.column("key").to_pylist()
    figure, axes = plt.subplots(figsize=(5.2, 4.8), dpi=150)
    for color, domain in zip((BLUE, ORANGE, GREEN, RED), sorted(set(domains)), strict=True):
        mine = np.array([one == domain for one in domains])
        axes.scatter(xs[mine], ys[mine], s=7, color=color, label=domain, alpha=0.6, linewidths=0)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.autoscale(False)
    side = 0.055 * max(np.ptp(xs), np.ptp(ys))
    taken = list[tuple[float, float]]()
    for row in np.random.default_rng(0).permutation(len(keys)):
        x, y, data = float(xs[row]), float(ys[row]), bundle.thumbnail(keys[row])
        if data is None or any(abs(x - a) < 2.3 * side and abs(y - b) < 2.3 * side for a, b in taken):
            continue
        taken.append((x, y))
        axes.imshow(decoded(data, 48), extent=(x - side, x + side, y - side, y + side), zorder=3)
    axes.legend(loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0), frameon=False, fontsize=9, markerscale=2)
    info = bundle.info
    axes.set_xlabel(f"{info.n} vectors of {info.dim} numbers, {info.factory}; recall@10 {info.recall_at_10:.2f}")
    save(figure, "concept-bundle")


def question(manifest: ShardManifest, run: Path) -> tuple[Asked, Path, str]:
    """One image of the domain that nothing has learned from, asked of the index with its group guarded."""
    group, path = THINGS[2], run / "question.png"
    path.write_bytes(file_of(manifest, row_of(manifest, HELD_OUT, group)))
    pair = vf.open_pair(run, run.parent)
    return ask(path, AskConfig(select=vf.SelectConfig(k=K)), pair, group=group, with_prompt=True), path, group


def draw_demonstrations(asked: Asked, query: Path, group: str) -> None:
    """The query, its seven, and an image that a guard left out."""
    bundle = asked.pair.bundle
    told = explain(bundle, asked.pair.query(asked.image, str(query), group=group), vf.SelectConfig(k=K))
    left_out = [(key, stage) for key, stage, _ in told if stage == "group"][:2]
    labels = dict(
        zip(bundle.records.column("key").to_pylist(), bundle.records.column("label").to_pylist(), strict=True)
    )
    figure, axes = card(5.2, 4.6)
    tile(axes, decoded(asked.image, 96), 0.13, 0.83, 0.2)
    axes.text(0.13, 0.655, "the query", ha="center", weight="bold")
    counts = ", ".join(f"{count} by {name}" for name, count in asked.chosen.excluded.items() if count)
    for number, (key, stage) in enumerate(left_out):
        x = 0.48 + 0.26 * number
        tile(axes, decoded(bundle.thumbnail(key) or b"", 96), x, 0.83, 0.17)
        axes.plot([x - 0.085, x + 0.085], [0.735, 0.925], color=RED, lw=3, zorder=4)
        axes.text(x, 0.68, f"left out: {stage}", ha="center", color=RED, fontsize=9)
    axes.text(0.61, 0.97, f"excluded in all: {counts}", ha="center", va="center", fontsize=9, color=RED)
    items = sorted(asked.chosen.items, key=lambda item: item.rank)
    for number, item in enumerate(items):
        x, y = 0.13 + 0.246 * (number % 4), 0.47 if number < 4 else 0.15
        tile(axes, decoded(bundle.thumbnail(item.key) or b"", 96), x, y, 0.16)
        axes.text(x, y - 0.115, labels[item.key], ha="center", va="center", fontsize=9, weight="bold")
        axes.text(x, y + 0.12, f"{item.rank}: {item.score:.3f}", ha="center", va="center", fontsize=9, color=BLUE)
    save(figure, "concept-demonstrations")


def draw_prompt(asked: Asked) -> None:
    """The first and last messages of the prompt, images in their places."""
    if asked.prompt is None:
        raise AssertionError("asked with its prompt")
    messages = asked.prompt.messages
    shown = [*messages[:3], None, *messages[-3:]]
    figure, axes = card(5.2, 6.2)
    y = 0.985
    for message in shown:
        if message is None:
            axes.text(
                0.5, y - 0.02, f"... {len(messages) - 6} more ...", ha="center", va="center", color=FAINT, fontsize=9
            )
            y -= 0.045
            continue
        role, parts = message["role"], message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        images = [part for part in parts if part["type"] == "image_url"]
        lines = [line for part in parts if part["type"] == "text" for line in wrapped(part["text"], 50)]
        lines = lines if len(lines) <= 7 else [*lines[:3], "...", *lines[-2:]]
        height = max(0.03 * len(lines) + 0.03, 0.125 if images else 0)
        fill = {"system": "#eef1f4", "user": "#e3eefb", "assistant": "#e6f4ea"}[role]
        left = 0.18 if role == "assistant" else 0.02
        axes.add_patch(
            FancyBboxPatch(
                (left, y - height), 0.8, height - 0.008, boxstyle="round,pad=0,rounding_size=0.012", fc=fill, ec="none"
            )
        )
        axes.text(left + 0.785, y - 0.02, role, ha="right", va="center", fontsize=8, color=FAINT)
        for image in images:
            data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
            tile(axes, decoded(data, 96), left + 0.08, y - height / 2, 0.12)
        x = left + (0.16 if images else 0.02)
        axes.text(x, y - height / 2, "\n".join(lines), va="center", fontsize=8.5, linespacing=1.25)
        y -= height + 0.008
    axes.set_ylim(y - 0.005, 1)
    save(figure, "concept-prompt")


def draw_nightly() -> None:
    """The phases of a night in the order in which `viewfold nightly` takes them, and its five ends."""
    figure, axes = card(5.2, 6.0)
    steps = [
        ("look", "are shards new?", "nothing new:\nexit code 0"),
        (
            "run",
            "train from the champion, embed, index:\nthe version is @challenger",
            "an error: exit code 2,\nthe next start goes on",
        ),
        ("gates", "challenger beside champion,\nsame images", "refused: nothing moved,\nexit code 1"),
        ("promote", "@champion moves in one call", ""),
        ("tell, check", "the service reloads; canaries ask it", "rolled back: the old\nchampion is back, 1"),
        ("prune, result", "old nights go; result.json, webhook", "a new champion:\nexit code 0"),
    ]
    for number, (name, what, end) in enumerate(steps):
        y = 0.93 - 0.165 * number
        axes.add_patch(
            FancyBboxPatch(
                (0.02, y - 0.052), 0.6, 0.104, boxstyle="round,pad=0,rounding_size=0.015", fc="#e3eefb", ec="none"
            )
        )
        axes.text(0.04, y + 0.028, name, weight="bold", va="center")
        axes.text(0.04, y - 0.018, what, va="center", fontsize=8.5)
        if number:
            axes.annotate("", (0.32, y + 0.055), (0.32, y + 0.11), arrowprops={"arrowstyle": "->", "color": INK})
        if end:
            color = GREEN if "code 0" in end else RED if end.startswith(("refused", "rolled")) else ORANGE
            axes.annotate("", (0.68, y), (0.63, y), arrowprops={"arrowstyle": "->", "color": color})
            axes.text(0.69, y, end, va="center", fontsize=9, color=color)
    save(figure, "concept-nightly")


def draw_lineage(run: Path) -> None:
    """The ids of one run, each with what it was made from."""
    config, bundle = load(RunConfig, run / "config.yaml"), vf.IndexBundle.open(run / "index" / "bundle").info
    registered = read_record(run / "register")
    chain = [
        ("manifest", "hash of the indexed shards", bundle.manifest_hash),
        ("encoder before", "pretrained on it", bundle.base_encoder_id or "-"),
        ("encoder", "adapted from that one", bundle.encoder_id),
        ("bundle", "its vectors of those shards", bundle.id),
    ]
    if registered is not None:
        chain.append(("version", "both, in the registry", f"{config.register_as} {registered.result['version']}"))
    chain.append(("answer", "X-Encoder-Id, X-Bundle-Id", f"{bundle.encoder_id[:8]}, {bundle.id[:8]}"))
    figure, axes = card(5.2, 0.5 + 0.62 * len(chain))
    step = 1 / len(chain)
    for number, (name, what, value) in enumerate(chain):
        y = 1 - step * (number + 0.5)
        axes.add_patch(
            FancyBboxPatch(
                (0.02, y - 0.36 * step),
                0.96,
                0.72 * step,
                boxstyle="round,pad=0,rounding_size=0.02",
                fc="#eef1f4",
                ec="none",
            )
        )
        axes.text(0.05, y, name, weight="bold", va="center")
        axes.text(0.31, y, what, va="center", fontsize=9, color=FAINT)
        axes.text(0.96, y, value[:20], va="center", ha="right", fontsize=8.5, family="monospace", color=BLUE)
        if number:
            axes.annotate(
                "", (0.5, y + 0.36 * step), (0.5, y + 0.66 * step), arrowprops={"arrowstyle": "->", "color": INK}
            )
    save(figure, "concept-lineage")


def _run(words: Sequence[str]) -> Path:
    run = Path(words[0] if words else "runs/demo/emoji")
    if not (run / "index" / "bundle" / "bundle.json").is_file():
        sys.exit(f"{run}: no finished run; make one with `viewfold run emoji-demo --out {run}`")
    return run


if __name__ == "__main__":
    main(_run(sys.argv[1:]))
