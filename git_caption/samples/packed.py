"""Many texts in one block of memory."""

from __future__ import annotations

from array import array


class PackedTexts:
    """A list of texts that grows at its end: 8 bytes each beside their UTF-8, where Python's own takes some 60.

    Half characters (lone surrogates), as JSON can spell them and broken UTF-8 is decoded to, come back as they were.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def append(self, text: str) -> None:
        """Adds a text at the end."""
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        begin = self._ends[number - 1] if number else 0
        return self._bytes[begin : self._ends[number]].decode("utf-8", "surrogatepass")
