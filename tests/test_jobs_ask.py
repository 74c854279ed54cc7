"""Asking about one image: what is shown, to whom, what it says, and what a person sees who asks for the impossible."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from indexed_run import stored, write_run
from PIL import Image
from servers import unanswered
from test_cli import accepted, refused
from tiny import write_images

from viewfold.errors import InvalidInput
from viewfold.jobs.ask_lmm import Prompt, PromptConfig, Reply
from viewfold.jobs.ask_show import prompt_text, reply_text, table
from viewfold.jobs.pool_images import PoolImages
from viewfold.retrieval import DemoItem, DemoSet, IndexBundle
from viewfold.retrieval.lmm import Completion
from viewfold.retrieval.prompt import Answer, PromptCost


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a run with an index of them, and `query.png`, which is in none."""
    folder = tmp_path_factory.mktemp("ask")
    write_run(folder / "run", write_images(folder / "shards", samples=24))
    (shard,) = write_images(folder / "other", samples=2, seed=7)
    (folder / "query.png").write_bytes(next(iter(members(shard).values())))
    return folder


def members(shard: Path) -> dict[str, bytes]:
    import tarfile

    with tarfile.open(shard) as tar:
        files = {name: tar.extractfile(name) for name in tar.getnames() if name.endswith(".png")}
        return {name: file.read() for name, file in files.items() if file is not None}


def ask(folder: Path, *words: str) -> list[str]:
    return ["ask", str(folder / "query.png"), "--from", str(folder / "run"), *words]


