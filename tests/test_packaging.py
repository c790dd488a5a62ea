"""What is installed: the locks, the ranges of pyproject.toml, and the Makefile's own decisions."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("torch", "base", "extras", "dev")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(text) for text in chain(PROJECT["dependencies"], *EXTRAS.values())]


def locked(name: str) -> dict[str, str]:
    """Package -> version of one lock file."""
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    return dict(re.match(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines if re.match(r"\w", line))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_with_hashes_and_names_no_place(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+( ; [^\\]+)? \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+$", entry), entry
    assert not re.search(r"://|file:|/home|/opt|/tmp|@ ", text)


def test_no_package_is_in_two_locks() -> None:
    names = [package for name in LOCKS for package in locked(name)]
    assert len(names) == len(set(names))


def test_torch_and_what_belongs_to_its_build_are_in_the_torch_lock_alone() -> None:
    torch = locked("torch")
    wanted = dict(
        line.split("==") for line in (ROOT / "requirements/torch.in").read_text().splitlines() if "==" in line
    )
    assert {"torch", "torchvision"} == set(wanted)
    assert wanted.items() <= torch.items()
    assert not [name for lock in LOCKS[1:] for name in locked(lock) if re.match(r"torch|nvidia|cuda|triton", name)]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_locked_version_is_within_the_range_of_the_package(requirement: Requirement) -> None:
    pins = {package: version for name in LOCKS for package, version in locked(name).items()}
    if requirement.name == PROJECT["name"]:  # an extra made of extras
        assert requirement.extras <= EXTRAS.keys()
    else:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_everything_the_package_imports_is_declared() -> None:
    # Where the import's name is not the distribution's.
    names = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open-clip-torch"}
    declared = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS}
    found = set()
    for path in (ROOT / "git_caption").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    foreign = found - set(sys.stdlib_module_names) - {"git_caption"}
    assert {canonicalize_name(names.get(name, name)) for name in foreign} <= declared


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `make` reads, with a Python that says which version it is and records what it is asked."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "requirements").mkdir()
    for path in (ROOT / "requirements").iterdir():
        (tmp_path / "requirements" / path.name).write_bytes(path.read_bytes())
    fake = tmp_path / "fake-python"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> "{tmp_path}/asked"\n'
        'case "$*" in\n'
        "  *version_info*) echo 3.${MINOR:-12} ;;\n"
        f'  *_base_executable*) echo "{fake}" ;;\n'
        f'  "-m venv "*) rm -rf .venv && mkdir -p .venv/bin && cp "{fake}" .venv/bin/python ;;\n'
        '  *"${BREAK:-nothing}"*) exit 1 ;;\n'
        "esac\n"
    )
    fake.chmod(0o755)
    return tmp_path


def asked(clone: Path) -> list[str]:
    """What the fake Python was asked since the last look."""
    path = clone / "asked"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def installed(clone: Path) -> list[str]:
    return [line for line in asked(clone) if "pip install" in line]


FAKE = {"PYTHON": "./fake-python"}


def test_make_alone_lists_the_targets(clone: Path) -> None:
    run = make(clone)
    assert run.returncode == 0
    for target in ("caption", "test", "checks"):
        assert f"make {target} " in run.stdout


@pytest.mark.parametrize("minor", ["9", "10", "14"])
def test_an_unfit_python_is_refused_by_its_version(clone: Path, minor: str) -> None:
    run = make(clone, "caption", **FAKE, MINOR=minor)
    assert run.returncode != 0
    assert f"3.11, 3.12 or 3.13 is needed; './fake-python' is 3.{minor}." in run.stderr
    assert "PYTHON=python3.12 make caption" in run.stderr
    assert not (clone / ".venv").exists()


def test_an_absent_python_is_refused(clone: Path) -> None:
    run = make(clone, "test", PYTHON="no-such-python")
    assert run.returncode != 0
    assert "'no-such-python' is not there." in run.stderr


def test_the_second_run_installs_nothing(clone: Path) -> None:
    assert make(clone, "test", **FAKE).returncode == 0
    first = installed(clone)
    assert all("--require-hashes" in line for line in first)
    assert [re.findall(r"requirements/\S+", line) for line in first] == [
        ["requirements/torch.lock", "requirements/base.lock"],
        ["requirements/extras.lock", "requirements/dev.lock"],
    ]
    assert make(clone, "test", PYTHON="no-longer-asked").returncode == 0
    assert asked(clone) == ["-m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"]


@pytest.mark.parametrize("broken", ["base.lock", "extras.lock", "dev.lock"])
def test_an_installation_that_failed_is_done_again(clone: Path, broken: str) -> None:
    assert make(clone, "checks", **FAKE, BREAK=broken).returncode != 0
    asked(clone)
    assert make(clone, "checks", **FAKE).returncode == 0
    assert any(broken in line for line in installed(clone))


@pytest.mark.parametrize("name", ["torch.lock", "base.lock", "extras.lock", "dev.lock"])
def test_a_changed_lock_is_installed_and_a_touched_one_is_not(clone: Path, name: str) -> None:
    assert make(clone, "test", **FAKE).returncode == 0
    asked(clone)
    lock = clone / "requirements" / name
    os.utime(lock)
    assert make(clone, "test", **FAKE).returncode == 0
    assert installed(clone) == []
    before = lock.read_text()
    for text in (before + "# changed\n", before):  # and back again
        lock.write_text(text)
        assert make(clone, "test", **FAKE).returncode == 0
        assert any(name in line for line in installed(clone))


def test_another_torch_build_is_installed_first_and_remembered(clone: Path) -> None:
    index = "https://example.org/whl/cpu"
    assert make(clone, "caption", **FAKE, TORCH_INDEX=index).returncode == 0
    lines = installed(clone)
    assert f"--no-deps --index-url {index} -r requirements/torch.in" in lines[0]
    assert not any("torch.lock" in line for line in lines)
    assert "--require-hashes -r requirements/base.lock" in lines[1]
    assert make(clone, "caption", **FAKE).returncode == 0
    assert installed(clone) == []
    assert make(clone, "caption", **FAKE, TORCH_INDEX="").returncode == 0
    assert "-r requirements/torch.lock -r requirements/base.lock" in installed(clone)[0]
