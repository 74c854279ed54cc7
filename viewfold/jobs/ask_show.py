"""What a question and its answer look like: as text, and the demonstrations as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from viewfold.errors import printable
from viewfold.jobs.ask_lmm import Prompt, Reply
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.stage import write_whole
from viewfold.retrieval import DemoItem, DemoSet, IndexBundle, majority

TILE_PX = 96
CAPTION_PX = 28
_LONGEST_TEXT = 2000  # characters of an answer that could not be read; models that have lost the thread go on for long


def by_rank(chosen: DemoSet) -> list[DemoItem]:
    """The demonstrations, first choice first, whatever their order in the prompt."""
    return sorted(chosen.items, key=lambda item: item.rank)


def table(chosen: DemoSet, bundle: IndexBundle) -> str:
    """The demonstrations, first choice first, and what was left out.

    Labels, domains and keys are whatever the metadata of images says: on a terminal they must not act.
    """
    items = by_rank(chosen)
    lines = [f"{'rank':>4}  {'cosine':>7}  {'label':16} {'domain':20} key"]
    lines += [
        f"{i.rank:>4}  {i.score:7.4f}  {printable(i.label):16} {printable(i.domain or '-'):20} {printable(i.key)}"
        f"{_probable(i)}"
        for i in items
    ]
    excluded = ", ".join(f"{count} by {reason}" for reason, count in chosen.excluded.items() if count) or "none"
    vote = majority(items) if items else "none"
    lines += [f"vote: {vote}    excluded: {excluded}", *chosen.warnings]
    lines.append(f"encoder {bundle.info.encoder_id}, index {bundle.info.id} of {len(bundle)} images")
    return "\n".join(map(printable, lines))


def prompt_text(prompt: Prompt) -> str:
    """The messages as a person reads them; in place of each image stands whose it is, its type and its size."""
    keys = iter(prompt.keys)
    lines = [f"prompt of {_images(prompt)}:"]
    for message in prompt.messages:
        lines.append(f"[{message['role']}]")
        lines += [f"  {line}" for part in _parts(message) for line in _part_text(part, keys)]
    return "\n".join(map(printable, lines))


def reply_text(reply: Reply, prompt: Prompt) -> str:
    """The answer, how it was read, and what it took."""
    answer, done = reply.answer, reply.completion
    if answer.label is None:
        said = done.text if len(done.text) <= _LONGEST_TEXT else f"{done.text[:_LONGEST_TEXT]}..."
        first = f"answer: none that could be read; {done.model} said {said!r}"
    else:
        sure = "" if answer.confidence is None else f"    confidence {answer.confidence:.2f}"
        first = f"answer: {answer.label}{sure}    read as {answer.how}, from {done.model}"
    tokens = f"{_counted(done.prompt_tokens)} tokens in, {_counted(done.completion_tokens)} out"
    money = "" if reply.cost is None else f", cost {reply.cost:.6f}"
    taken = f"usage: {_images(prompt)}, {tokens}, {done.latency_s:.2f} s{money}"
    return f"{printable(first)}\n{taken}"


def size_text(num_bytes: int) -> str:
    """A size as a person reads it, in powers of ten."""
    return f"{num_bytes} B" if num_bytes < 1000 else f"{num_bytes / 1e3:.1f} kB"


def draw_sheet(query: bytes, chosen: DemoSet, bundle: IndexBundle, out: Path) -> None:
    """The query and its demonstrations in one row, first choice first, each with its label and cosine below."""
    tiles = [(Image.fromarray(decode_image(query, TILE_PX).transpose(1, 2, 0)), "query", "")]
    for item in by_rank(chosen):
        thumbnail = bundle.thumbnail(item.key)
        if thumbnail is not None:
            picture = Image.fromarray(decode_image(thumbnail, TILE_PX).transpose(1, 2, 0))
            tiles.append((picture, item.label, f"{item.score:.3f}"))
    canvas = Image.new("RGB", (len(tiles) * (TILE_PX + 8) + 8, TILE_PX + CAPTION_PX + 16), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (tile, label, score) in enumerate(tiles):
        left = 8 + number * (TILE_PX + 8)
        canvas.paste(tile, (left, 8))
        pen.text((left, TILE_PX + 10), printable(label)[:16], fill="black")
        pen.text((left, TILE_PX + 22), score, fill="black")
    write_whole(out, lambda file: canvas.save(file, format="PNG"))


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part_text(part: Mapping[str, Any], keys: Iterator[str]) -> list[str]:
    if part["type"] == "text":
        return str(part["text"]).splitlines()
    kind, _, encoded = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return [f"<{kind}, {size_text(len(encoded) * 3 // 4 - encoded.count('=', -2))}: {next(keys)}>"]


def _probable(item: DemoItem) -> str:
    return "" if item.p_match is None else f"  (p_match {item.p_match:.2f})"


def _images(prompt: Prompt) -> str:
    return f"{prompt.cost.images} images, {size_text(prompt.cost.bytes)}"


def _counted(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)
