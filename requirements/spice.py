"""Puts the models of SPICE beside its jar: `python3 requirements/spice.py URL FOLDER`.

URL is Stanford's archive of CoreNLP 3.6.0, stanford-corenlp-full-2015-12-09.zip, on the web or on the disk (file:///...).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from urllib.request import urlopen

JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def fetch(url: str, folder: Path) -> None:
    """Unpack the two jars that SPICE loads; nothing else of the archive is kept."""
    with tempfile.TemporaryFile() as archive:
        with urlopen(url) as answer:
            shutil.copyfileobj(answer, archive)
        with zipfile.ZipFile(archive) as content:
            names = {Path(name).name: name for name in content.namelist()}
            if missing := [jar for jar in JARS if jar not in names]:
                raise SystemExit(f"error: {url} has no {' and no '.join(missing)}; expected CoreNLP 3.6.0")
            for jar in JARS:
                with content.open(names[jar]) as source, (folder / jar).open("wb") as target:
                    shutil.copyfileobj(source, target)


if __name__ == "__main__":
    fetch(sys.argv[1], Path(sys.argv[2]))
