"""VQA and VQA v2: questions about COCO images, each with the answers of ten people, in the files of visualqa.org.

    v2_OpenEnded_mscoco_train2014_questions.json   {"questions": [{"question_id", "image_id", "question"}]}
    v2_mscoco_train2014_annotations.json           {"annotations": [{"question_id", "answers": [{"answer"}]}]}

The two lie beside each other, or in `Questions/` and `Annotations/`. Images lie in the folder of the split's name
(`train2014/`), under the folder that holds these or in its `images/`, named as COCO has them in 2014 or 2017.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from git_caption.errors import DataError, UsageError
from git_caption.samples.packed import PackedTexts
from git_caption.samples.training_data import Texts, read_image
from git_caption.tsv.rows import dumps, parse_question_row

FILES = "*OpenEnded_mscoco_*_questions.json"
SPLIT = re.compile(r"_mscoco_([\w-]+?)_(?:questions|annotations)$")
FOLDERS = ("annotations", "Annotations", "questions", "Questions")  # where the two files may lie
YEAR_2017 = ("train2017", "val2017")  # of the same images; which of the two has one is not that of 2014


def is_questions(document: Any) -> bool:
    """Whether a JSON document is a file of questions."""
    return isinstance(document, dict) and isinstance(document.get("questions"), list)


def is_answers(document: Any) -> bool:
    """Whether a JSON document is a file of answers, which has no list of images."""
    return isinstance(document, dict) and isinstance(document.get("annotations"), list) and "images" not in document


def answers_of(questions: Path) -> Path:
    """The file of the answers to a file of questions. Raises UsageError if it is not there."""
    name = _answers_name(questions.name)
    places = [questions.with_name(name), *(questions.parent.parent / folder / name for folder in FOLDERS)]
    if (found := next((place for place in places if place.is_file()), None)) is None:
        raise UsageError(f"{questions}: no answers beside it to train on, expected {name}")
    return found


def questions_of(answers: Path) -> Path:
    """The file of the questions to a file of answers. Raises UsageError if it is not there."""
    places = [answers.parent, *(answers.parent.parent / folder for folder in FOLDERS)]
    for place in places:
        for found in sorted(place.glob("*questions.json")):
            if _answers_name(found.name) == answers.name:
                return found
    raise UsageError(f"{answers}: answers without questions; expected a file *questions.json beside it")


class VqaQuestions:
    """Questions with answers, a row for each image, in the order of their first questions; fulfils `TrainingData`.

    Memory: of each row the questions as a question TSV has them, some 20 bytes an answer.
    """

    kind = "VQA questions and answers"
    missing = 0

    def __init__(self, questions: Path, asked: dict[str, Any], answers: Path, answered: dict[str, Any]) -> None:
        """Join the documents of the two files.

        Raises DataError if there is no question, or one that names no image.
        """
        self.inputs: tuple[Path, ...] = (questions, answers)
        known = {entry["question_id"]: entry.get("answers") for entry in answered["annotations"] if _has_id(entry)}
        rows: dict[int, list[dict[str, Any]]] = {}
        for number, entry in enumerate(asked["questions"], 1):
            if not _has_id(entry) or type(entry.get("image_id")) is not int:
                raise DataError(
                    f"{questions}, question {number}: found {json.dumps(entry)[:80]}, expected an object with "
                    '"question_id" and, a number, "image_id"'
                )
            own = {"question_id": entry["question_id"], "question": entry.get("question")}
            rows.setdefault(entry["image_id"], []).append({**own, "answers": known.get(own["question_id"]) or []})
        if not rows:
            raise DataError(f"{questions}: no question in it")
        split = asked.get("data_subtype") or _split(questions)
        root = questions.parent.parent if questions.parent.name in FOLDERS else questions.parent
        self._folders = [root / folder for folder in (split, f"images/{split}", f"Images/mscoco/{split}", "images", "")]
        self._of_2017 = [root / folder for part in YEAR_2017 for folder in (part, f"images/{part}")]
        self._split = split
        self._images = list(rows)
        self._rows = PackedTexts()
        for entries in rows.values():
            self._rows.append(
                dumps([{**entry, "answers": [_answer(answer) for answer in entry["answers"]]} for entry in entries])
            )

    def __len__(self) -> int:
        return len(self._images)

    def key(self, row: int) -> str:
        """The number of the image."""
        return str(self._images[row])

    def texts(self, row: int) -> Texts:
        """Key and questions. Raises DataError if one is broken or has no answer."""
        key = self.key(row)
        questions = parse_question_row([key, self._rows[row]], self.where(row)).questions
        for question in questions:
            if not question.answers:
                raise DataError(
                    f"{self.where(row)}: question {question.question_id} has no answers in {self.inputs[1]}"
                )
        return Texts(key, (), questions)

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image` does."""
        number = self._images[row]
        of_2014 = [folder / f"COCO_{self._split}_{number:012}.jpg" for folder in self._folders]
        of_2017 = [folder / f"{number:012}.jpg" for folder in self._of_2017]
        return read_image([*of_2014, *of_2017], self.where(row))

    def where(self, row: int) -> str:
        """File and image."""
        return f"{self.inputs[0]}, image {self._images[row]}"


def _answers_name(questions: str) -> str:
    return re.sub("(OpenEnded|MultipleChoice)_", "", questions).replace("questions", "annotations")


def _split(questions: Path) -> str:
    found = SPLIT.search(questions.stem)
    return found[1] if found else "train2014"


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("question_id"), int | str)


def _answer(answer: Any) -> Any:
    """The answer as a question TSV has it, without the rest of what is annotated; what is broken stays as it is."""
    return {"answer": answer["answer"]} if isinstance(answer, dict) and "answer" in answer else answer
