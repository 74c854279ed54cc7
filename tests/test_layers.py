"""The shape of the package: who may import whom, and which file owns which heavy dependency.

Imports are read from the syntax tree, inside functions too; only the last tests run anything, each in its own process.
"""

import ast
import json
import re
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "viewfold"
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOOR = {"errors", "config", "folders", "keyed", "values"}
LIBRARIES = {"pipeline", "augment", "ssl", "retrieval"}
VERBS = (
    "cli_ask",
    "cli_data",
    "cli_drift",
    "cli_encoder",
    "cli_icl",
    "cli_index",
    "cli_manifest",
    "cli_nightly",
    "cli_registry",
    "cli_serve",
    "cli_submit",
    "cli_sync",
    "cli_views",
)
MAY_IMPORT = {
    **dict.fromkeys(FLOOR, FLOOR),
    **{library: FLOOR | {library} for library in LIBRARIES},
    "jobs": FLOOR | LIBRARIES | {"jobs"},
    "cli": FLOOR | {*VERBS, "jobs"},
    **dict.fromkeys(VERBS, FLOOR | {"jobs"}),
    "__init__": LIBRARIES
    | {"jobs"},  # for type checkers alone: test_notebook_api.py sees that importing it loads nothing
}
"""For each folder or file of the package, the ones it may import of the package."""

OWNERS = {
    "ray": ("pipeline/executor.py", "pipeline/ray_train.py", "jobs/submit.py", "jobs/serve_ray"),
    "deepspeed": ("ssl/deepspeed_engine.py",),
    "kornia": ("augment/",),
    "webdataset": ("pipeline/",),
    "fsspec": ("pipeline/remote/store.py",),
    "gcsfs": ("pipeline/remote/store.py",),
    "aiohttp": ("pipeline/remote/store.py", "jobs/submit.py"),
    "simplejpeg": ("pipeline/jpeg.py",),
    "cv2": ("pipeline/video/",),
    "timm": ("ssl/",),
    "faiss": ("retrieval/",),
    "openai": ("retrieval/lmm/openai_client.py",),
    "langchain_core": ("retrieval/adapters/langchain.py",),
    "dspy": ("retrieval/adapters/dspy.py",),
    "open_clip": ("ssl/backbones_open_clip.py",),
    "fastapi": ("retrieval/service/",),
    "starlette": ("retrieval/service/",),
    "uvicorn": ("jobs/serve.py", "jobs/serve_heads.py"),
    "prometheus_client": ("retrieval/service/",),
    # The second file is not imported by ours: MLflow itself executes it when a registered encoder is loaded.
    "mlflow": ("jobs/registry", "jobs/pyfunc_encoder.py"),
    "pydantic": ("config.py",),
    "torch": ("values.py", "pipeline/", "augment/", "ssl/", "jobs/"),
}
"""For each heavy package, the only files or folders that may import it."""

HEAVY = {*OWNERS, "numpy", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "torchvision", "jaxtyping"}


def imported(path: Path) -> Iterator[str]:
    """The dotted name of every module that the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write it from viewfold on"
            # `from viewfold import ssl` names a module by its last part, `from viewfold.config import parse` does not.
            yield from (
                f"viewfold.{alias.name}" if node.module == "viewfold" else str(node.module) for alias in node.names
            )


def loaded_by(code: str) -> set[str]:
    """Top-level names of the modules outside the standard library that a fresh process loads to run `code`."""
    report = "import json, sys\nbefore = set(sys.modules)\n{}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    process = subprocess.run(
        [sys.executable, "-c", report.format(code)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert process.returncode == 0, process.stderr
    names = {name.partition(".")[0] for name in json.loads(process.stdout.splitlines()[-1])}
    return names - set(sys.stdlib_module_names) - {"viewfold"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    targets = {name.split(".")[1] for name in imported(path) if name.startswith("viewfold.")} - {"__version__"}
    assert targets <= MAY_IMPORT[here], f"{path} imports {targets - MAY_IMPORT[here]}"


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_a_heavy_package_is_imported_by_its_owners_only(package: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in MODULES
        if any(name.partition(".")[0] == package for name in imported(path))
    }
    assert not {user for user in users if not user.startswith(OWNERS[package])}


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "dev"}
    declared = {
        re.split(r"[\[<>=]", requirement)[0].lower()
        for requirements in (project["dependencies"], *extras.values())
        for requirement in requirements
    }
    used = {name.partition(".")[0] for path in MODULES for name in imported(path)}
    provides = packages_distributions()
    undeclared = {
        name
        for name in used - set(sys.stdlib_module_names) - {"viewfold"}
        if not declared & {distribution.lower() for distribution in provides.get(name, [name])}
    }
    assert not undeclared


def test_only_the_fixed_folder_is_named_like_the_standard_library() -> None:
    # A shell inside the package would import ours in its place. The name `ssl/` is given; it is met as viewfold.ssl.
    names = {name for path in MODULES for name in path.relative_to(PACKAGE).with_suffix("").parts}
    assert names & set(sys.stdlib_module_names) <= {"ssl"}


def test_the_standard_library_keeps_its_ssl() -> None:
    assert ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).verify_mode is ssl.CERT_REQUIRED


def test_import_viewfold_loads_nothing_third_party() -> None:
    assert loaded_by("import viewfold") == set()


def test_retrieval_runs_without_torch() -> None:
    assert not loaded_by("import viewfold.retrieval") & {"torch", "ray", "mlflow", "kornia", "webdataset", "deepspeed"}


def test_recipes_are_listed_without_a_heavy_package() -> None:
    listed = "import viewfold.cli; viewfold.cli.app(['recipe', 'list'], standalone_mode=False)"
    assert not loaded_by(listed) & (HEAVY - {"pydantic"})


@pytest.mark.slow
def test_a_configuration_is_read_without_ray_and_mlflow() -> None:
    assert not loaded_by("import viewfold.jobs.recipes, viewfold.jobs.run, viewfold.jobs.champion") & {"mlflow", "ray"}


@pytest.mark.slow
def test_what_is_in_a_folder_is_opened_without_mlflow() -> None:
    # Only names in a registry need it: `models:/NAME@ALIAS`.
    folder = "viewfold.jobs.pair_folders, viewfold.jobs.ask_pair, viewfold.jobs.serve_open, viewfold.jobs.notebook"
    assert not loaded_by(f"import {folder}") & {"mlflow", "ray", "deepspeed", "kornia", "matplotlib", "pandas"}


def test_the_help_of_verbs_loads_no_heavy_package() -> None:
    ask_for_help = """
import contextlib, viewfold.cli
for verb in ("data", "recipe", "index", "run", "ask", "serve", "nightly", "submit"):
    with contextlib.suppress(SystemExit):
        viewfold.cli.main([verb, "--help"])
"""
    assert not loaded_by(ask_for_help) & (HEAVY - {"pydantic"})  # typer itself takes pydantic


def test_help_loads_no_heavy_package() -> None:
    # What it loads decides how fast it answers, and unlike a time it does not depend on the machine.
    ask_for_help = """
import contextlib, viewfold.cli
sys.argv = ["viewfold", "--help"]
with contextlib.suppress(SystemExit):
    viewfold.cli.main()
"""
    assert not loaded_by(ask_for_help) & HEAVY
