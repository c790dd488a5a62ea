"""container.def and Dockerfile: the same steps, from the files that are here."""

from __future__ import annotations

import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import textwrap
import threading
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DEF = (ROOT / "container.def").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BOOTSTRAP = {"bootstrap", "mirror", "release"}  # how Apptainer gets the base image
SETTINGS = re.compile(r'[A-Z_]+="\{\{ \w+ \}\}"')


def section(name: str) -> str:
    found = re.search(rf"^%{name}\n(.*?)(?=^%|\Z)", DEF, re.MULTILINE | re.DOTALL)
    assert found is not None
    return textwrap.dedent(found[1]).strip() + "\n"


def pairs(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def docker_scripts() -> list[str]:
    return re.findall(r"^RUN <<'END'\n(.*?)^END$", DOCKERFILE, re.MULTILINE | re.DOTALL)


def test_both_run_the_same_steps_and_the_same_tests() -> None:
    steps = section("post")
    first = [line for line in steps.splitlines() if SETTINGS.fullmatch(line)]
    assert docker_scripts() == [steps.removeprefix("\n".join(first) + "\n\n"), section("test")]
    given = re.findall(r'([A-Z_]+)="\{\{ (\w+) \}\}"', "\n".join(first))
    assert given and all(name == argument.upper() for name, argument in given)


def test_both_have_the_same_arguments() -> None:
    arguments = {name.upper(): value for name, value in pairs(section("arguments")).items() if name not in BOOTSTRAP}
    assert dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE)) == arguments
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert arguments["VERSION"] == project["version"]


def test_both_have_the_same_labels() -> None:
    labels = re.sub(r"\{\{ (\w+) \}\}", lambda found: f"${{{found[1].upper()}}}", section("labels"))
    joined = DOCKERFILE.replace("\\\n", "")
    named = re.findall(r"(org\.\S+)=(\S+)", re.search(r"^LABEL (.*)$", joined, re.MULTILINE)[1])
    assert named == [tuple(line.split()) for line in labels.splitlines()]


def test_both_copy_the_same_files_which_are_here() -> None:
    copied = [tuple(line.split()) for line in section("files").splitlines()]
    assert [tuple(line.split()) for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)] == copied
    for source, target in copied:
        assert list(ROOT.glob(source)), source
        assert target.startswith("/opt/git_caption/")
    assert "data" not in [source for source, _ in copied]  # a clone's data may be large, and others'


def test_both_set_the_same_variables_and_no_cache_is_in_the_image() -> None:
    environment = dict(re.findall(r"^ *export (\w+)=?(.*)$", section("environment"), re.MULTILINE))
    joined = re.search(r"^ENV (.*)$", DOCKERFILE.replace("\\\n", ""), re.MULTILINE)[1]
    docker = dict(setting.split("=") for setting in joined.split())
    assert docker.keys() == environment.keys()
    for name, value in docker.items():
        if name in ("PATH", "LC_ALL", "PYTHONPATH"):
            assert environment[name] == value
        else:
            assert value.startswith("/work/.cache")


@pytest.mark.parametrize("name", ["post", "environment", "runscript", "test"])
def test_the_scripts_are_valid_shell(name: str) -> None:
    subprocess.run(["sh", "-n"], input=section(name), text=True, check=True)


@pytest.mark.parametrize(
    ("home", "caches"),
    [
        ("{tmp}", {}),
        (
            "/proc",
            {
                "XDG_CACHE_HOME": "{tmp}/work/.cache",
                "MPLCONFIGDIR": "{tmp}/work/.cache/matplotlib",
                "TRITON_CACHE_DIR": "{tmp}/work/.cache/triton",
                "TORCHINDUCTOR_CACHE_DIR": "{tmp}/work/.cache/torchinductor",
            },
        ),
    ],
    ids=["with a home folder", "without"],
)
def test_caches_go_where_something_can_be_written_and_what_the_host_says_stands(home, caches, tmp_path) -> None:
    """Apptainer runs this without the host's variables, and adds those of them that it has not set."""
    work = tmp_path / "work"
    work.mkdir()
    found = subprocess.run(
        ["/bin/sh", "-c", f"set -u\n{section('environment')}/usr/bin/env"],
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": home.format(tmp=tmp_path), "PWD": str(work)},
        capture_output=True,
        text=True,
        check=True,
    )
    given = dict(line.split("=", 1) for line in found.stdout.splitlines())
    own = {"PATH", "LC_ALL", "PYTHONPATH"}
    assert own <= given.keys() and given["PYTHONPATH"] == ""
    wanted = {name: value.format(tmp=tmp_path) for name, value in caches.items()}
    assert {name: value for name, value in given.items() if name not in own | {"HOME", "PWD", "OLDPWD", "_"}} == wanted


