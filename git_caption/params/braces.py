"""Values as JSON and Python spell them, read by one grammar that takes what either of the two takes."""

from __future__ import annotations

import math
import re
from typing import Any

DEEPEST = 50
"""Levels of nesting taken."""
LONGEST_NUMBER = 400
LONGEST_MESSAGE = 200

WORDS = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
CLOSER = {"{": "}", "[": "]", "(": ")"}

# A backslash before white space is a continued line that a shell or a paste has left in the text.
SPACE = re.compile(r"(?:\s|\\(?=\s|\Z)|#[^\n]*)*")
QUOTED = {
    quote: re.compile(rf"{quote}([^{quote}\\\r\n]*(?:\\(?:\r\n|.)[^{quote}\\\r\n]*)*){quote}", re.DOTALL)
    for quote in "'\""
}
NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
BARE = re.compile(r"[^\s,:{}\[\]()'\"#\\]+")
END_OF_SCALAR = re.compile(r"[\s,:}\])#\\]|\Z")
ESCAPE = re.compile(
    r"\\(\r\n|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{1,3}|.)",
    re.DOTALL,
)
ESCAPES = {
    **{"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v"},
    **{"\\": "\\", "'": "'", '"': '"', "/": "/", "\n": "", "\r\n": "", "\r": ""},
}
SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
HALF = re.compile("[\ud800-\udfff]")


class SpellingFault(Exception):
    """The text is not in the spelling that was tried.

    Args:
        position: index of the character concerned.
        message: one line without the position.
        maybe_yaml: the character is one that YAML has a meaning for.
        certain: no other spelling can help.
    """

    def __init__(self, position: int, message: str, *, maybe_yaml: bool = False, certain: bool = False) -> None:
        super().__init__(message)
        self.position = position
        self.message = message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + "..."
        self.maybe_yaml = maybe_yaml
        self.certain = certain


def parse(text: str) -> Any:
    """The value that `text` spells, as dicts, lists, texts, numbers, booleans and None.

    Raises:
        SpellingFault: the text is not in this spelling.
    """
    reader = _Reader(text)
    value = reader.value(depth=1)
    reader.space()
    if reader.at < len(text):
        raise SpellingFault(reader.at, f"expected the end, found {reader.shown()}", maybe_yaml=True)
    return value


def whole(text: str, position: int) -> str:
    """`text` with surrogate pairs joined.

    Raises:
        SpellingFault: half of a pair stands alone, as from an argument that is not UTF-8.
    """
    joined = SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    if HALF.search(joined):
        raise SpellingFault(position, "the text holds a character that is not valid UTF-8", certain=True)
    return joined


def too_deep(position: int) -> SpellingFault:
    """The fault of nesting past the bound."""
    return SpellingFault(position, f"nested deeper than {DEEPEST} levels", certain=True)


def twice(key: str, position: int) -> SpellingFault:
    """The fault of a key given twice."""
    return SpellingFault(position, f"key {key!r} is given twice", certain=True)


