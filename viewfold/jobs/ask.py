"""One image, asked about: its demonstrations from an index, and with a multimodal model its answer."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from viewfold.config import Config, overridden, parse
from viewfold.errors import InvalidInput, printable
from viewfold.jobs.ask_lmm import ModelConfig, Prompt, PromptConfig, Reply, ask_model, build_prompt
from viewfold.jobs.ask_pair import Pair
from viewfold.jobs.ask_show import prompt_text, reply_text, table
from viewfold.jobs.pool_images import PoolImages
from viewfold.retrieval import DemoSet, SelectConfig, select


@dataclass(frozen=True, kw_only=True)
class AskConfig(Config):
    """How demonstrations are chosen and shown, and who is asked."""

    select: SelectConfig = field(default_factory=SelectConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    lmm: ModelConfig | None = None
    """The model; without one there are demonstrations and no answer."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A question with all that came of it."""

    image: bytes
    chosen: DemoSet
    pair: Pair
    prompt: Prompt | None
    reply: Reply | None

    def text(self, *, show_prompt: bool = False) -> str:
        """For a person: demonstrations, the prompt if wanted, the answer and what it took."""
        blocks = ["\n".join([table(self.chosen, self.pair.bundle), *map(printable, self.pair.warnings)])]
        if self.prompt is not None:
            blocks += ["\n".join(map(printable, self.prompt.notes))] if self.prompt.notes else []
            blocks += [prompt_text(self.prompt)] if show_prompt else []
            blocks += [reply_text(self.reply, self.prompt)] if self.reply is not None else []
        return "\n\n".join(blocks)

    def to_dict(self, *, show_prompt: bool = False) -> dict[str, Any]:
        """For a program: the same, the messages whole."""
        found: dict[str, Any] = {"demonstrations": self.chosen.to_dict(), "warnings": self.pair.warnings}
        if self.prompt is not None:
            found["prompt"] = dataclasses.asdict(self.prompt)
            if not show_prompt:
                del found["prompt"]["messages"]
        if self.reply is not None:
            found |= dataclasses.asdict(self.reply)
        return found


def ask(
    image: Path,
    config: AskConfig,
    pair: Pair,
    *,
    group: str | None = None,
    shards: Sequence[str] | None = None,
    with_prompt: bool = False,
) -> Asked:
    """Choose demonstrations for `image`; with a model in `config`, or where the prompt is wanted, build it; ask.

    `group` is what must not leak, such as the patient that the image is of. `shards` say where the index's images lie
    now, if they were moved.

    Raises:
        InvalidInput: no such image, a setting that the index does not fit, a server that cannot be asked.
    """
    data = read_query(image)
    query = pair.query(data, str(image), group=group)
    (chosen,) = select(pair.bundle, [query], config.select)
    if config.lmm is None and not with_prompt:
        return Asked(data, chosen, pair, None, None)
    images = PoolImages(pair.bundle, shards)
    balanced = config.select.quota.rule == "min_per_class"
    required = {item.label for item in chosen.items} if balanced else set()
    prompt = build_prompt(data, chosen, pair.bundle, config.prompt, images, required=required)
    reply = None if config.lmm is None else ask_model(prompt, config.prompt.spec, config.lmm)
    return Asked(data, chosen, pair, prompt, reply)


def read_query(image: Path) -> bytes:
    """The file of the image that is asked about."""
    if not image.is_file():
        what = "is a folder" if image.is_dir() else "no such file"
        raise InvalidInput(f"{image}: {what}; give the path of an image")
    return image.read_bytes()


def read_labels(path: Path) -> dict[str, str]:
    """The words to show for labels: a YAML file of `label: words`."""
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; write one line `label: words` for each label to reword")
    try:
        words = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(words, dict) or not all(isinstance(word, str | int | float) for word in words.values()):
        raise InvalidInput(f"{path}: expected lines `label: words`")
    return {str(label): str(word) for label, word in words.items()}


def read_settings(data: Mapping[str, Any], settings: Sequence[str]) -> AskConfig:
    """The configuration of `data` with `a.b=value` settings on top.

    Raises:
        InvalidInput: a key that does not exist, with the nearest one that does, or a value out of range.
    """
    return parse(AskConfig, overridden(data, settings), where="ask")
