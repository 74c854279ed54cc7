"""A prompt that keeps to what its server takes: images made smaller first, demonstrations dropped last."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from viewfold.config import Config, unknown
from viewfold.errors import InvalidInput
from viewfold.retrieval.prompt.cost import PromptCost, prompt_cost
from viewfold.retrieval.prompt.images import PromptImage, reduced, shrunk_size
from viewfold.retrieval.prompt.messages import Shown
from viewfold.retrieval.prompt.spec import PromptSpec
from viewfold.retrieval.prompt.tokens import TOKEN_COUNTERS

_SIDES = (2048, 1536, 1024, 768, 512, 384, 336, 256, 224, 168, 128, 96, 64)
_QUALITIES = (75, 50)
_LIMITS = ("images", "pixels", "image_tokens", "prompt_tokens", "bytes")


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(Config):
    """What a prompt may take, its query included; None is no limit."""

    max_images: int | None = None
    """What vLLM is started with: `--limit-mm-per-prompt '{"image": 8}'`."""
    max_pixels: int | None = None
    """Of all images together."""
    max_image_tokens: int | None = None
    """By `counter`."""
    max_prompt_tokens: int | None = None
    """Images by `counter`, text by an estimate on the high side; leave room for the answer in the model's context."""
    max_bytes: int | None = None
    """Of the messages as JSON; servers and proxies limit the body of a request."""
    counter: str = "openai_tiles"
    """How an image is counted in tokens: a key of `TOKEN_COUNTERS`."""
    min_side: int = 336
    """Images are not shrunk to a longer side below this many pixels; demonstrations are dropped instead."""
    recompress: bool = True
    """Images may become JPEGs of lower quality; turn it off where an image must stay lossless."""

    def __post_init__(self) -> None:
        for name in _LIMITS:
            value = getattr(self, f"max_{name}")
            if value is not None and value < 1:
                raise ValueError(f"max_{name} must be 1 or more, or null for no limit, got {value}")
        if self.min_side < 1:
            raise ValueError(f"min_side must be 1 or more, got {self.min_side}")
        if self.counter not in TOKEN_COUNTERS:
            raise unknown("counter", self.counter, list(TOKEN_COUNTERS))


@dataclass(frozen=True)
class Ranked:
    """A demonstration that a budget may shrink or drop."""

    key: str
    rank: int
    """1 for the most similar, wherever it stands in the prompt; the largest is dropped first."""
    shown: Shown


@dataclass(frozen=True)
class Fitted:
    """What goes into the prompt."""

    shown: list[Shown]
    """In the order they were given."""
    query: PromptImage
    dropped: list[str]
    """Keys of the demonstrations that had to go, in the order they went."""
    notes: list[str]
    """What was done and for which limit, one sentence each; empty where everything fitted."""
    cost: PromptCost


@dataclass(frozen=True)
class _Step:
    """One rung of the ladder: how far the images are reduced."""

    side: int | None = None
    quality: int | None = None

    def image(self, image: PromptImage) -> PromptImage:
        if self.side is None and self.quality is None:
            return image
        return reduced(image, max_side=self.side or max(image.width, image.height), quality=self.quality)

    def hollow(self, image: PromptImage) -> PromptImage:
        """The size that `image` would have, without the work of encoding it."""
        width, height = shrunk_size(image.width, image.height, self.side or max(image.width, image.height))
        return replace(image, data=b"", width=width, height=height)

    def note(self, over: Sequence[str]) -> list[str]:
        done = [f"shrunk to a longer side of {self.side} px"] if self.side else []
        done += [f"recompressed as JPEGs of quality {self.quality}"] if self.quality else []
        return [f"images {' and '.join(done)} to keep {', '.join(over)}"] if done else []


