"""Image towers of OpenCLIP, as `open_clip:NAME`. The text tower is not built: features are compared with features.

The only importer of open_clip, which costs a second, so it is imported when such a backbone is asked for.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from viewfold.config import unknown
from viewfold.errors import InvalidInput, MissingDependency

PREFIX = "open_clip:"
"""How their names begin."""
_TOWER = "visual."


def open_clip_tower(name: str, *, image_size: int | None) -> nn.Module:
    """A randomly initialised image tower; its vectors are those that CLIP compares with texts, not normalised.

    Raises:
        InvalidInput: no such model.
        MissingDependency: open_clip is not installed.
    """
    config = _config(name)
    # create_model would build the text tower too: 250 MB and seconds that are thrown away, and some of them from the
    # network. What builds the other tower has no public name.
    from open_clip.model import _build_vision_tower

    tower: nn.Module = _build_vision_tower(
        config["embed_dim"],
        {**config["vision_cfg"], **({"image_size": image_size} if image_size else {})},
        config.get("quick_gelu", False),
    )
    return tower


def open_clip_mean_std(name: str, tag: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By what the published weights `tag` standardise images, or OpenAI's where there are none of that tag."""
    clip = _open_clip()
    published = clip.get_pretrained_cfg(name, tag)
    mean, std = published.get("mean"), published.get("std")
    return tuple(mean or clip.OPENAI_DATASET_MEAN), tuple(std or clip.OPENAI_DATASET_STD)


def download_open_clip(name: str, tag: str) -> str:
    """Path of the published weights `tag`, downloaded once.

    Raises:
        InvalidInput: no such weights, or they want another activation than this model has.
        OSError: they cannot be reached.
    """
    clip, config = _open_clip(), _config(name)
    published = clip.get_pretrained_cfg(name, tag)
    if not published:
        raise unknown(f"weights of {PREFIX}{name}", tag, clip.list_pretrained_tags_by_model(name))
    if published.get("quick_gelu", False) != config.get("quick_gelu", False):
        other = name.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{name}-quickgelu"
        raise InvalidInput(f"weights {tag!r} were trained with another activation; name {PREFIX}{other}")
    return str(clip.download_pretrained(published))


def tower_weights(state: dict[str, Tensor], tower: nn.Module) -> dict[str, Tensor]:
    """The image tower's of a whole model's weights, its grid of positions resized to this tower's."""
    if not any(key.startswith(_TOWER) for key in state):
        return state
    own = {key: value for key, value in state.items() if key.startswith(_TOWER)}
    _open_clip().model.resize_pos_embed(own, SimpleNamespace(visual=tower))
    return {key.removeprefix(_TOWER): value for key, value in own.items()}


def _config(name: str) -> dict[str, Any]:
    clip = _open_clip()
    if name not in clip.list_models():
        raise unknown("OpenCLIP model", name, clip.list_models())
    config: dict[str, Any] = clip.get_model_config(name)
    return config


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise MissingDependency("image towers of OpenCLIP need open_clip: pip install 'viewfold[clip]'") from error
    clip: ModuleType = open_clip
    return clip
