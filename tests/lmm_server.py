"""A real model server for tests: `transformers serve` with a tiny LLaVA of random weights, and a proxy that records."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from servers import free_port, wait_until

IMAGE_TOKEN = "<image>"
IMAGE_PX, PATCH_PX = 32, 8
TOKENS_PER_IMAGE = (IMAGE_PX // PATCH_PX) ** 2
_PAD, _START, _END = "<pad>", "<s>", "</s>"
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Parts in the order in which they stand in the message: text and images interleaved."""
HOISTING_TEMPLATE = _TEMPLATE.replace(
    "{% for part in message['content'] %}",
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}",
).replace("<image>{% else %}", "{% else %}")
"""All images of a message before its text, as servers do it for templates that take a message as one string."""
_CORPUS = ["system user assistant question answer confidence image which one object example"] * 4
"""No names of classes, so that what a random model says is none of them."""


def write_tiny_llava(folder: Path) -> Path:
    """A LLaVA of about 350 thousand random weights with its processor, as `save_pretrained` leaves them.

    The tokenizer is a byte-level BPE trained on a few words here, so that nothing is fetched.
    """
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    processor = _processor()
    vocabulary = len(processor.tokenizer)
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8192,
        pad_token_id=processor.tokenizer.pad_token_id,
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        projection_dim=48,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=TOKENS_PER_IMAGE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _processor() -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(_CORPUS, vocab_size=400, special_tokens=[_PAD, _START, _END], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, pad_token=_PAD, bos_token=_START, eos_token=_END
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    side = {"height": IMAGE_PX, "width": IMAGE_PX}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size=side, crop_size=side),
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=_TEMPLATE,
    )


@contextmanager
def transformers_serve(model: Path, home: Path) -> Iterator[str]:
    """The address of `transformers serve` with `model`, in a process of its own that reaches no hub.

    `home` becomes its HF_HOME; what it prints goes to `serve.log` there.
    """
    (home / "hub").mkdir(parents=True)  # the server wants a cache to look through, be it empty
    port = free_port()
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            wait_until(lambda: process.poll() is not None or _answers(port), seconds=300)
            assert process.poll() is None, (home / "serve.log").read_text()
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Exchange(NamedTuple):
    """One request with what the server answered."""

    path: str
    body: dict[str, Any]
    status: int
    answer: bytes


class RecordingProxy(ThreadingHTTPServer):
    """Hands every request on to `upstream` as it is, and keeps it."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream)
        self.url = f"http://127.0.0.1:{self.server_address[1]}{self.upstream.path}"
        self.exchanges: list[Exchange] = []


@contextmanager
def recording_proxy(upstream: str) -> Iterator[RecordingProxy]:
    """A proxy on a free port of this machine."""
    with RecordingProxy(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RecordingProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        upstream = self.server.upstream
        assert upstream.hostname is not None
        connection = HTTPConnection(upstream.hostname, upstream.port, timeout=120)
        connection.request("POST", self.path, body, {"Content-Type": self.headers["Content-Type"]})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        self.server.exchanges.append(Exchange(self.path, json.loads(body), response.status, answer))
        self.send_response(response.status)
        self.send_header("Content-Type", response.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
