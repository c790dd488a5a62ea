"""Typed rows: image, caption and question TSVs, and the lines that captioning and answering write.

Each kind of row has `parse_…(columns, where)`, which takes the columns of a line and the `path:row` that messages name,
and `columns()`, which gives the line back in this project's spelling of JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from git_caption.errors import DataError

# Made once: json.dumps makes one a call, which takes as long as what it is for.
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def dumps(value: Any) -> str:
    """JSON as it stands in TSV files: sorted keys, separators `,` and `:`, ASCII-escaped. NaN raises ValueError."""
    return ENCODER.encode(value)


@dataclass(frozen=True)
class Question:
    """A question on an image. The id is an int or a text, as it stands in the file; `answers` are the known ones."""

    question_id: int | str
    question: str
    answers: tuple[str, ...] = ()

    def entry(self) -> dict[str, Any]:
        """The question as it stands in its row's list; answers only where there are any, as `{"answer": text}`."""
        answers = {"answers": [{"answer": answer} for answer in self.answers]} if self.answers else {}
        return {"question_id": self.question_id, "question": self.question, **answers}


@dataclass(frozen=True)
class ImageRow:
    """A key and the bytes of an image file."""

    key: str
    image: bytes

    def columns(self) -> list[str]:
        """The row as columns."""
        return [self.key, base64.b64encode(self.image).decode("ascii")]


@dataclass(frozen=True)
class CaptionRow:
    """A key and the captions of its image, best first where they are a model's."""

    key: str
    captions: tuple[str, ...]

    def columns(self) -> list[str]:
        """The row as columns."""
        return [self.key, dumps([{"caption": caption} for caption in self.captions])]


@dataclass(frozen=True)
class QuestionRow:
    """A key and the questions on its image."""

    key: str
    questions: tuple[Question, ...]

    def columns(self) -> list[str]:
        """The row as columns."""
        return [self.key, dumps([question.entry() for question in self.questions])]


@dataclass(frozen=True)
class Answer:
    """The answer to one question: a line of one column in the output of answering."""

    question_id: int | str
    answer: str

    def columns(self) -> list[str]:
        """The row as columns."""
        return [dumps({"answer": self.answer, "question_id": self.question_id})]


def parse_image_row(columns: Sequence[str], where: str) -> ImageRow:
    """Key and image bytes. Raises DataError on another number of columns, or where the second is not base64."""
    key, text = _two(columns, where, "a key and a base64 image")
    try:
        return ImageRow(key, base64.b64decode(text, validate=True))
    except ValueError as error:  # binascii.Error, or characters outside ASCII
        cause = str(error) if isinstance(error, binascii.Error) else "characters outside ASCII"
        raise DataError(
            f"{where}: column 2 is not base64 ({cause}; it begins {text[:20]!r}), expected a base64 image"
        ) from error


def parse_caption_row(columns: Sequence[str], where: str) -> CaptionRow:
    """Key and captions; further keys in the JSON (scores) are let pass. Raises DataError on anything else."""
    key, text = _two(columns, where, "a key and captions in JSON")
    expected = 'a list of {"caption": text}'
    captions = []
    for entry in _entries(text, where, expected):
        if not isinstance(entry.get("caption"), str):
            raise DataError(f"{where}: column 2 holds {_short(entry)}, expected {expected}")
        captions.append(entry["caption"])
    return CaptionRow(key, tuple(captions))


def parse_question_row(columns: Sequence[str], where: str) -> QuestionRow:
    """Key and questions; further keys in the JSON are let pass. Raises DataError on anything else."""
    key, text = _two(columns, where, "a key and questions in JSON")
    expected = 'a list of {"question_id": number or text, "question": text}'
    questions = []
    for entry in _entries(text, where, expected):
        question_id, question = entry.get("question_id"), entry.get("question")
        if isinstance(question_id, bool) or not isinstance(question_id, int | str) or not isinstance(question, str):
            raise DataError(f"{where}: column 2 holds {_short(entry)}, expected {expected}")
        questions.append(Question(question_id, question, _answers(entry.get("answers", []), where)))
    return QuestionRow(key, tuple(questions))


def parse_answer_row(columns: Sequence[str], where: str) -> Answer:
    """An answer and its question's id. Raises DataError on anything but one column with that JSON object."""
    expected = 'one column with {"answer": text, "question_id": number or text}'
    if len(columns) != 1:
        raise DataError(f"{where}: found {len(columns)} columns, expected {expected}")
    entry = _json(columns[0], where, 1, expected)
    question_id = entry.get("question_id") if isinstance(entry, dict) else None
    answer = entry.get("answer") if isinstance(entry, dict) else None
    if isinstance(question_id, bool) or not isinstance(question_id, int | str) or not isinstance(answer, str):
        raise DataError(f"{where}: column 1 holds {_short(entry)}, expected {expected}")
    return Answer(question_id, answer)


def _answers(value: Any, where: str) -> tuple[str, ...]:
    expected = 'a list of {"answer": text} under "answers"'
    known = isinstance(value, list) and all(isinstance(a, dict) and isinstance(a.get("answer"), str) for a in value)
    if not known:
        raise DataError(f"{where}: column 2 holds {_short(value)}, expected {expected}")
    return tuple(answer["answer"] for answer in value)


def _two(columns: Sequence[str], where: str, meaning: str) -> Sequence[str]:
    if len(columns) != 2:
        raise DataError(f"{where}: found {len(columns)} columns, expected 2 parted by one tab: {meaning}")
    return columns


def _json(text: str, where: str, column: int, expected: str) -> Any:
    try:
        value = json.loads(text)
        if "\\u" in text:  # escapes can spell what is no text, and tokenizers fail on it
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise DataError(
            f"{where}: column {column} holds {half!r}, half of a character, expected Unicode text"
        ) from error
    except (ValueError, RecursionError) as error:
        cause = str(error) if isinstance(error, ValueError) else "nested too deep"
        raise DataError(
            f"{where}: column {column} is not JSON ({cause}; it begins {text[:20]!r}), expected {expected}"
        ) from error


def _entries(text: str, where: str, expected: str) -> list[dict[str, Any]]:
    value = _json(text, where, 2, expected)
    if not isinstance(value, list):
        raise DataError(f"{where}: column 2 holds {_short(value)}, expected {expected}")
    for entry in value:
        if not isinstance(entry, dict):
            raise DataError(f"{where}: column 2 holds {_short(entry)} in its list, expected {expected}")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
