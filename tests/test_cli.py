"""What a person sees who types something wrong: one line, what and where and what to do, exit code 2."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import truncate, write_images

from viewfold.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command line answers with; how far the work came may stand before it."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    *progress, line = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert line.startswith("error: ")
    assert len(progress) <= 1
    assert "Traceback" not in "".join(progress)
    return line


def accepted(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line prints when all is well."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code in (0, None)
    return capsys.readouterr().out


def test_a_folder_of_images_becomes_verified_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label, shade in (("dark", 20), ("light", 230)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((20, 30, 3), shade + number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    out = tmp_path / "shards"
    assert "6 images" in accepted(capsys, "data", "import", str(tmp_path / "photos"), "--out", str(out))
    assert "0 problems" in accepted(capsys, "data", "verify", str(out))
    sheet = tmp_path / "sheet.png"
    stats = accepted(capsys, "data", "stats", str(out), "--sheet", str(sheet))
    assert "dark" in stats
    with Image.open(sheet) as picture:
        assert picture.width > 100


@pytest.mark.parametrize("verb", ["index", "repair", "verify", "stats"])
def test_a_missing_folder_is_named(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = ["--out", str(tmp_path / "out")] if verb in ("index", "repair") else []
    assert "nowhere" in refused(capsys, "data", verb, str(tmp_path / "nowhere"), *extra)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(capsys, "data", "import", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert "empty" in refused(capsys, "data", "index", str(tmp_path / "empty"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tar").write_bytes(b"these are not the bytes of an archive" * 40)
    line = refused(capsys, "data", "index", str(tmp_path / "a.tar"), "--out", str(tmp_path / "out"))
    assert line.startswith("error: a: byte 0: not a plain tar file")
    assert not (tmp_path / "out").exists()


def test_a_truncated_tar_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = write_images(tmp_path / "shards")[0]
    truncate(shard)
    line = refused(capsys, "data", "index", str(shard), "--out", str(tmp_path / "out"))
    assert line.startswith(f"error: {shard.stem}: byte ")
    assert "cut short" in line
    assert not (tmp_path / "out").exists()


def test_an_unknown_shipped_data_set_is_answered_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "demo:emoji" in refused(capsys, "data", "index", "demo:emojis", "--out", str(tmp_path / "out"))


def test_an_unknown_key_in_a_yaml_file_is_answered_with_the_known_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = accepted(capsys, "recipe", "show", "smoke")
    file = tmp_path / "mine.yaml"
    file.write_text(recipe.replace("  steps: 4", "  stepz: 4", 1))
    line = refused(capsys, "run", str(file), "--out", str(tmp_path / "run"))
    assert str(file) in line
    assert "did you mean 'steps'" in line
    assert not (tmp_path / "run").exists()


def test_a_stage_that_a_recipe_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "adapt", "objects-demo", "--out", str(tmp_path / "run"))
    assert "no stage 'adapt'" in line


def test_an_image_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in refused(capsys, "ask", str(tmp_path / "x.png"), "--from", str(tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    assert "not a run folder" in refused(capsys, "ask", str(tmp_path / "x.png"), "--from", str(tmp_path))


@pytest.mark.parametrize("what", ["methods", "backbones", "policies"])
def test_names_are_listed_with_what_they_are(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = accepted(capsys, "list", what).strip().splitlines()
    assert len(lines) >= 2
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_policies_are_listed_alone_and_how_to_see_them_is_said_beside(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["list", "policies"])
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split()[0] == "affine"
    assert "--sheets" not in said.out
    assert "viewfold list policies --sheets FOLDER" in said.err


def test_every_policy_is_drawn_on_shipped_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = accepted(capsys, "list", "policies", "--sheets", str(tmp_path / "sheets")).splitlines()
    names = [line.split()[0] for line in accepted(capsys, "list", "policies").splitlines()]
    assert paths == [str(tmp_path / "sheets" / f"{name}.png") for name in names]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width > 700


def test_only_policies_have_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not methods" in refused(capsys, "list", "methods", "--sheets", str(tmp_path / "sheets"))


def preview(policy: str, *words: str, out: Path) -> list[str]:
    return ["augment", "preview", *words, "--policy", policy, "--out", str(out), "--images", "3", "--size", "32"]


def test_a_policy_is_shown_on_own_shards_with_settings_between(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "shards", samples=12)
    out = tmp_path / "sheet.png"
    settings = ["affine.rotation_rad=3.1", "affine.shear_rad=0"]
    assert "3 images x 4 views" in accepted(capsys, *preview("affine", str(tmp_path / "shards"), *settings, out=out))
    with Image.open(out) as picture:
        assert picture.width > 6 * 128
        assert picture.height > 4 * 128


def test_a_manifest_stands_for_its_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = write_images(tmp_path / "shards", samples=12)
    accepted(capsys, "data", "index", *map(str, shards), "--out", str(tmp_path / "manifest"))
    accepted(capsys, *preview("none", str(tmp_path / "manifest"), out=tmp_path / "a.png"))
    accepted(capsys, *preview("none", str(tmp_path / "shards"), out=tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("policy", "words", "says"),
    [
        ("afine", ["demo:emoji"], "unknown policy 'afine' (did you mean 'affine'?)"),
        ("affine", ["demo:emoji", "affine.shear=1"], "unknown key 'affine.shear' (did you mean 'shear_rad'?)"),
        ("affine", ["demo:emoji", "affine.shear_rad=9"], "shear_rad must lie in 0..1.5, got 9"),
        ("affine", ["affine.shear_rad=1"], "no shards named"),
        ("affine", ["demo:emojis"], "demo:emojis: no such shipped data"),
        ("affine", ["nowhere"], "nowhere: no shard there"),
        ("affine", ["demo:emoji", "--size", "8"], "--size must lie in 16..512, got 8"),
        ("affine", ["demo:emoji", "--views", "0"], "--views must lie in 1..16, got 0"),
    ],
)
def test_what_cannot_be_previewed_is_one_line_and_writes_nothing(
    policy: str, words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--policy", policy, "--out", str(tmp_path / "sheet.png")]
    assert says in refused(capsys, "augment", "preview", *options, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_warp_that_folds_is_drawn_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(preview("field-mild", "demo:emoji", "warp.rotation_sd=0.5", out=tmp_path / "sheet.png"))
    assert capsys.readouterr().err.startswith("warning: the warp's gradient budget is ")
    assert (tmp_path / "sheet.png").is_file()


def test_a_picture_below_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such folder" in refused(capsys, *preview("affine", "demo:emoji", out=tmp_path / "x" / "a.png"))


def test_a_run_to_replay_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "replay", "--key", "a", "--epoch", "0", "--view", "0", str(tmp_path / "run"))
    assert f"{tmp_path / 'run'}: not a run folder" in line


def test_an_unknown_list_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'policies'" in refused(capsys, "list", "policy")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["data", "--help"], ["run", "--help"], ["replay", "--help"]]
)
def test_help_and_version_answer_as_a_program(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "viewfold.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "viewfold" in done.stdout.lower()
