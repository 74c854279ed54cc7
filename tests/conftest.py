"""Fixtures that several test files share; markers are declared in pyproject.toml."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
DATA_VARIABLE = "VIEWFOLD_DATA"
DATA_BESIDE_CHECKOUT = CHECKOUT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray for all the tests of a session, for starting it costs seconds; on a machine that has a single core."""
    from viewfold.pipeline.executor import ray_session

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 1}')
        patch.setenv(
            "PYTHONPATH", f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}", prepend=os.pathsep
        )  # workers import the tests
        # Ray Serve takes down a proxy that needs more than 5 s to start, as on a busy machine it does. Its controller
        # has the environment that Ray was started in, so whichever test starts it sets this.
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
        with ray_session():
            yield


@pytest.fixture(scope="session")
def plain_process() -> Iterator[ProcessPoolExecutor]:
    """Another process, where no checker of shapes sits on the functions: the compiler cannot look through one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="session")
def data_packs() -> Path:
    """The folder with the full data packs (`emoji/`, `objects3d/`, `video/`)."""
    folder = Path(os.environ.get(DATA_VARIABLE, DATA_BESIDE_CHECKOUT))
    if not folder.is_dir():
        pytest.skip(f"the full data packs are not at {folder}; {DATA_VARIABLE} names their folder")
    return folder
