"""VQAv2: questions about COCO's images, and the ten answers that people gave to each.

    v2_OpenEnded_mscoco_val2014_questions.json   {"questions": [{"image_id", "question", "question_id"}]}
    v2_mscoco_val2014_annotations.json           {"annotations": [{"question_id", "image_id", "question_type",
                                                 "answer_type", "multiple_choice_answer", "answers": [{"answer",
                                                 "answer_confidence", "answer_id"}]}]}; none of the test splits
    val2014/COCO_val2014_000000262148.jpg        those of test-dev2015 are in test2015/

The files lie together or in `questions/`, `annotations/`, `Questions/`, `Annotations/`; the images beside them, or in
`images/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from git_caption.errors import DataError, UsageError
from git_caption.samples import table
from git_caption.samples.packed import PackedTexts
from git_caption.samples.splits import choose
from git_caption.samples.training_data import Column, Texts, read_image
from git_caption.tsv.rows import dumps, parse_question_row

QUESTIONS = "v2_OpenEnded_mscoco_{}_questions.json"
ANNOTATIONS = "v2_mscoco_{}_annotations.json"
FOLDERS = ("", "questions", "annotations", "Questions", "Annotations")
SAME_IMAGES = {"test-dev2015": "test2015"}
KEPT = ("answer_type", "answers", "multiple_choice_answer", "question_type")  # of an annotation


class VqaV2:
    """A split of VQAv2, one row an image, in the order of the questions: fulfils `TrainingData`.

    Memory: the UTF-8 of questions and answers, some 32 bytes an image; while the files are read, some ten times those.
    Raises UsageError if the split is not there, DataError if a file is not as above.
    """

    missing = 0
    has_captions = False
    has_questions = True

    def __init__(self, folder: Path, split: str | None = None) -> None:
        name = QUESTIONS.format("*")
        before, after = name.split("*")
        found = {
            path.name.removeprefix(before).removesuffix(after): path
            for inside in FOLDERS
            for path in sorted((folder / inside).glob(name))
        }
        if not found:
            raise UsageError(f"{folder}: no questions of VQAv2 in it, expected {QUESTIONS.format('train2014')}")
        self.split = choose(found, split, str(folder))
        self.kind = f"VQAv2, split {self.split}"
        self.questions = found[self.split]
        annotations = [
            path for inside in FOLDERS if (path := folder / inside / ANNOTATIONS.format(self.split)).is_file()
        ]
        self.annotations = annotations[0] if annotations else None
        part = SAME_IMAGES.get(self.split, self.split)
        self.folders = (folder / part, folder / "images" / part, folder / "images", folder)
        self.pattern = f"COCO_{part}_{{:012}}"
        self._keys, self._entries = PackedTexts(), PackedTexts()
        self._read()

    def _read(self) -> None:
        answers = None if self.annotations is None else _by_question(self.annotations)
        rows: dict[str, list[dict[str, Any]]] = {}
        for number, question in enumerate(_listed(self.questions, "questions"), 1):
            if not _is_of(question, "image_id", "question"):
                raise DataError(
                    f'{self.questions}, question {number}: expected an object with "image_id", "question" and '
                    '"question_id"'
                )
            entry = {name: question[name] for name in ("question", "question_id")}
            if answers is not None:
                entry |= answers.pop(question["question_id"], {})
            rows.setdefault(str(question["image_id"]), []).append(entry)
        if not rows:
            raise DataError(f"{self.questions}: no question in it")
        for key, entries in rows.items():
            self._keys.append(key)
            self._entries.append(dumps(entries))

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file of questions and, where there is one, that of answers."""
        return (self.questions,) if self.annotations is None else (self.questions, self.annotations)

    @property
    def has_answers(self) -> bool:
        """Whether there are annotations: of the test splits there are none."""
        return self.annotations is not None

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, row: int) -> str:
        """The number of the image."""
        return self._keys[row]

    def column(self, row: int, column: Column) -> str | None:
        """The questions as a question TSV has them, with all that is known of their answers.

        Raises DataError if one is broken, or lacks its answers where others have them.
        """
        if column != "questions":
            return None
        entries = self._entries[row]
        asked = parse_question_row((self.key(row), entries), self.where(row)).questions
        lacking = [question.question_id for question in asked if self.has_answers and not question.answers]
        if lacking:
            raise DataError(f"{self.where(row)}: question {lacking[0]} has no answers")
        return entries

    def texts(self, row: int) -> Texts:
        """The questions with their answers. Raises DataError as `column`."""
        asked = parse_question_row((self.key(row), self.column(row, "questions") or "[]"), self.where(row))
        return Texts(self.key(row), (), asked.questions)

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image` does."""
        key = self.key(row)
        number = int(key) if key.isdecimal() else 0
        names = (self.pattern.format(number), f"{number:012}")  # the second in 2017
        return read_image([folder / f"{name}.jpg" for folder in self.folders for name in names], self.where(row))

    def where(self, row: int) -> str:
        """File and image."""
        return f"{self.questions}, image {self.key(row)}"


def _by_question(path: Path) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for number, annotation in enumerate(_listed(path, "annotations"), 1):
        if not _is_of(annotation, "answers"):
            raise DataError(f'{path}, annotation {number}: expected an object with "question_id" and "answers"')
        found[annotation["question_id"]] = {name: annotation[name] for name in KEPT if name in annotation}
    return found


def _is_of(entry: Any, *names: str) -> bool:
    """Whether an entry is of a question, and has these keys."""
    return isinstance(entry, dict) and entry.keys() >= set(names) and isinstance(entry.get("question_id"), int | str)


def _listed(path: Path, name: str) -> list[Any]:
    document = table.load_json(path)
    listed = document.get(name) if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise DataError(f"{path}: expected an object with a list {name!r}")
    return listed
