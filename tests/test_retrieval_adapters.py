"""Selection inside of LangChain and DSPy, with the real libraries."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pools import on_circle, pool

from viewfold.errors import InvalidInput
from viewfold.retrieval import IndexBundle, Query, SelectConfig, build_bundle

CONFIG = SelectConfig(k=2)


@pytest.fixture
def bundle(tmp_path: Path) -> IndexBundle:
    return build_bundle(pool(on_circle([10, 20, 30]), label=list("abc"), group=list("xyz")), tmp_path / "bundle")


def query_of(inputs: Mapping[str, Any]) -> Query:
    return Query(str(inputs["image"]), on_circle([float(inputs["degrees"])])[0], group=str(inputs["object"]))


@pytest.mark.slow
def test_langchain_fills_a_prompt_with_what_is_chosen(bundle: IndexBundle) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate

    from viewfold.retrieval.adapters.langchain import DemoSelector

    selector = DemoSelector(bundle, query_of, CONFIG)
    inputs = {"image": "q", "degrees": "0", "object": "x"}
    assert selector.select_examples(inputs) == [{"key": "0002", "label": "c"}, {"key": "0001", "label": "b"}]
    assert asyncio.run(selector.aselect_examples(inputs)) == selector.select_examples(inputs)
    prompt = FewShotPromptTemplate(
        example_selector=selector,
        example_prompt=PromptTemplate.from_template("{key} is {label}"),
        suffix="{image} is",
        input_variables=["image", "degrees", "object"],
    )
    assert prompt.format(**inputs) == "0002 is c\n\n0001 is b\n\nq is"
    with pytest.raises(InvalidInput, match=r"takes no single example \['key'\]"):
        selector.add_example({"key": "0003"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dspy_gets_examples_with_inputs_and_outputs(bundle: IndexBundle) -> None:
    dspy = pytest.importorskip("dspy")
    from viewfold.retrieval.adapters.dspy import image_knn

    examples = image_knn(bundle, query_of, CONFIG)(image="q", degrees=0.0, object="x")
    assert all(isinstance(example, dspy.Example) for example in examples)
    assert [dict(example.inputs()) for example in examples] == [{"key": "0002"}, {"key": "0001"}]
    assert [example.labels().label for example in examples] == ["c", "b"]
