"""What every test gets: no network, no cache of the user's, few threads, fixed seeds; and what some machines lack.

Imports no torch, so that collecting the tests stays quick.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

# Set before any library reads them. A hub cache of the user's would make "weights not found" depend on the machine.
_HUB_HOME = tempfile.mkdtemp(prefix="git_caption_tests_hub_")
for _name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
    os.environ.pop(_name, None)
os.environ.update(HF_HOME=_HUB_HOME, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
LONG = ("tests/test_readme.py", "tests/training/")  # begun first, so that no process is left with one of them


def pytest_configure(config: pytest.Config) -> None:
    # A process that only hands tests out sets nothing, for those that run them inherit its environment.
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        cores = (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(2, cores))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


def pytest_unconfigure() -> None:
    shutil.rmtree(_HUB_HOME, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="also run the tests that reach out to the internet")
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes, all runs of others")


@cache
def _missing_java() -> str | None:
    """The reason why Java tests cannot run here; macOS has a `java` that only says that there is none."""
    if shutil.which("java") is None:
        return "no java on the PATH"
    if subprocess.run(["java", "-version"], capture_output=True).returncode != 0:
        return "java is on the PATH but does not run"
    return None


@cache
def _missing_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for option in ("network", "slow"):
        if item.get_closest_marker(option) and not item.config.getoption(f"--{option}"):
            pytest.skip(f"runs with --{option} only")
    for marker, reason in (("java", _missing_java), ("gpu", _missing_gpu)):
        if item.get_closest_marker(marker) and (why := reason()):
            pytest.skip(why)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def runs(request: pytest.FixtureRequest) -> int:
    """How many runs a test shall make: the number of its `runs` mark with --slow, else a tenth of them."""
    count: int = request.node.get_closest_marker("runs").args[0]
    return count if request.config.getoption("--slow") else count // 10


@pytest.fixture
def java() -> None:
    """Skip where no Java runs."""
    if why := _missing_java():
        pytest.skip(why)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a small random language model of a family (`tests.language_families`), made once."""
    from tests import language_families

    @cache
    def folder(family: str) -> Path:
        return language_families.write(tmp_path_factory.mktemp("published") / family, family)

    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no folder {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def photos(shared_data: Path) -> Path:
    """The folder of real photographs beside the repository, or skip."""
    return shared_data / "photos"
