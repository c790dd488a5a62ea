"""JSON files that describe weights: configs, indexes, settings of tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from git_caption.errors import WeightsError


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        WeightsError: the file is not there, is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content