def fit(
    ranked: Sequence[Ranked],
    query: PromptImage,
    config: BudgetConfig,
    *,
    spec: PromptSpec,
    classes: Sequence[str],
    required: Collection[str] = (),
) -> Fitted:
    """The demonstrations and the query within `config`, for `build_messages` with the same spec and classes.

    In this order, as far as needed: every image, the query's too, is shrunk to a common longer side; recompressed; the
    least similar demonstration is dropped, and what is left gets the largest size that fits. More demonstrations than
    `max_images` are dropped at once, for no shrinking helps. The query stays, and so does the last demonstration of
    each label in `required`. The same arguments give the same bytes.

    Raises:
        InvalidInput: what must stay does not fit; names the limits and what the smallest prompt takes.
    """
    fitting = _Fitting(query, config, spec, classes)
    kept = list(ranked)
    dropped: list[str] = []
    notes: list[str] = []
    while True:
        over = fitting.over(kept, _Step())
        fitted = None if "max_images" in over else fitting.reduced(kept, over)
        if fitted is not None:
            return replace(fitted, dropped=dropped, notes=notes + fitted.notes)
        last = max(_droppable(kept, required), key=lambda item: item.rank, default=None)
        if last is None:
            raise fitting.refusal(kept)
        kept.remove(last)
        dropped.append(last.key)
        notes.append(f"dropped {last.key} ({last.shown.label!r}, rank {last.rank}) to keep {', '.join(over)}")


def _droppable(kept: Sequence[Ranked], required: Collection[str]) -> list[Ranked]:
    labels = [item.shown.label for item in kept]
    return [item for item in kept if item.shown.label not in required or labels.count(item.shown.label) > 1]


class _Fitting:
    """One query and its limits; images are encoded once for each step of the ladder."""

    def __init__(self, query: PromptImage, config: BudgetConfig, spec: PromptSpec, classes: Sequence[str]) -> None:
        self._query, self._config, self._spec, self._classes = query, config, spec, classes
        self._encoded: dict[tuple[PromptImage, _Step], PromptImage] = {}

    def over(self, kept: Sequence[Ranked], step: _Step) -> list[str]:
        """The limits that the prompt exceeds at this step."""
        return self._exceeded(self._fitted(kept, step, []).cost)

    def reduced(self, kept: Sequence[Ranked], over: Sequence[str]) -> Fitted | None:
        """The prompt at the first step that keeps to every limit; None where none does."""
        for step in self._steps(kept):
            hollow = [replace(item.shown, image=step.hollow(item.shown.image)) for item in kept]
            if self._exceeded(self._cost(hollow, step.hollow(self._query))):
                continue  # too large whatever its images are encoded to
            fitted = self._fitted(kept, step, step.note(over))
            if not self._exceeded(fitted.cost):
                return fitted
        return None

    def refusal(self, kept: Sequence[Ranked]) -> InvalidInput:
        """The error for demonstrations that must stay and do not fit."""
        *_, smallest = self._steps(kept)
        cost, limits = self._fitted(kept, smallest, []).cost, self.over(kept, smallest)
        takes = [
            f"{getattr(cost, name.removeprefix('max_'))} of {name}={getattr(self._config, name)}" for name in limits
        ]
        return InvalidInput(
            f"the query with the {len(kept)} demonstrations that must stay does not fit: at its smallest it takes "
            f"{', '.join(takes)}; raise that, or lower min_side={self._config.min_side}"
        )

    def _steps(self, kept: Sequence[Ranked]) -> Iterator[_Step]:
        """From the images as they are to the smallest that is allowed."""
        images = [*(item.shown.image for item in kept), self._query]
        longest = max(max(image.width, image.height) for image in images)
        floor = self._config.min_side
        sides = [*(side for side in _SIDES if floor < side < longest), *([floor] if floor < longest else [])]
        yield _Step()
        yield from (_Step(side) for side in sides)
        if self._config.recompress and self._config.max_bytes is not None:
            yield from (_Step(sides[-1] if sides else None, quality) for quality in _QUALITIES)

    def _fitted(self, kept: Sequence[Ranked], step: _Step, notes: list[str]) -> Fitted:
        shown = [replace(item.shown, image=self._image(item.shown.image, step)) for item in kept]
        query = self._image(self._query, step)
        return Fitted(shown, query, [], notes, self._cost(shown, query))

    def _image(self, image: PromptImage, step: _Step) -> PromptImage:
        if (image, step) not in self._encoded:
            self._encoded[image, step] = step.image(image)
        return self._encoded[image, step]

    def _cost(self, shown: Sequence[Shown], query: PromptImage) -> PromptCost:
        return prompt_cost(self._spec, self._classes, shown, query, counter=self._config.counter)

    def _exceeded(self, cost: PromptCost) -> list[str]:
        limits = {f"max_{name}": (getattr(cost, name), getattr(self._config, f"max_{name}")) for name in _LIMITS}
        return [name for name, (value, limit) in limits.items() if limit is not None and value > limit]