def asked(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(accepted(capsys, *ask(folder, "--json", *words)))
    return answer


def records(folder: Path) -> dict[str, dict[str, Any]]:
    bundle = IndexBundle.open(folder / "run" / "index" / "bundle")
    return {record["key"]: record for record in bundle.records.to_pylist()}


def test_demonstrations_are_listed_most_similar_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = accepted(capsys, *ask(folder, "-k", "3", "--sheet", str(folder / "sheet.png"))).splitlines()
    rows = [line.split() for line in lines[1:4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    known = records(folder)
    assert [row[2] for row in rows] == [known[row[4]]["label"] for row in rows]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width == 4 * 104 + 8


def test_the_prompt_binds_each_image_to_its_own_label_and_ends_with_the_query(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = accepted(capsys, *ask(folder, "-k", "4", "--show-prompt"))
    assert "base64" not in text
    parts = re.split(r"<image/jpeg, [\d.]+ k?B: (.+)>", text)
    keys, after = parts[1::2], parts[2::2]
    known = records(folder)
    assert len(keys) == 5
    for key, words in list(zip(keys, after, strict=True))[:-1]:
        assert json.dumps({"answer": known[key]["label"]}) in words
    assert keys[-1] == str(folder / "query.png")
    assert '{"answer"' not in after[-1]
    table = [line.split()[4] for line in text.splitlines()[1:5]]
    assert keys[:-1] == table[::-1]  # the most similar one stands next to the query


def test_a_counting_model_answers_the_vote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, folder, "-k", "5", "--lmm", "vote")
    labels = [item["label"] for item in found["demonstrations"]["items"]]
    answer = found["answer"]
    assert labels.count(answer["label"]) == max(map(labels.count, labels))
    assert answer["how"] == "json"
    assert found["prompt"]["cost"]["images"] == 6
    assert "messages" not in found["prompt"]
    text = accepted(capsys, *ask(folder, "-k", "5", "--lmm", "vote"))
    assert f"answer: {answer['label']}    confidence" in text
    assert "usage: 6 images" in text


def test_without_demonstrations_a_prompt_has_the_query_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, folder, "-k", "0", "--lmm", "vote", "--show-prompt")
    assert found["prompt"]["keys"] == [str(folder / "query.png")]
    assert [message["role"] for message in found["prompt"]["messages"]] == ["system", "user"]
    assert found["answer"] == {"label": None, "confidence": None, "how": "failed"}


def test_labels_are_shown_in_the_words_given_and_answered_as_labels(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.yaml").write_text("class-0: two dots\nclass-1: three dots\nclass-2: four dots\n")
    words = ("--lmm", "vote", "--labels", str(tmp_path / "words.yaml"), "--layout", "interleaved", "--show-prompt")
    found = asked(capsys, folder, *words)
    assert "dots" in json.dumps(found["prompt"]["messages"])
    assert "class-" not in json.dumps(found["prompt"]["messages"][1:])
    assert found["answer"]["label"] in {"class-0", "class-1", "class-2"}
    assert len(found["prompt"]["messages"]) == 2
    (tmp_path / "words.yaml").write_text("clas-0: two dots\n")
    assert "did you mean 'class-0'" in refused(capsys, *ask(folder, *words))
    (tmp_path / "words.yaml").write_text("- two dots\n")
    assert "label: words" in refused(capsys, *ask(folder, *words))


def test_a_budget_drops_the_least_similar(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = asked(capsys, folder, "-k", "4", "--lmm", "vote", "--budget", "max_images=3")
    ranks = {item["key"]: item["rank"] for item in found["demonstrations"]["items"]}
    assert [ranks[key] for key in found["prompt"]["keys"][:-1]] == [2, 1]
    assert sorted(ranks[key] for key in found["prompt"]["dropped"]) == [3, 4]
    assert "max_images" in accepted(capsys, *ask(folder, "-k", "4", "--lmm", "vote", "--budget", "max_images=3"))


def test_filters_and_the_group_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = records(folder)
    found = asked(capsys, folder, "-k", "6", "--filter", "domains=[style-1]", "--group", "thing-2")
    shown = [known[item["key"]] for item in found["demonstrations"]["items"]]
    assert len(shown) == 6
    assert {record["domain"] for record in shown} == {"style-1"}
    assert "thing-2" not in {record["group"] for record in shown}


@pytest.mark.slow
def test_a_bundle_alone_wants_its_encoder_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(folder / "query.png")
    whole = accepted(capsys, "ask", image, "--from", str(folder / "run"))
    assert accepted(capsys, "ask", image, "--from", str(folder / "run" / "index" / "bundle")) == whole
    alone = str(shutil.copytree(folder / "run" / "index" / "bundle", tmp_path / "a" / "b" / "bundle"))
    assert "--encoder" in refused(capsys, "ask", image, "--from", alone)
    assert accepted(capsys, "ask", image, "--from", alone, "--encoder", str(folder / "run")) == whole


def test_images_come_from_the_shards_byte_for_byte(folder: Path) -> None:
    bundle = IndexBundle.open(folder / "run" / "index" / "bundle")
    images = PoolImages(bundle)
    shards = sorted((folder / "shards").glob("*.tar"))
    for record in bundle.records.to_pylist():
        assert images.image_of(record["key"]) == stored(shards, record)
    assert images.warnings == []
    with pytest.raises(InvalidInput, match="holds no image"):
        images.image_of("images-000000/nothing")


def test_images_of_shards_that_are_gone_or_changed_are_thumbnails_with_a_warning(folder: Path, tmp_path: Path) -> None:
    bundle = IndexBundle.open(Path(shutil.copytree(folder / "run" / "index" / "bundle", tmp_path / "bundle")))
    key = bundle.column("key")[0]
    gone = PoolImages(bundle)
    for _ in range(2):
        assert gone.image_of(key) == bundle.thumbnail(key)
    (warning,) = gone.warnings
    assert "images-000000" in warning
    assert "--shards" in warning
    moved = PoolImages(bundle, [str(folder / "shards")])
    assert moved.image_of(key) == stored(sorted((folder / "shards").glob("*.tar")), records(folder)[key])
    assert moved.warnings == []
    changed = PoolImages(bundle, [str(write_images(tmp_path / "shards", samples=24, seed=3)[0])])
    assert changed.image_of(key) == bundle.thumbnail(key)
    assert "other images" in changed.warnings[0]


def test_a_server_that_is_not_there_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with unanswered() as address:
        url = f"http://{address}/v1"
        for words in (["--lmm", url], [f"lmm.url={url}"]):
            line = refused(capsys, *ask(folder, *words, "--model", "any", "lmm.retries=0"))
            assert url in line
            assert "reach" in line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lmm", "http://localhost:1/v1"], "--model"),
        (["--lmm", "nowhere", "--model", "m"], "http://localhost:8000/v1"),
        (["--lmm", "http://[::1/v1", "--model", "m"], "http://localhost:8000/v1"),
        (["--model", "m"], "without --lmm"),
        (["--model", "m", "--show-prompt"], "without --lmm"),
        (["--lmm", "vote", "--model", "m"], "asks no server"),
        (["lmm.url=vote", "--model", "m"], "asks no server"),
        (["--layout", "interleaved"], "without --lmm"),
        (["--lmm", "vote", "--layout", "inter"], "multiturn"),
        (["--lmm", "vote", "--budget", "max_image=3"], "did you mean 'max_images'"),
        (["select.ordr=nearest_first"], "did you mean 'order'"),
        (["--lmm", "vote", "lmm.price_in=3"], "price_out"),
        (["--labels", "nowhere.yaml", "--lmm", "vote"], "nowhere.yaml"),
        (["--lmm", "vote", "--shards", "nowhere.tar"], "nowhere.tar"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(
    words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(capsys, *ask(folder, *words))


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_name_that_is_no_text_can_be_printed(
    form: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = shutil.copy(folder / "query.png", tmp_path / "\udcff.png")
    shown = accepted(capsys, "ask", str(image), "--from", str(folder / "run"), "--show-prompt", *form)
    assert r"\udcff.png" in shown


@pytest.mark.parametrize("damaged", ["index/bundle/bundle.json", "pretrain/encoder/encoder.json"])
@pytest.mark.parametrize("text", ['{"id": "', "[]"])
def test_a_damaged_description_is_named(
    damaged: str, text: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(folder / "run", tmp_path / "run"))
    (run / damaged).write_text(text)
    line = refused(capsys, "ask", str(folder / "query.png"), "--from", str(run / "index" / "bundle"))
    assert f"{run / damaged}: damaged" in line


def test_labels_domains_keys_and_errors_cannot_act_on_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "cat\x1b[2J\nvote: dog\u202e\ud83d"
    bundle = IndexBundle.open(folder / "run" / "index" / "bundle")
    items = [DemoItem(hostile, hostile, hostile, 0.5, 1, "")]
    shown = table(DemoSet("q", items, {hostile: 1}, [hostile], "knn", 1, 0, "", ""), bundle)
    said = Completion("", prompt_tokens=None, completion_tokens=None, latency_s=0.0, model=hostile)
    shown += "\n" + reply_text(Reply(Answer(hostile, None, "json"), said, None), prompt_of(""))
    assert len(shown.splitlines()) == 7
    assert all(line.isprintable() for line in shown.split("\n"))
    assert refused(capsys, "ask", "x\x1b[2J\u202e.png", "--from", str(folder)).isprintable()


def test_a_query_that_is_no_image_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, "ask", str(tmp_path / "x.png"), "--from", str(folder / "run"))
    (tmp_path / "x.png").write_bytes(b"these are not the bytes of an image")
    line = refused(capsys, "ask", str(tmp_path / "x.png"), "--from", str(folder / "run"), "--lmm", "vote")
    assert f"{tmp_path / 'x.png'}: " in line


def prompt_of(text: str) -> Prompt:
    cost = PromptCost(images=2, pixels=8, image_tokens=3, prompt_tokens=9, bytes=1500)
    return Prompt([{"role": "user", "content": text}], ["cat"], ["a", "query"], cost, [], [])


def test_an_answer_that_cannot_be_read_is_shown_as_it_came_without_acting_on_a_terminal() -> None:
    said = Completion("\x1b[2Jno idea", prompt_tokens=40, completion_tokens=None, latency_s=0.25, model="m")
    text = reply_text(Reply(Answer(None, None, "failed"), said, None), prompt_of(""))
    first, usage = text.splitlines()
    assert first == r"answer: none that could be read; m said '\x1b[2Jno idea'"
    assert usage == "usage: 2 images, 1.5 kB, 40 tokens in, ? out, 0.25 s"


def test_the_cost_is_that_of_both_counts() -> None:
    said = Completion("cat", prompt_tokens=2000, completion_tokens=10, latency_s=0.0, model="m")
    config = PromptConfig()
    assert config.spec.layout == "multiturn"
    text = reply_text(Reply(Answer("cat", 0.5, "mention"), said, 0.0051), prompt_of(""))
    assert text.startswith("answer: cat    confidence 0.50    read as mention, from m\n")
    assert text.endswith("cost 0.005100")
    assert prompt_text(prompt_of("Which?")) == "prompt of 2 images, 1.5 kB:\n[user]\n  Which?"
