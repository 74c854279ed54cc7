"""Selection as a LangChain example selector: `pip install 'viewfold[langchain]'`."""

from collections.abc import Callable
from typing import Any

from viewfold.errors import InvalidInput, MissingDependency
from viewfold.retrieval.index.bundle import IndexBundle
from viewfold.retrieval.selection.demos import DemoItem, Query
from viewfold.retrieval.selection.pipeline import select
from viewfold.retrieval.selection.select_config import SelectConfig

try:
    from langchain_core.example_selectors import BaseExampleSelector
except ModuleNotFoundError:
    raise MissingDependency("LangChain is not installed: pip install 'viewfold[langchain]'") from None


def key_and_label(item: DemoItem) -> dict[str, Any]:
    """An example with the fields `key` and `label`."""
    return {"key": item.key, "label": item.label}


class DemoSelector(BaseExampleSelector):
    """Examples for a prompt, chosen by similarity of images behind the guards of `select`, in prompt order."""

    def __init__(
        self,
        bundle: IndexBundle,
        query_of: Callable[[dict[str, str]], Query],
        config: SelectConfig,
        *,
        example_of: Callable[[DemoItem], dict[str, Any]] = key_and_label,
    ) -> None:
        """`query_of` makes a query of the prompt's input variables: it embeds the image that one of them names."""
        self._bundle = bundle
        self._query_of = query_of
        self._config = config
        self._example_of = example_of

    def select_examples(self, input_variables: dict[str, str]) -> list[dict[str, Any]]:
        """The examples for these input variables."""
        (demos,) = select(self._bundle, [self._query_of(input_variables)], self._config)
        return [self._example_of(item) for item in demos.items]

    def add_example(self, example: dict[str, str]) -> None:
        """Refuse: an example is an image with a vector, and a bundle changes whole or not at all."""
        raise InvalidInput(
            f"{self._bundle.folder}: a bundle takes no single example {sorted(example)}; embed the image and add it "
            "with `viewfold index add`, then open the new bundle"
        )
