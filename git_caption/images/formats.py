"""What kind of image file some bytes are."""

from __future__ import annotations

BEGINNINGS = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"BM": "bmp",
}


def image_format(data: bytes) -> str | None:
    """The usual extension of the file, by its first bytes; None for what is none of the common formats."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((name for begin, name in BEGINNINGS.items() if data.startswith(begin)), None)
