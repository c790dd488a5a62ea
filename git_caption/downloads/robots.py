"""The header X-Robots-Tag: whether it asks that an image be left out.

    X-Robots-Tag: noai, noimageai
    X-Robots-Tag: otherbot: noindex, nofollow

A directive after the name of a robot is for that robot. Forms: developers.google.com/search/docs/crawling-indexing.
"""

from __future__ import annotations

from collections.abc import Iterable

FORBIDDING = ("noai", "noimageai", "noindex", "noimageindex", "none")
WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def forbidden(headers: Iterable[str], user_agent: str) -> bool:
    """Whether one of the headers says so, to all robots or to the one whose user agent this is."""
    own = user_agent.split("/")[0].strip().lower()
    for header in headers:
        applies = True
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in WITH_VALUE:
                applies = name.strip() in ("*", own)
                part = rest
            if applies and part.strip() in FORBIDDING:
                return True
    return False
