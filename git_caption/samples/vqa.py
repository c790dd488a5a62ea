"""VQA and VQA v2: questions about COCO's images, each with the answers of ten people, in the files of visualqa.org.

    v2_OpenEnded_mscoco_val2014_questions.json   {"questions": [{"image_id", "question", "question_id"}]}
    v2_mscoco_val2014_annotations.json           {"annotations": [{"question_id", "image_id", "question_type",
                                                 "answer_type", "multiple_choice_answer", "answers": [{"answer",
                                                 "answer_confidence", "answer_id"}]}]}; none of the test splits
    val2014/COCO_val2014_000000262148.jpg        as 000000262148.jpg in train2017/ or val2017/; those of test-dev2015
                                                 are in test2015/

The names of the first VQA are without `v2_`. The two files lie beside each other, or in `Questions/` and
`Annotations/`; the folders of images beside them, or in `images/`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from git_caption.errors import DataError, UsageError
from git_caption.samples import table
from git_caption.samples.packed import PackedTexts
from git_caption.samples.splits import choose
from git_caption.samples.training_data import Column, Texts, read_image, said
from git_caption.tsv.rows import dumps, parse_question_row

PATTERNS = ("v2_OpenEnded_mscoco_*_questions.json", "OpenEnded_mscoco_*_questions.json")  # the second of the first VQA
SPLIT = re.compile(r"_mscoco_([\w-]+?)_(?:questions|annotations)$")
FOLDERS = ("annotations", "Annotations", "questions", "Questions")  # where the two files may lie
YEAR_2017 = ("train2017", "val2017")  # of the same images; which of the two has one is not that of 2014
KEPT = ("answer_type", "answers", "multiple_choice_answer", "question_type")  # of an annotation


def is_questions(document: Any) -> bool:
    """Whether a JSON document is a file of questions."""
    return isinstance(document, dict) and isinstance(document.get("questions"), list)


def is_answers(document: Any) -> bool:
    """Whether a JSON document is a file of answers, which has no list of images."""
    return isinstance(document, dict) and isinstance(document.get("annotations"), list) and "images" not in document


def questions_in(folder: Path) -> dict[str, Path]:
    """The files of questions in a folder by split; where both are there, those of VQA v2."""
    found: dict[str, Path] = {}
    for pattern in PATTERNS:
        for place in (folder, *(folder / inside for inside in FOLDERS)):
            for path in sorted(place.glob(pattern)):
                found.setdefault(_split(path), path)
    return found


def read_split(data: Path, split: str) -> VqaQuestions:
    """A split in a folder, or told by one of its files, with answers where there are any and all that is known of them.

    Raises UsageError if it is not there, DataError if its files are not as above.
    """
    if data.is_dir():
        found = questions_in(data)
        if not found:
            expected = PATTERNS[0].replace("*", "train2014")
            raise UsageError(f"{data}: no questions of VQAv2 in it, expected {expected}")
    else:
        questions = data if is_questions(table.load_json(data)) else questions_of(data)
        found = {_split(questions): questions}
    questions = found[choose(found, split, str(data))]
    asked = _checked(questions, "questions")
    answers = answers_of(questions)
    answered = None if answers is None else _checked(answers, "annotations")
    return VqaQuestions(questions, asked, answers, answered, whole=True)


def read_answered(path: Path, document: dict[str, Any]) -> VqaQuestions:
    """Questions and answers, told by either of the two files, which is read already.

    Raises UsageError if the other is not there, DataError if one is not as above.
    """
    if is_answers(document):
        questions = questions_of(path)
        return VqaQuestions(questions, _checked(questions, "questions"), path, document)
    answers = answers_of(path)
    if answers is None:
        expected = _answers_name(path.name)
        raise UsageError(f"{path}: no answers beside it to train on, expected {expected}")
    return VqaQuestions(path, document, answers, _checked(answers, "annotations"))


def answers_of(questions: Path) -> Path | None:
    """The file of the answers to a file of questions."""
    name = _answers_name(questions.name)
    places = [questions.with_name(name), *(questions.parent.parent / folder / name for folder in FOLDERS)]
    return next((place for place in places if place.is_file()), None)


def questions_of(answers: Path) -> Path:
    """The file of the questions to a file of answers. Raises UsageError if it is not there."""
    places = [answers.parent, *(answers.parent.parent / folder for folder in FOLDERS)]
    for place in places:
        for found in sorted(place.glob("*questions.json"), reverse=True):  # OpenEnded before MultipleChoice
            if _answers_name(found.name) == answers.name:
                return found
    raise UsageError(f"{answers}: answers without questions; expected a file *questions.json beside it")


class VqaQuestions:
    """Questions, a row for each image, in the order of their first questions: fulfils `TrainingData`.

    Memory: of each row the questions as a question TSV has them: some 20 bytes an answer, `whole` some 60.
    """

    missing = 0
    has_captions = False
    has_questions = True

    def __init__(
        self,
        questions: Path,
        asked: dict[str, Any],
        answers: Path | None,
        answered: dict[str, Any] | None,
        *,
        whole: bool = False,
    ) -> None:
        """Join the documents of the two files; the second is not there of the test splits.

        whole: all that is known of answers is kept, beside their texts.
        Raises DataError if there is no question, one names no image, or an answer no question.
        """
        self.questions, self.answers = questions, answers
        known = {} if answers is None or answered is None else _by_question(answers, answered["annotations"], whole)
        rows: dict[int, list[dict[str, Any]]] = {}
        for number, entry in enumerate(asked["questions"], 1):
            if not _has_id(entry) or type(entry.get("image_id")) is not int:
                raise DataError(
                    f"{questions}, question {number}: found {json.dumps(entry)[:80]}, expected an object with "
                    '"question_id" and, a number, "image_id"'
                )
            own = {"question_id": entry["question_id"], "question": entry.get("question")}
            rows.setdefault(entry["image_id"], []).append(own | known.get(own["question_id"], {}))
        if not rows:
            raise DataError(f"{questions}: no question in it")
        root = questions.parent.parent if questions.parent.name in FOLDERS else questions.parent
        self._part = str(asked.get("data_subtype") or _split(questions)).replace("-dev", "")
        of_2014 = (self._part, f"images/{self._part}", f"Images/mscoco/{self._part}", "images", "")
        of_2017 = (folder for part in YEAR_2017 for folder in (part, f"images/{part}"))
        self.folders: tuple[Path, ...] = tuple(root / folder for folder in (*of_2014, *of_2017))
        self._images = list(rows)
        self._rows = PackedTexts()
        for image, entries in rows.items():
            try:
                self._rows.append(dumps(entries))
            except ValueError as error:  # Python reads NaN as JSON
                files = questions if answers is None else f"{questions} or {answers}"
                raise DataError(f"{files}, image {image}: NaN or Infinity, which is no JSON") from error

    @property
    def kind(self) -> str:
        """Whether there are answers."""
        return "VQA questions" if self.answers is None else "VQA questions and answers"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The file of questions and, where there is one, that of answers."""
        return (self.questions,) if self.answers is None else (self.questions, self.answers)

    def __len__(self) -> int:
        return len(self._images)

    def key(self, row: int) -> str:
        """The number of the image."""
        return str(self._images[row])

    def column(self, row: int, column: Column) -> str | None:
        """The questions as a question TSV has them, with what is kept of their answers. Raises DataError as `texts`."""
        if column != "questions":
            return None
        self.texts(row)
        return self._rows[row]

    def texts(self, row: int) -> Texts:
        """Key and questions. Raises DataError if one is broken, or has no answer where there is a file of them."""
        key = self.key(row)
        questions = parse_question_row([key, self._rows[row]], self.where(row)).questions
        for question in questions:
            if self.answers is not None and not said(question):
                raise DataError(f"{self.where(row)}: question {question.question_id} has no answers in {self.answers}")
        return Texts(key, (), questions)

    def image(self, row: int) -> bytes:
        """The image file. Raises MissingImage or DataError as `read_image` does."""
        number = self._images[row]
        names = (f"COCO_{self._part}_{number:012}.jpg", f"{number:012}.jpg")  # the second in 2017
        return read_image([folder / name for folder in self.folders for name in names], self.where(row))

    def where(self, row: int) -> str:
        """File and image."""
        return f"{self.questions}, image {self._images[row]}"


