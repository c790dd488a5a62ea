import json

import pytest

from git_caption.errors import DataError, UsageError
from git_caption.samples.open_data import open_data
from git_caption.samples.vqa import read_split
from tests.pictures import fault, jpeg, level

ASKED = [
    {"question_id": 9001, "image_id": 9, "question": "what is it?"},
    {"question_id": 25000, "image_id": 25, "question": "how many?"},
    {"question_id": 9000, "image_id": 9, "question": "is it red?"},
]


def annotation(question_id, *answers):
    given = [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)]
    return {"question_id": question_id, "image_id": 9, "multiple_choice_answer": answers[0], "answers": given}


ANSWERED = [annotation(25000, "2", "two", "2"), annotation(9000, "no"), annotation(9001, *["net"] * 6, *["fence"] * 4)]


@pytest.fixture
def folder(tmp_path):
    """As COCO and visualqa.org lay their files out; image 25 as those who have COCO 2017 have it."""
    for number, name in ((10, "train2014/COCO_train2014_000000000009.jpg"), (20, "images/val2017/000000000025.jpg")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(number))
    return tmp_path


def write(folder, asked=ASKED, answered=ANSWERED, split="train2014", version="v2_"):
    folder.mkdir(exist_ok=True)
    paths = [f"{version}OpenEnded_mscoco_{split}_questions.json", f"{version}mscoco_{split}_annotations.json"]
    (folder / paths[0]).write_text(json.dumps({"data_subtype": split, "questions": asked}))
    (folder / paths[1]).write_text(json.dumps({"data_subtype": split, "annotations": answered}))
    return [folder / name for name in paths]


def test_images_come_with_their_questions_and_all_answers_of_each(folder):
    questions, answers = write(folder)
    for path in (folder, questions, answers):
        data = open_data(path)
        assert data.kind == "VQA questions and answers" and data.inputs == (questions, answers) and len(data) == 2
        first, second = data.texts(0), data.texts(1)
        assert (first.key, first.captions, second.key) == ("9", (), "25")
        assert [(q.question_id, q.question) for q in first.questions] == [(9001, "what is it?"), (9000, "is it red?")]
        assert first.questions[0].answers == ("net",) * 6 + ("fence",) * 4
        assert second.questions[0].answers == ("2", "two", "2")
        assert [level(data.image(row)) for row in (0, 1)] == [10, 20]


def test_the_files_may_lie_in_folders_of_their_own_and_a_split_is_chosen(folder):
    questions, answers = write(folder / "Questions")
    (folder / "Annotations").mkdir()
    answers.rename(folder / "Annotations" / answers.name)
    for name in (answers.name, questions.name):
        for place in (folder / "Annotations", folder / "Questions"):
            if (place / name).is_file():
                assert len(open_data(place / name)) == 2
    write(folder / "annotations", ASKED[:1], ANSWERED, split="val2014")
    assert len(open_data(folder)) == len(open_data(folder, split="train")) == 2
    val = open_data(folder, split="val")
    assert len(val) == 1 and "COCO_val2014_000000000009.jpg" in fault(val, 0)


def test_the_first_vqa_is_read_by_its_names_and_the_second_before_it(folder):
    questions, answers = write(folder, version="")
    (folder / "MultipleChoice_mscoco_train2014_questions.json").write_text("{}")
    assert open_data(folder).inputs == open_data(answers).inputs == (questions, answers)
    of_2 = tuple(write(folder / "Questions"))
    assert open_data(folder).inputs == of_2
    assert len(open_data(questions)) == 2


def test_a_split_keeps_all_that_is_known_of_its_answers_wherever_its_files_are_and_whichever_is_named(folder):
    questions, answers = write(folder / "Questions")
    (folder / "Annotations").mkdir()
    answers = answers.rename(folder / "Annotations" / answers.name)
    for path in (folder, questions, answers):
        data = read_split(path, "train")
        assert data.inputs == (questions, answers)
        assert [level(data.image(row)) for row in (0, 1)] == [10, 20]
        [asked] = json.loads(data.column(1, "questions"))
        known = {name: value for name, value in ANSWERED[0].items() if name not in ("image_id",)}
        assert asked == {**known, "question": "how many?"}
        assert data.texts(1).questions[0].answers == ("2", "two", "2")
    with pytest.raises(UsageError, match="no split is called 'val2014', there are train2014"):
        read_split(questions, "val2014")


def test_a_test_split_is_read_without_answers_and_not_trained_on(folder):
    questions, answers = write(folder, split="test-dev2015")
    answers.unlink()
    (folder / "test2015").mkdir()
    (folder / "test2015" / "COCO_test2015_000000000009.jpg").write_bytes(jpeg(30))
    data = read_split(folder, "test-dev2015")
    assert data.inputs == (questions,) and level(data.image(0)) == 30
    assert [question.answers for question in data.texts(0).questions] == [(), ()]
    assert json.loads(data.column(1, "questions")) == [{"question_id": 25000, "question": "how many?"}]
    with pytest.raises(UsageError, match="no answers beside it to train on"):
        open_data(folder)


def test_what_is_missing_or_broken_is_named(folder):
    questions, answers = write(folder, [*ASKED, {"question_id": 7, "image_id": 7, "question": "why?"}])
    data = open_data(folder)
    assert fault(data, 2) == f"{questions}, image 7: question 7 has no answers in {answers}"
    write(folder, [*ASKED, {"question_id": 7, "image_id": 7, "question": None}])
    assert f"{questions}, image 7: column 2 holds" in fault(open_data(folder), 2)
    write(folder, [*ASKED, {"question_id": 7, "question": "why?"}])
    with pytest.raises(
        DataError, match=r'_questions\.json, question 4: found \{"question_id": 7, "question": "why\?"\}'
    ):
        open_data(folder)
    write(folder, [])
    with pytest.raises(DataError, match=r"_questions\.json: no question in it"):
        open_data(folder)
    write(folder, answered=[{"answers": []}])
    with pytest.raises(DataError, match=r"_annotations\.json, annotation 1: found \{\"answers\": \[\]\}, expected"):
        open_data(folder)
    answers.unlink()
    with pytest.raises(UsageError, match=r"no answers beside it to train on, expected v2_mscoco_train2014_annotations"):
        open_data(questions)


def test_captions_and_questions_in_one_folder_are_told_apart_by_their_files(folder):
    write(folder / "annotations")
    image = {"id": 9, "file_name": "COCO_train2014_000000000009.jpg"}
    captions = {"images": [image], "annotations": [{"image_id": 9, "caption": "a net"}]}
    (folder / "annotations" / "captions_train2014.json").write_text(json.dumps(captions))
    with pytest.raises(UsageError, match=r"more than one data set in it \(COCO; annotations/v2_OpenEnded.*with commas"):
        open_data(folder)
