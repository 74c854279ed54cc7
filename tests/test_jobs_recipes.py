"""Every published run builds, survives being written as YAML, and refuses what it does not know."""

from pathlib import Path

import pytest

from viewfold.config import dump, fingerprint, parse, to_yaml
from viewfold.errors import InvalidInput
from viewfold.jobs.recipe_names import recipe_lines
from viewfold.jobs.recipes import RECIPES, find
from viewfold.jobs.run_config import RunConfig
from viewfold.jobs.stages import STAGES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_read_back_from_yaml_is_the_same_run(name: str, tmp_path: Path) -> None:
    config = find(name, [])
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(config))
    assert find(str(file), []) == config


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_one_fingerprint_before_and_after_it_was_written_down(name: str) -> None:
    recipe = RECIPES[name]()
    assert fingerprint(recipe) == fingerprint(parse(type(recipe), dump(recipe)))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_line_that_says_what_it_is(name: str) -> None:
    assert (RECIPES[name].__doc__ or "").strip().endswith(".")


def test_the_list_of_recipes_is_theirs() -> None:
    assert recipe_lines() == {name: (recipe.__doc__ or "").partition("\n")[0] for name, recipe in RECIPES.items()}


def test_an_override_changes_that_field_alone() -> None:
    plain, changed = (
        dump(find("emoji-demo", [])),
        dump(find("emoji-demo", ["pretrain.steps=7", "adapt.method.tau=0.5"])),
    )
    assert changed["pretrain"].pop("steps") == 7
    assert changed["adapt"]["method"].pop("tau") == 0.5
    del plain["pretrain"]["steps"], plain["adapt"]["method"]["tau"]
    assert changed == plain


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("pretrain.stepz=5", "did you mean 'steps'"),
        ("pretrain.method.invariance_weight=1", "invariance"),
        ("pretrain.method.name=sei", "did you mean 'sie'"),
        ("pretrain.policy.name=afine", "did you mean 'affine'"),
        ("pretrain.steps=many", "pretrain.steps"),
        ("pretrain.steps=0", "at least 1"),
        ("encoder.preprocessing.image_sise=3", "did you mean 'image_size'"),
        ("pretrain", "key=value"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_field(override: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        find("emoji-demo", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'emoji-demo'"):
        find("emoji-dmo", [])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nothing\.yaml: no such file"):
        find(str(tmp_path / "nothing.yaml"), [])


def test_a_run_without_its_data_is_refused() -> None:
    with pytest.raises(InvalidInput, match="data: this key is required"):
        parse(RunConfig, {"name": "x", "encoder": {}, "pretrain": {"method": {"name": "sie"}}})


def test_every_stage_comes_after_what_it_needs() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert set(stage.needs) <= seen
        seen.add(name)