class _Reader:
    """A position in a text, and what is read from there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def space(self) -> str:
        """Skip white space, comments and continued lines; the next character, empty at the end."""
        found = SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def shown(self) -> str:
        """What stands at the position, for a message."""
        if self.at >= len(self.text):
            return "the end"
        word = BARE.match(self.text, self.at)
        text = QUOTED.get(self.text[self.at], BARE).match(self.text, self.at)
        return text[0][:40] if text and not word else repr(word[0][:40] if word else self.text[self.at])

    def value(self, depth: int) -> Any:
        start, first = self.at, self.space()
        start = self.at
        if depth > DEEPEST:
            raise too_deep(start)
        if first == "{":
            return self.dict(depth)
        if first in ("[", "("):
            items, comma = self.list(CLOSER[first], depth)
            # In Python, round brackets make a tuple only with a comma.
            return items[0] if first == "(" and len(items) == 1 and not comma else items
        if first in ("'", '"'):
            return self.quoted(first)
        return self.scalar()

    def dict(self, depth: int) -> dict[str, Any]:
        opened = self.at
        self.at += 1
        result: dict[str, Any] = {}
        while True:
            first = self.space()
            if first == "}":
                self.at += 1
                return result
            start = self.at
            if not first:
                raise self.unclosed(opened)
            if first not in ("'", '"'):
                raise SpellingFault(start, f"expected a key in quotes, found {self.shown()}", maybe_yaml=first != ",")
            key = self.quoted(first)
            if key in result:
                raise twice(key, start)
            if self.space() != ":":
                raise SpellingFault(self.at, f"expected ':' after the key {key!r}, found {self.shown()}")
            self.at += 1
            if not self.space():
                raise self.unclosed(opened)
            result[key] = self.value(depth + 1)
            self.separator(opened)

    def list(self, closer: str, depth: int) -> tuple[list[Any], bool]:
        """The items, and whether a comma follows the last."""
        opened = self.at
        self.at += 1
        items: list[Any] = []
        comma = False
        while True:
            first = self.space()
            if first == closer:
                self.at += 1
                return items, comma
            if not first:
                raise self.unclosed(opened)
            items.append(self.value(depth + 1))
            comma = self.separator(opened)

    def separator(self, opened: int) -> bool:
        """Take the comma after an item, where one follows; whether it did."""
        first = self.space()
        if first == ",":
            self.at += 1
            return True
        closer = CLOSER[self.text[opened]]
        if first == closer:
            return False
        if not first:
            raise self.unclosed(opened)
        raise SpellingFault(self.at, f"expected ',' or '{closer}', found {self.shown()}")

    def unclosed(self, opened: int) -> SpellingFault:
        return SpellingFault(opened, f"this '{self.text[opened]}' is not closed by a '{CLOSER[self.text[opened]]}'")

    def quoted(self, quote: str) -> str:
        start = self.at
        found = QUOTED[quote].match(self.text, start)
        if not found:
            raise SpellingFault(start, f"the text that begins here is not closed by a {quote}")
        self.at = found.end()
        if not END_OF_SCALAR.match(self.text, self.at):
            # Two quotes side by side are one quote in YAML, and two texts joined in Python.
            message = f"expected ',' or a closing bracket after the text, found {self.shown()}"
            raise SpellingFault(self.at, message, maybe_yaml=self.text[self.at] == quote)

        def unescape(escape: re.Match[str]) -> str:
            body = escape[1]
            if body in ESCAPES:
                return ESCAPES[body]
            if body[0] in "01234567":
                return chr(int(body, 8))
            if body in ("x", "u", "U", "N") or (len(body) == 9 and int(body[1:], 16) > 0x10FFFF):
                raise SpellingFault(start + 1 + escape.start(), rf"'\{body}' is no escape; for a backslash write '\\'")
            # An escape that Python does not know stays as it is.
            return chr(int(body[1:], 16)) if len(body) > 1 else "\\" + body

        return whole(ESCAPE.sub(unescape, found[1]), start)

    def scalar(self) -> Any:
        """A number, or one of the words that stand without quotes."""
        start = self.at
        found = NUMBER.match(self.text, start)
        if found and END_OF_SCALAR.match(self.text, found.end()):
            self.at = found.end()
            return number(found[0], start)
        word = BARE.match(self.text, start)
        if word and word[0] in WORDS and END_OF_SCALAR.match(self.text, word.end()):
            self.at = word.end()
            return WORDS[word[0]]
        raise SpellingFault(start, f"expected a value, found {self.shown()}", maybe_yaml=word is not None)


def number(text: str, position: int) -> int | float:
    """The number that `text` spells.

    Raises:
        SpellingFault: it has too many digits, or is too large for a float.
    """
    if len(text) > LONGEST_NUMBER:
        raise SpellingFault(position, f"a number of {len(text)} characters; at most {LONGEST_NUMBER}", certain=True)
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise SpellingFault(position, f"the number {text} is too large", certain=True)
    return value
