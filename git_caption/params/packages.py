"""Packages that a key may ask for and that may not be installed."""

from __future__ import annotations

from importlib.util import find_spec

PARQUET = ".parquet"
PYARROW = "Parquet files need a package that is not installed: pip install pyarrow"


def missing_for(path: str | None) -> str | None:
    """What is lacking to read or write a file of that name; None where nothing is."""
    if path is not None and path.endswith(PARQUET) and find_spec("pyarrow") is None:
        return PYARROW
    return None
