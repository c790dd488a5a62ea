from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from git_caption.captioner.hub import (
    fetch,
    is_offline,
    resolve_captioner,
    resolve_encoder,
    resolve_language_model,
)
from git_caption.captioner.repository_files import weight_files
from git_caption.errors import UsageError, WeightsError
from git_caption.params.hub_cache import cache_folder
from tests import hub_cache


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to connect or to look a name up is a failure of the test."""

    def refuse(*_, **__):
        raise AssertionError("a request was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"file": name}))
    return folder


LANGUAGE_MODEL = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.mark.parametrize("name", ["gpt2-large", "facebook/opt-2.7b", "decapoda-research/llama-7b-hf"])
def test_a_cached_language_model_is_found_without_a_request(name, hub_home, no_network, tmp_path, monkeypatch):
    folder = hub_cache.snapshot(hub_home, name, files(tmp_path / "source", *LANGUAGE_MODEL))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert resolve_language_model(name) == folder
    assert resolve_language_model(name, hub_cache.REVISION) == folder


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("ViT-B/32", "timm/vit_base_patch32_clip_224.openai"),
        ("ViT-L/14@336px", "timm/vit_large_patch14_clip_336.openai"),
        ("RN50", "timm/resnet50_clip.openai"),
    ],
)
def test_openai_encoders_are_where_open_clip_keeps_them(name, repository, hub_home, no_network, tmp_path):
    source = files(tmp_path / "source", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    folder = hub_cache.snapshot(hub_home, repository, source)
    assert resolve_encoder(name) == folder / "open_clip_model.safetensors"
    assert resolve_encoder(repository) == folder / "open_clip_model.safetensors"


@pytest.mark.parametrize(
    ("name", "repository", "file"),
    [
        ("ViT-B-32:laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_pytorch_model.bin"),
        ("ViT-B-16-SigLIP2:webli", "timm/ViT-B-16-SigLIP2", "open_clip_model.safetensors"),
        ("ViTamin-S:datacomp1b", "jienengchen/ViTamin-S", "pytorch_model.bin"),
        ("RN50:yfcc15m", "timm/resnet50_clip.yfcc15m", "open_clip_model.safetensors"),
    ],
)
def test_open_clips_names_with_a_tag_are_where_its_table_says(name, repository, file, hub_home, no_network, tmp_path):
    folder = hub_cache.snapshot(hub_home, repository, files(tmp_path / "source", file, "open_clip_config.json"))
    assert resolve_encoder(name) == folder / file
    assert fetch(name) == folder / file


def test_only_what_is_complete_is_there_already(hub_home, tmp_path, monkeypatch):
    here = tmp_path / "here"
    monkeypatch.chdir(files(here, "results/captions.tsv", "gpt2/captions.tsv", "list", "clip.pt", *ENCODER))
    for name in ("gpt2", "results"):
        with pytest.raises(WeightsError, match=rf"^{name}: config.json, model.safetensors.* not found in the cache"):
            fetch(name)
    folder = hub_cache.snapshot(hub_home, "gpt2", files(tmp_path / "source", *LANGUAGE_MODEL))
    assert fetch("gpt2") == folder
    with pytest.raises(UsageError, match=r"'\./gpt2': .* it lacks config.json"):
        fetch("./gpt2")
    with pytest.raises(UsageError, match=r"'list': .* it is a file"):
        fetch("list")
    files(here / "gpt2", "config.json")
    with pytest.raises(WeightsError, match=r"'gpt2': the folder lacks model.safetensors"):
        fetch("gpt2")
    files(here / "gpt2", *LANGUAGE_MODEL)
    files(here / "open_clip", "open_clip_model.safetensors")
    for name in ("gpt2", "open_clip", "clip.pt", str(here)):
        assert fetch(name) == Path(name)


def test_an_unknown_tag_is_refused_with_the_nearest_and_all_others(hub_home):
    for ask in (resolve_encoder, fetch):
        with pytest.raises(UsageError) as caught:
            ask("ViT-B-32:laion2b_s34b_b97k")
        message = str(caught.value)
        assert "ViT-B-32 has no weights 'laion2b_s34b_b97k'. Did you mean 'ViT-B-32:laion2b_s34b_b79k'?" in message
        assert "'ViT-B-32:datacomp_xl_s13b_b90k'" in message and "\n" not in message
        assert "'ViT-B-32:openai'" not in message  # trained with another activation than this model runs


def test_a_model_without_a_tag_asks_for_one(hub_home):
    with pytest.raises(UsageError, match=r"'ViT-B-32' is an architecture and names no weights.*'ViT-B-32:laion2b_e16'"):
        resolve_encoder("ViT-B-32")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ViT-B/23", "ViT-B/32"),
        ("RN51", "RN50"),
        ("convnext-base", "convnext_base"),
        ("ViT-B/32:laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
    ],
)
def test_a_misspelt_encoder_is_refused_with_the_nearest(name, near, hub_home):
    with pytest.raises(UsageError, match=rf"unknown image encoder '{name}'\. Did you mean '{near}'\?"):
        resolve_encoder(name)


def test_a_hub_id_that_ends_as_a_models_name_is_no_misspelling(hub_home):
    with pytest.raises(WeightsError, match=r"^timm/ViT-B-16-SigLIP2: .*not found in the cache"):
        resolve_encoder("timm/ViT-B-16-SigLIP2")


ENCODER = ("config.json", "preprocessor_config.json", "model.safetensors")


def test_an_encoder_of_transformers_is_its_folder(hub_home, no_network, tmp_path):
    local = files(tmp_path / "source", *ENCODER, "README.md")
    folder = hub_cache.snapshot(hub_home, "facebook/dinov3-vits16-pretrain-lvd1689m", local)
    assert resolve_encoder("facebook/dinov3-vits16-pretrain-lvd1689m") == folder
    assert resolve_encoder("facebook/dinov3-vits16-pretrain-lvd1689m", hub_cache.REVISION) == folder
    assert fetch("facebook/dinov3-vits16-pretrain-lvd1689m") == folder
    assert resolve_encoder(str(local)) == local
    assert weight_files(folder) == [folder / "model.safetensors"]


def test_what_an_encoder_of_transformers_lacks_is_named(hub_home, tmp_path):
    local = files(tmp_path / "source", "config.json", "model.safetensors")
    hub_cache.snapshot(hub_home, "google/siglip2-base-patch16-224", local)
    with pytest.raises(WeightsError) as caught:
        resolve_encoder("google/siglip2-base-patch16-224")
    message = str(caught.value)
    assert message.startswith("google/siglip2-base-patch16-224: preprocessor_config.json not found in the cache")
    assert "HF_HUB_OFFLINE=1" in message and "'ids': ['google/siglip2-base-patch16-224']" in message
    with pytest.raises(WeightsError, match=r"source': the folder lacks preprocessor_config.json\."):
        resolve_encoder(str(local))
    with pytest.raises(WeightsError, match=r"facebook/dinov3: open_clip_model.* \(CLIP\), or config.json.*not found"):
        resolve_encoder("facebook/dinov3")


def test_an_older_open_clip_file_will_do(hub_home, tmp_path):
    source = files(tmp_path / "source", "open_clip_pytorch_model.bin")
    folder = hub_cache.snapshot(hub_home, "timm/resnet50_clip.openai", source)
    assert resolve_encoder("RN50") == folder / "open_clip_pytorch_model.bin"


def test_the_file_that_the_clip_package_fetched_will_do(hub_home, tmp_path):
    kept = files(tmp_path / ".cache" / "clip", "ViT-B-32.pt") / "ViT-B-32.pt"
    assert resolve_encoder("ViT-B/32") == kept
    with pytest.raises(WeightsError, match="RN50"):
        resolve_encoder("RN50")


def test_local_paths_are_taken_as_they_are(hub_home, tmp_path):
    folder = files(tmp_path / "lm", *LANGUAGE_MODEL)
    assert resolve_language_model(str(folder)) == folder
    assert resolve_language_model("~/lm") == folder
    weights = files(tmp_path, "ViT-B-32.pt") / "ViT-B-32.pt"
    assert resolve_encoder(str(weights)) == weights


def test_a_folder_that_is_no_model_does_not_hide_a_repository(hub_home, tmp_path, monkeypatch):
    monkeypatch.chdir(files(tmp_path / "here", "gpt2-large/captions.tsv"))
    folder = hub_cache.snapshot(hub_home, "gpt2-large", files(tmp_path / "source", *LANGUAGE_MODEL))
    assert resolve_language_model("gpt2-large") == folder


def test_a_language_model_may_be_wanted_without_weights(hub_home, tmp_path):
    folder = hub_cache.snapshot(hub_home, "gpt2", files(tmp_path / "source", "config.json", "vocab.json"))
    assert resolve_language_model("gpt2", weights=False) == folder
    with pytest.raises(WeightsError, match=r"gpt2: model.safetensors or pytorch_model.bin not found"):
        resolve_language_model("gpt2")


def test_a_sentencepiece_model_under_any_usual_name_is_a_tokenizer(hub_home, tmp_path):
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        source = files(tmp_path / name, "config.json", "model.safetensors", name)
        assert resolve_language_model(str(source)) == source
        folder = hub_cache.snapshot(hub_home, f"org/{name}", source)
        assert resolve_language_model(f"org/{name}") == folder


def test_missing_shards_are_named(hub_home, tmp_path):
    source = files(tmp_path / "source", "config.json", "tokenizer.model", "pytorch_model-00001-of-00002.bin")
    shards = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    folder = hub_cache.snapshot(hub_home, "huggyllama/llama-7b", source)
    with pytest.raises(WeightsError, match=r"huggyllama/llama-7b: pytorch_model-00002-of-00002.bin not found"):
        resolve_language_model("huggyllama/llama-7b")
    with pytest.raises(WeightsError, match=r"the folder lacks pytorch_model-00002-of-00002.bin"):
        resolve_language_model(str(source))
    files(folder, "pytorch_model-00002-of-00002.bin")
    assert resolve_language_model("huggyllama/llama-7b") == folder
    assert [path.name for path in weight_files(folder)] == list(shards.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{bad", "not readable JSON: Expecting"),
        ("[]", "holds a list, expected an object"),
        ("{}", "no weight_map, expected names of tensors with the file of each"),
        ('{"weight_map": {"a": 5}}', "no weight_map, expected names of tensors with the file of each"),
    ],
)
def test_an_index_of_shards_that_cannot_be_read_is_named(content, message, tmp_path):
    folder = files(tmp_path / "lm", "config.json", "tokenizer.json")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"^{folder}/model.safetensors.index.json: {message}"):
        resolve_language_model(str(folder))


def test_a_link_to_a_blob_that_is_gone_is_a_missing_file(hub_home, tmp_path):
    folder = hub_cache.snapshot(hub_home, "gpt2", files(tmp_path / "source", *LANGUAGE_MODEL))
    (folder / "model.safetensors").resolve().unlink()
    with pytest.raises(WeightsError, match=r"model.safetensors or pytorch_model.bin not found"):
        resolve_language_model("gpt2")


def test_offline_one_error_tells_all(hub_home, no_network):
    with pytest.raises(WeightsError) as caught:
        resolve_language_model("gpt2-large")
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "gpt2-large: config.json, model.safetensors or pytorch_model.bin, a tokenizer",
        f"not found in the cache {hub_home}",
        f"HF_HOME={hub_home.parent}",
        "HF_HUB_OFFLINE=1",
        "the hub was not asked",
        "gated: unknown",
        "python3 inference.py -p \"{'type': 'prefetch', 'ids': ['gpt2-large']}\"",
    ):
        assert part in message
    with pytest.raises(WeightsError) as caught:
        resolve_encoder("ViT-B/32")
    assert "ViT-B/32 (timm/vit_base_patch32_clip_224.openai): open_clip_model.safetensors" in str(caught.value)
    assert "'ids': ['ViT-B/32']" in str(caught.value)


def test_a_revision_that_is_not_cached_is_not_replaced_by_another(hub_home, tmp_path):
    hub_cache.snapshot(hub_home, "gpt2", files(tmp_path / "source", *LANGUAGE_MODEL))
    with pytest.raises(WeightsError, match="gpt2"):
        resolve_language_model("gpt2", "f" * 40)


def test_paths_that_are_not_there_are_wrong_usage(hub_home, tmp_path):
    with pytest.raises(UsageError, match=r"'/no/such/lm'.*it does not exist"):
        resolve_language_model("/no/such/lm")
    files(tmp_path / "lm", "README.md")
    with pytest.raises(UsageError, match=r"it lacks config.json"):
        resolve_language_model(str(tmp_path / "lm"))
    with pytest.raises(UsageError, match=r"it is a file"):
        resolve_language_model(str(tmp_path / "lm" / "README.md"))
    with pytest.raises(UsageError, match=r"'weights/ViT.pt': no such file"):
        resolve_encoder("weights/ViT.pt")
    with pytest.raises(WeightsError, match=r"lm': the folder lacks open_clip_model.safetensors or"):
        resolve_encoder(str(tmp_path / "lm"))


def test_checkpoints_on_the_hub(hub_home, tmp_path):
    source = files(tmp_path / "source", "config.json", "model.safetensors", "tokenizer/tokenizer.json")
    folder = hub_cache.snapshot(hub_home, "someone/captioner", source)
    assert resolve_captioner("someone/captioner") == folder
    with pytest.raises(WeightsError, match=r"someone/other: config.json, model.safetensors, tokenizer/ not found"):
        resolve_captioner("someone/other")


def test_the_variables_of_the_hubs_client_are_honoured(monkeypatch, tmp_path):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/data/hf")
    assert cache_folder() == Path("/data/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/scratch/cache")
    assert cache_folder() == Path("/scratch/cache")
    for value, offline in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert is_offline() is offline


SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"twice"}
REPOSITORIES = {
    "org/model": {**MODEL, "tokenizer.json": b"{}", "chat_template.jinja": b"hello", "flax_model.msgpack": b"3"},
    "org/encoder": {**MODEL, "preprocessor_config.json": b"{}", "README.md": b"words"},
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": {**MODEL, "tokenizer.json": b"{}", "open_clip_pytorch_model.bin": b"CLIP"},
}
SHA = "89abcdef0123456789abcdef0123456789abcdef"

class Hub(BaseHTTPRequestHandler):
    def answer(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        parts = path.removeprefix("/api/models").split("/")
        repository = "/".join(parts[1:3])
        files = REPOSITORIES.get(repository, {})
        if files and path.startswith("/api/models/") and parts[3:4] == ["tree"]:
            tree = [{"type": "file", "path": name, "size": len(body), "oid": name} for name, body in files.items()]
            return self.answer(json.dumps(tree).encode(), headers=[("Content-Type", "application/json")])
        if files and path.startswith("/api/models/"):
            names = [{"rfilename": name} for name in files]
            info = {"id": repository, "sha": SHA, "siblings": names, "gated": False, "private": False, "tags": []}
            return self.answer(json.dumps(info).encode(), headers=[("Content-Type", "application/json")])
        name = parts[-1]
        if parts[3:4] == ["resolve"] and name in files:
            return self.answer(files[name], headers=[("ETag", f'"{name}"'), ("X-Repo-Commit", SHA)])
        gated = "gated" in path
        error = [("X-Error-Code", "GatedRepo" if gated else "RepoNotFound"), ("X-Error-Message", "no")]
        self.answer(b"{}", 403 if gated else 404, error)

    do_HEAD = do_GET
    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def fake_hub():
    """A hub of three repositories on this machine; gives its address."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


