"""A question to a real model server, recorded on its way: what is sent, and what the server's processor makes of it.

The model's weights are random, so what it answers proves nothing and is not looked at.
"""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from indexed_run import stored, write_run
from lmm_server import (
    HOISTING_TEMPLATE,
    IMAGE_TOKEN,
    TOKENS_PER_IMAGE,
    RecordingProxy,
    recording_proxy,
    transformers_serve,
    write_tiny_llava,
)
from PIL import Image
from test_cli import accepted, refused

from viewfold.jobs.ask_lmm import PromptConfig
from viewfold.jobs.data import locate
from viewfold.pipeline.manifest import ShardManifest
from viewfold.retrieval import IndexBundle

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.slow,
    # transformers 5.23: its processors still decode data URIs with torchvision 0.29.
    pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning"),
]
K = 3
LAYOUTS = ("multiturn", "interleaved")


class Asking(NamedTuple):
    """What the tests share: a server of `model` behind `proxy`, a run folder, and an image that its index lacks."""

    model: Path
    proxy: RecordingProxy
    run: Path
    query: Path

    def words(self, *more: str) -> list[str]:
        model = ["--lmm", self.proxy.url, "--model", str(self.model), "lmm.max_tokens=16", "lmm.retries=0"]
        return ["ask", str(self.query), "--from", str(self.run), "-k", str(K), *model, *more]


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    folder = tmp_path_factory.mktemp("server")
    shards = locate(("demo:emoji",))
    run = write_run(folder / "run", shards, every=12)
    place = ShardManifest.load(run / "data").place(1, 0)
    (folder / "query.png").write_bytes(stored(shards, place._asdict()))
    model = write_tiny_llava(folder / "model")
    with transformers_serve(model, folder / "home") as url, recording_proxy(url) as proxy:
        yield Asking(model, proxy, run, folder / "query.png")


def images_of(messages: list[dict[str, Any]]) -> list[bytes]:
    """The image files of the messages, in their order."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in urls)
    return [base64.b64decode(url.partition(",")[2], validate=True) for url in urls]


def rendered(model: Path, messages: list[dict[str, Any]], **options: Any) -> tuple[Any, Any]:
    """The server's processor, and what it makes of the messages by way of the server's own conversion."""
    from transformers import AutoProcessor
    from transformers.cli.serving.utils import BaseHandler, Modality

    processor = AutoProcessor.from_pretrained(model)
    chat = BaseHandler.get_processor_inputs_from_messages(messages, Modality.VLM)
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
    )
    return processor, inputs


def text_after_images(processor: Any, inputs: Any) -> list[str]:
    """For each image of the prompt, in its order, the text from its tokens to those of the next."""
    ids = inputs["input_ids"][0]
    image_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    starts = torch.nonzero(ids == image_id).flatten().tolist()[::TOKENS_PER_IMAGE]
    return [
        processor.tokenizer.decode(ids[start + TOKENS_PER_IMAGE : end]) for start, end in pairwise([*starts, len(ids)])
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_request_holds_the_images_in_order_each_bound_to_its_label(
    layout: str, asking: Asking, capsys: pytest.CaptureFixture[str]
) -> None:
    asking.proxy.exchanges.clear()
    found = json.loads(accepted(capsys, *asking.words("--layout", layout, "--json")))
    (exchange,) = asking.proxy.exchanges
    assert (exchange.path, exchange.status) == ("/v1/chat/completions", 200)
    messages = exchange.body["messages"]
    bundle = IndexBundle.open(asking.run / "index" / "bundle")
    by_key = {record["key"]: record for record in bundle.records.to_pylist()}
    keys = found["prompt"]["keys"]
    assert keys[:-1] == [item["key"] for item in found["demonstrations"]["items"]]
    files = [stored(locate(("demo:emoji",)), by_key[key]) for key in keys[:-1]] + [asking.query.read_bytes()]
    sent = images_of(messages)
    assert sent == [PromptConfig().image(file, "").data for file in files]
    assert len(set(sent)) == K + 1

    processor, inputs = rendered(asking.model, messages)
    pixels = processor.image_processor([Image.open(BytesIO(data)) for data in sent], return_tensors="pt")
    # Two decoders of JPEGs differ by a level or two of 255; two images by far more.
    apart = (inputs["pixel_values"][:, None] - pixels["pixel_values"][None]).abs().mean(dim=(2, 3, 4))
    assert apart.argmin(dim=1).tolist() == list(range(K + 1))
    assert apart.diagonal().max() < 0.05
    answers = [json.dumps({"answer": by_key[key]["label"]}, ensure_ascii=False) for key in keys[:-1]]
    texts = text_after_images(processor, inputs)
    assert len(texts) == K + 1
    for answer, text in zip(answers, texts, strict=False):
        assert text.count('{"answer"') == 1
        assert answer in text
    assert '{"answer"' not in texts[-1]
    usage = json.loads(exchange.answer)["usage"]  # the server's own count: it made the same prompt of it
    assert usage["prompt_tokens"] == inputs["input_ids"].shape[1] == found["completion"]["prompt_tokens"]


def test_a_template_that_puts_images_first_loses_the_labels_of_one_turn_and_not_those_of_many(
    asking: Asking, capsys: pytest.CaptureFixture[str]
) -> None:
    bound = {}
    for layout in LAYOUTS:
        found = json.loads(accepted(capsys, *asking.words("--layout", layout, "--json", "--show-prompt")))
        parts = rendered(asking.model, found["prompt"]["messages"], chat_template=HOISTING_TEMPLATE)
        bound[layout] = [text.count('{"answer"') for text in text_after_images(*parts)]
    assert bound == {"multiturn": [1] * K + [0], "interleaved": [0] * K + [K]}


def test_an_answer_that_is_none_is_reported_as_such(asking: Asking, capsys: pytest.CaptureFixture[str]) -> None:
    text = accepted(capsys, *asking.words("lmm.price_in=2", "lmm.price_out=8"))
    assert "answer: none that could be read" in text
    assert f"usage: {K + 1} images" in text
    assert "16 out" in text
    assert "cost 0.0" in text


def test_a_model_that_the_server_does_not_have_is_refused(asking: Asking, capsys: pytest.CaptureFixture[str]) -> None:
    assert "pinned" in refused(capsys, *asking.words("--model", "another"))
