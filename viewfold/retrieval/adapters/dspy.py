"""Selection as DSPy's KNN is called: `pip install 'viewfold[dspy]'`."""

from collections.abc import Callable
from typing import Any

from viewfold.errors import MissingDependency
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.selection.demos import DemoItem, Query
from viewfold.retrieval.selection.pipeline import select
from viewfold.retrieval.selection.select_config import SelectConfig

try:
    from dspy import Example
except ModuleNotFoundError:
    raise MissingDependency("DSPy is not installed: pip install 'viewfold[dspy]'") from None


def key_and_label(item: DemoItem) -> Any:
    """An example with the input `key` and the output `label`."""
    return Example(key=item.key, label=item.label).with_inputs("key")


def image_knn(
    bundle: IndexBundle,
    query_of: Callable[[dict[str, Any]], Query],
    config: SelectConfig,
    *,
    example_of: Callable[[DemoItem], Any] = key_and_label,
) -> Callable[..., list[Any]]:
    """What is called like `dspy.KNN`, with the inputs of a program by name, and gives `dspy.Example`s in prompt order.

    DSPy's own embeds an image field as text; here `query_of` makes a query of the inputs and embeds the image.
    """

    def nearest(**inputs: Any) -> list[Any]:
        (demos,) = select(bundle, [query_of(inputs)], config)
        return [example_of(item) for item in demos.items]

    return nearest
