"""The strict edge: what passes it, and the one line that answers what does not."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from viewfold.config import Config, dump, fingerprint, load, overridden, override, parse, to_yaml, unknown
from viewfold.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Optimizer(Config):
    lr: float = 0.001
    name: Literal["adam", "adamw"] = "adam"


@dataclass(frozen=True, kw_only=True)
class Run(Config):
    steps: int
    optimizer: Optimizer = field(default_factory=Optimizer)
    folder: Path = Path("runs")
    widths: tuple[int, ...] = (1024, 512)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Paths(Config):
    shards: tuple[str, ...] = ()


RUN = Run(steps=3, optimizer=Optimizer(lr=0.01))


def test_plain_data_becomes_nested_types() -> None:
    assert parse(Run, {"steps": 3, "optimizer": {"lr": 0.01}}) == RUN


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"steps": 3, "optimiser": {}}, "run.yaml: unknown key 'optimiser' (did you mean 'optimizer'?)"),
        ({"steps": 3, "optimizer": {"lrr": 1}}, "run.yaml: unknown key 'optimizer.lrr' (did you mean 'lr'?)"),
        ({"steps": 3, "zzzzzzzz": 1}, "run.yaml: unknown key 'zzzzzzzz'"),
        ({}, "run.yaml: steps: this key is required"),
        ({"steps": 0}, "run.yaml: steps must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_used_is_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse(Run, data, where="run.yaml")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("data", "field_name", "given"),
    [
        ({"steps": "many"}, "steps", "many"),
        ({"steps": 2.5}, "steps", "2.5"),
        ({"steps": 3, "optimizer": {"name": "sgd"}}, "optimizer.name", "sgd"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(data: dict[str, object], field_name: str, given: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^configuration: {field_name}: .*{given}") as error:
        parse(Run, data)
    assert "\n" not in str(error.value)


def test_dump_and_parse_are_inverse() -> None:
    assert parse(Run, dump(RUN)) == RUN


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E3", -2500.0),
        ("nan", "nan"),
        ("inf", "inf"),
        ("-infinity", "-infinity"),
        ("1e3x", "1e3x"),
        ("0.5", 0.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ("plain", "plain"),
        ("null", None),
        ("a=b", "a=b"),
    ],
)
def test_an_override_is_read_as_yaml(text: str, value: object) -> None:
    assert overridden({}, [f"a.b={text}"]) == {"a": {"b": value}}


def test_overrides_reach_nested_fields_and_the_last_one_wins() -> None:
    result = override(RUN, ["optimizer.lr=1", "optimizer.lr=1e-4", "widths=[8]"])
    assert result == replace(RUN, optimizer=Optimizer(lr=1e-4), widths=(8,))


def test_an_override_leaves_what_it_was_given_alone() -> None:
    data = {"optimizer": {"lr": 1.0}}
    overridden(data, ["optimizer.lr=2"])
    assert data == {"optimizer": {"lr": 1.0}}


@pytest.mark.parametrize("item", ["steps", "=3", "steps.more=3", "steps=[", "stepz=3", "steps=-1"])
def test_an_override_that_cannot_be_used_is_refused(item: str) -> None:
    with pytest.raises(InvalidInput, match="override") as error:
        override(RUN, [item])
    assert "\n" not in str(error.value)


def test_a_file_is_the_same_tree_written_down(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(to_yaml(RUN), encoding="utf-8")
    assert load(Run, tmp_path / "run.yaml") == RUN
    assert load(Run, tmp_path / "run.yaml", ["steps=9"]).steps == 9


def test_yaml_keeps_the_order_of_the_fields() -> None:
    keys = [line.partition(":")[0] for line in to_yaml(RUN).splitlines() if line[0].isalpha()]
    assert keys == ["steps", "optimizer", "folder", "widths"]


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe\x00", b"- 1\n- 2\n", b"", b"just text"])
def test_a_file_that_is_no_tree_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"run\.yaml: ") as error:
        load(Run, tmp_path / "run.yaml")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml: no such file"):
        load(Run, tmp_path / "none.yaml")


def test_a_fingerprint_is_short_stable_and_follows_every_part() -> None:
    digest = fingerprint("embed", RUN, {"shards": "abc"})
    assert digest == fingerprint("embed", replace(RUN), {"shards": "abc"})
    assert len(digest) == 16
    changed = [
        ("index", RUN, {"shards": "abc"}),
        ("embed", replace(RUN, steps=4), {"shards": "abc"}),
        ("embed", RUN, {}),
    ]
    assert len({digest, *(fingerprint(*parts) for parts in changed)}) == 4


def test_a_fingerprint_ignores_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    assert (
        str(unknown("method", "sei", ["sie", "cci"])) == "unknown method 'sei' (did you mean 'sie'?); known: cci, sie"
    )


def test_a_path_that_yaml_cuts_is_answered_with_the_quotes_that_keep_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "a, b", "a: b", "a[1]", "a{1}"):
        Path(name).touch()
        with pytest.raises(InvalidInput, match=r"""stands in quotes, as in data.shards='\["a\[1\]/b"\]'"""):
            override(Paths(), [f"shards=[{name}]"])
        assert override(Paths(), [f'shards=["{name}"]']).shards == (name,)
    assert override(Paths(), ["shards=[c,d]"]).shards == ("c", "d")