def _checked(path: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = table.load_json(path)
    if not (is_questions if name == "questions" else is_answers)(document):
        raise DataError(f'{path}: expected an object as VQA has it, with a list "{name}"')
    return document


def _by_question(path: Path, annotations: list[Any], whole: bool) -> dict[Any, dict[str, Any]]:
    """What is known of the answers, by question."""
    found: dict[Any, dict[str, Any]] = {}
    for number, annotation in enumerate(annotations, 1):
        if not _has_id(annotation):
            raise DataError(
                f"{path}, annotation {number}: found {json.dumps(annotation)[:80]}, expected an object with "
                '"question_id" and "answers"'
            )
        known = {name: annotation[name] for name in KEPT if name in annotation}
        found[annotation["question_id"]] = known if whole else {"answers": _texts_of(known.get("answers"))}
    return found


def _texts_of(answers: Any) -> Any:
    """Answers without the rest of what is known of them; what is broken stays as it is."""
    if not isinstance(answers, list):
        return answers or []
    return [{"answer": a["answer"]} if isinstance(a, dict) and "answer" in a else a for a in answers]


def _answers_name(questions: str) -> str:
    return re.sub("(OpenEnded|MultipleChoice)_", "", questions).replace("questions", "annotations")


def _split(path: Path) -> str:
    found = SPLIT.search(path.stem)
    return found[1] if found else "train2014"


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("question_id"), int | str)
