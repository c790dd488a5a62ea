"""Pins the image that container.def and Dockerfile start from: `python3 requirements/pin_base.py debian:bookworm-slim`.

The registry is asked for the image's manifest, and the digest is that of the bytes that it gave. Only then is anything
written.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"container.def": r"(?m)^(    from=).*$", "Dockerfile": r"(?m)^(ARG FROM=).*$"}
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
SECONDS = 30.0


def digest_of(image: str) -> str:
    """The digest that a registry has for `image`, as `debian:bookworm-slim` or `ghcr.io/owner/name:tag`.

    Raises OSError where the registry cannot be asked, ValueError where its answer is no manifest or not what it says.
    """
    if "@" in image:
        raise ValueError("expected a tag, as debian:bookworm-slim; this names a digest already")
    name, tag = split(image)
    registry, repository = located(name)
    scheme = "http" if registry.startswith("localhost") else "https"
    url = f"{scheme}://{registry}/v2/{repository}/manifests/{tag}"
    try:
        body, told = _asked(url, {})
    except HTTPError as error:
        challenge = dict(re.findall(r'(\w+)="([^"]*)"', error.headers.get("WWW-Authenticate", "")))
        if error.code != 401 or "realm" not in challenge:
            raise
        query = urlencode({name: challenge[name] for name in ("service", "scope") if name in challenge})
        answer = json.loads(_asked(f"{challenge['realm']}?{query}", {})[0])
        body, told = _asked(url, {"Authorization": f"Bearer {answer.get('token') or answer['access_token']}"})
    if b'"schemaVersion"' not in body:  # as the page of a proxy that wants a password
        raise ValueError(f"{url}: what came is no manifest")
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    if told not in (None, digest):
        raise ValueError(f"{url}: the registry says {told}, and what it gave has {digest}")
    return digest


def split(image: str) -> tuple[str, str]:
    """Name and tag; `latest` where none is given."""
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "latest")


def located(name: str) -> tuple[str, str]:
    """Registry and repository of an image's name; without a registry it is Docker Hub's."""
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return ("registry-1.docker.io" if first == "docker.io" else first), _official(first, rest)
    return "registry-1.docker.io", _official("docker.io", name)


def _official(registry: str, repository: str) -> str:
    return f"library/{repository}" if registry == "docker.io" and "/" not in repository else repository


def _asked(url: str, headers: dict[str, str]) -> tuple[bytes, str | None]:
    request = Request(url, headers={"Accept": ", ".join(MANIFESTS), **headers})
    with urlopen(request, timeout=SECONDS) as answer:
        return answer.read(), answer.headers.get("Docker-Content-Digest")


def pin(image: str, root: Path = ROOT) -> str:
    """Writes `NAME@DIGEST` into both files; gives it."""
    pinned = f"{split(image)[0]}@{digest_of(image)}"
    texts = {root / name: (root / name).read_text(encoding="utf-8") for name in PLACES}
    for path, text in texts.items():
        path.write_text(re.sub(PLACES[path.name], rf"\g<1>{pinned}", text), encoding="utf-8")
    return pinned


if __name__ == "__main__":
    try:
        print(f"container.def and Dockerfile start from {pin(sys.argv[1])}, which is {sys.argv[1]} now")
    except (URLError, OSError, ValueError) as error:
        sys.exit(f"error: {sys.argv[1]} was not resolved, and nothing was changed: {error}")
