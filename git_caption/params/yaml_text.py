"""Values as YAML spells them: flow and block style, the plain scalars of YAML 1.2, no tags, no aliases."""

from __future__ import annotations

import re
from typing import Any

from git_caption.params.braces import DEEPEST, SpellingFault, number, too_deep, twice, whole

WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# What PyYAML writes for numbers and no more, so that a text it leaves without quotes, such as 1e-4, stays text here;
# the type of the parameter then decides.
NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d*)(?:\.\d*(?:[eE][-+]\d+)?)?|\.\d+(?:[eE][-+]\d+)?", re.ASCII)

# A quoted text, or a backslash before white space outside of one.
CONTINUED = re.compile(
    r"""(?<![^\s,:\[{(])(?:"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*(?:''[^']*)*')|\\(?=\s)""",
    re.DOTALL,
)
LINE_END = re.compile(r"[ \t]*\r?\n")


def parse(text: str) -> Any:
    """The value that `text` spells, as dicts, lists, texts, numbers, booleans and None.

    Raises:
        SpellingFault: the text is not YAML, or has what is not taken: tags, anchors, aliases, several documents, keys
            that are not text or are given twice.
    """
    import yaml  # costs more to import than all other spellings take to read

    builder = _Builder()
    try:
        for event in yaml.parse(_without_continuations(text), Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.reader.ReaderError as error:
        raise SpellingFault(error.position, f"the character U+{error.character:04X} must be escaped") from error
    except yaml.MarkedYAMLError as error:
        raise _translated(error) from error
    if not builder.done:
        raise SpellingFault(0, "expected a value, found nothing")
    return builder.done[0]


class _Builder:
    """Puts the values together from the events of PyYAML's parser, which resolves nothing by itself."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.open: list[dict[str, Any] | list[Any]] = []
        self.keys: list[str | None] = []
        self.key_end = 0

    def take(self, event: Any) -> None:
        name = type(event).__name__
        start = event.start_mark.index
        if name == "AliasEvent" or getattr(event, "anchor", None) is not None:
            raise SpellingFault(start, "YAML anchors and aliases are not taken; put the text in quotes", certain=True)
        if getattr(event, "tag", None) is not None:
            raise SpellingFault(start, "YAML tags are not taken; put the text in quotes", certain=True)
        if name == "DocumentStartEvent" and self.done:
            raise SpellingFault(start, "expected one YAML document, found a second", certain=True)
        if name == "ScalarEvent":
            self.scalar(event, start)
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            if self._expects_key():
                raise SpellingFault(start, "expected a text as key, found a list or dict", certain=True)
            if len(self.open) >= DEEPEST:
                raise too_deep(start)
            self.open.append({} if name == "MappingStartEvent" else [])
            self.keys.append(None)
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            self.keys.pop()
            self.add(self.open.pop())

    def scalar(self, event: Any, start: int) -> None:
        plain = event.style is None
        if not self._expects_key():
            key = self.keys[-1] if self.keys else None
            if plain and not event.value and key is not None and start == self.key_end:
                raise SpellingFault(start, f"{key!r} has no value; write a colon and a space after a key", certain=True)
            self.add(resolve(event.value, start) if plain else whole(event.value, start))
            return
        value = resolve(event.value, start) if plain else whole(event.value, start)
        if type(value) is int:
            value = event.value  # the number of a GPU, as in {0: 10GiB, cpu: 30GiB}
        if not isinstance(value, str):
            raise SpellingFault(start, f"expected a text as key, found {event.value or 'nothing'}", certain=True)
        if value in self.open[-1]:
            raise twice(value, start)
        self.keys[-1] = value
        self.key_end = event.end_mark.index

    def add(self, value: Any) -> None:
        if not self.open:
            self.done.append(value)
            return
        container = self.open[-1]
        if isinstance(container, list):
            container.append(value)
        else:
            key = self.keys[-1]
            assert key is not None, "PyYAML gives a key before its value"
            container[key] = value
            self.keys[-1] = None

    def _expects_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1], dict) and self.keys[-1] is None


def resolve(text: str, position: int) -> Any:
    """The value of a scalar without quotes."""
    if text in WORDS:
        return WORDS[text]
    return number(text, position) if NUMBER.fullmatch(text) else whole(text, position)


def _without_continuations(text: str) -> str:
    """Backslashes that continue a line of flow style replaced by a space, so that positions stay.

    One is taken for a continuation only where no text without quotes can go on: after a comma or an opening bracket,
    and at the end of a line also after a colon or quote and before a closing bracket or comma.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return text

    def blank(found: re.Match[str]) -> str:
        if found[0] != "\\":
            return found[0]
        before, after = text[: found.start()].rstrip()[-1:], text[found.end() :].lstrip()[:1]
        at_end = LINE_END.match(text, found.end()) and (before in ":'\"}])" or (after and after in "}],"))
        return " " if before in "{[," or at_end else "\\"

    return CONTINUED.sub(blank, text)


def _translated(error: Any) -> SpellingFault:
    """PyYAML's error as a fault, with an opening bracket that is never closed told as such."""
    context, problem = error.context or "", error.problem or "not YAML"
    mark = error.problem_mark or error.context_mark
    position = mark.index if mark else 0
    if "flow" in context and "<stream end>" in problem and error.context_mark:
        opener, closer = ("{", "}") if "mapping" in context else ("[", "]")
        return SpellingFault(error.context_mark.index, f"this '{opener}' is not closed by a '{closer}'")
    if "quoted scalar" in context and "end of stream" in problem and error.context_mark:
        return SpellingFault(error.context_mark.index, "the text that begins here is not closed by its quote")
    advice = "; put texts in quotes" if "flow" in context else ""
    return SpellingFault(position, problem.replace("'<document start>', but", "the end, but") + advice)