def fetched(names: list[str], home: Path, endpoint: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the job in a process of its own, for the hub's client reads its variables when it is imported."""
    code = (
        "import sys\nfrom git_caption.jobs.prefetch import prefetch\nfrom git_caption.params.prefetch import *\n"
        f"from git_caption.errors import JobFailed\ntry: prefetch(PrefetchParams(ids={tuple(names)!r}))\n"
        "except JobFailed as error: sys.exit(f'error: {error}')"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **variables}
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)


def test_fetching_fills_the_cache_with_what_is_needed_and_no_more(fake_hub, tmp_path, hub_home):
    done = fetched(["org/model", "org/none", "org/gated"], tmp_path / "home", fake_hub)
    folder = hub_home / "models--org--model" / "snapshots" / "89abcdef0123456789abcdef0123456789abcdef"
    lines = done.stdout.splitlines()
    assert lines[0] == f"org/model: {folder}", done.stdout + done.stderr
    assert lines[1].startswith("org/none: not fetched: org/none: ") and "knows no such repository" in lines[1]
    assert "gated: ask for access" in lines[2] and len(lines) == 3
    assert done.stderr.splitlines()[-1] == "error: 2 of 3 ids could not be fetched: org/none, org/gated"
    assert done.returncode == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert resolve_language_model("org/model") == folder  # offline, from the cache


def test_image_encoders_of_either_kind_are_fetched(fake_hub, tmp_path, hub_home):
    done = fetched(["org/encoder", "ViT-B-32:laion2b_s34b_b79k"], tmp_path / "home", fake_hub)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = resolve_encoder("org/encoder")
    assert sorted(path.name for path in folder.iterdir()) == sorted(ENCODER)
    weights = resolve_encoder("ViT-B-32:laion2b_s34b_b79k")
    assert [path.name for path in weights.parent.iterdir()] == ["open_clip_pytorch_model.bin"]
    assert done.stdout.splitlines() == [f"org/encoder: {folder}", f"ViT-B-32:laion2b_s34b_b79k: {weights}"]


def test_a_hub_that_cannot_be_reached_is_given_up_in_seconds(tmp_path):
    start = time.monotonic()
    with socket.socket() as closed:  # bound and not listening: every connection is refused
        closed.bind(("127.0.0.1", 0))
        done = fetched(["gpt2-large"], tmp_path / "home", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert done.returncode == 1
    assert "the hub could not be reached (ConnectError" in done.stdout, done.stdout + done.stderr
    assert time.monotonic() - start < 60  # on a busy machine most of it is importing torch