def program(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "requirements" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
DIGEST = f"sha256:{sha256(MANIFEST).hexdigest()}"


class Registry(http.server.BaseHTTPRequestHandler):
    """As Docker Hub: a token for whoever asks, then the manifest."""

    body = MANIFEST
    told: str | None = DIGEST

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.path.startswith("/token"):
            known = self.path == "/token?service=here&scope=repository%3Aowner%2Fname%3Apull"
            self.answer(200 if known else 400, b'{"token": "secret"}', {})
        elif self.headers["Authorization"] != "Bearer secret":
            scope = 'service="here",scope="repository:owner/name:pull"'
            self.answer(401, b"", {"WWW-Authenticate": f'Bearer realm="http://localhost:{port}/token",{scope}'})
        elif self.path == "/v2/owner/name/manifests/slim" and "oci.image.index" in self.headers["Accept"]:
            self.answer(200, self.body, {"Docker-Content-Digest": self.told} if self.told else {})
        else:
            self.answer(404, b"", {})

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def registry():
    server = http.server.ThreadingHTTPServer(("localhost", 0), Registry)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("container.def", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_the_base_image_is_pinned_to_the_digest_that_its_registry_gives(registry: str, clone: Path) -> None:
    assert program("pin_base").pin(f"{registry}/owner/name:slim", clone) == f"{registry}/owner/name@{DIGEST}"
    pinned = f"{registry}/owner/name@{DIGEST}"
    tag = pairs(section("arguments"))["from"]
    assert (clone / "container.def").read_text() == DEF.replace(f"from={tag}\n", f"from={pinned}\n")
    assert (clone / "Dockerfile").read_text() == DOCKERFILE.replace(f"FROM={tag}\n", f"FROM={pinned}\n")


@pytest.mark.parametrize(
    ("body", "told", "tag", "said"),
    [
        (MANIFEST, "sha256:" + "0" * 64, ":slim", "the registry says sha256:000"),
        (b"<html>log in first</html>", None, ":slim", "what came is no manifest"),
        (MANIFEST, DIGEST, ":absent", "404"),
        (MANIFEST, DIGEST, f"@{DIGEST}", "this names a digest already"),
    ],
    ids=["another digest", "no manifest", "no such tag", "a digest"],
)
def test_nothing_is_written_that_was_not_resolved(body, told, tag, said, registry, clone, monkeypatch) -> None:
    monkeypatch.setattr(Registry, "body", body)
    monkeypatch.setattr(Registry, "told", told)
    with pytest.raises((ValueError, OSError), match=said):
        program("pin_base").pin(f"{registry}/owner/name{tag}", clone)
    assert (clone / "container.def").read_text() == DEF
    assert (clone / "Dockerfile").read_text() == DOCKERFILE


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("debian:bookworm-slim", ("registry-1.docker.io", "library/debian", "bookworm-slim")),
        ("docker.io/library/debian", ("registry-1.docker.io", "library/debian", "latest")),
        ("owner/name:1", ("registry-1.docker.io", "owner/name", "1")),
        ("ghcr.io/owner/name:1", ("ghcr.io", "owner/name", "1")),
        ("localhost:5000/name", ("localhost:5000", "name", "latest")),
    ],
)
def test_names_of_images_are_read_as_docker_reads_them(name: str, place: tuple[str, str, str]) -> None:
    found = program("pin_base")
    repository, tag = found.split(name)
    assert (*found.located(repository), tag) == place


def test_the_models_of_spice_are_taken_out_of_stanfords_archive(tmp_path: Path) -> None:
    import zipfile

    jars = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
    archive, target = tmp_path / "corenlp.zip", tmp_path / "lib"
    target.mkdir()
    with zipfile.ZipFile(archive, "w") as content:
        for name in (*jars, "README.txt"):
            content.writestr(f"stanford-corenlp-full-2015-12-09/{name}", name)
    program("spice").fetch(archive.as_uri(), target)
    assert {path.name: path.read_text() for path in target.iterdir()} == {name: name for name in jars}
