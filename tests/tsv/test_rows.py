from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from git_caption.errors import DataError
from git_caption.tsv.rows import (
    Answer,
    CaptionRow,
    ImageRow,
    Question,
    QuestionRow,
    dumps,
    parse_answer_row,
    parse_caption_row,
    parse_image_row,
    parse_question_row,
)


def test_json_has_sorted_keys_no_spaces_and_ascii_only() -> None:
    assert dumps([{"question_id": 3, "answer": "é\t☃"}]) == r'[{"answer":"\u00e9\t\u2603","question_id":3}]'


def test_json_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"logprob": math.nan})


def test_rows_become_the_columns_of_the_format() -> None:
    assert ImageRow("k", b"\xff\x00").columns() == ["k", "/wA="]
    assert CaptionRow("k", ("a b", "")).columns() == ["k", '[{"caption":"a b"},{"caption":""}]']
    question = QuestionRow("k", (Question(1, "how many?"), Question("x", "où?")))
    assert question.columns() == [
        "k",
        r'[{"question":"how many?","question_id":1},{"question":"o\u00f9?","question_id":"x"}]',
    ]
    known = Question(2, "colour?", ("red", "dark red"))
    assert QuestionRow("k", (known,)).columns() == [
        "k",
        '[{"answers":[{"answer":"red"},{"answer":"dark red"}],"question":"colour?","question_id":2}]',
    ]
    assert parse_question_row(QuestionRow("k", (known,)).columns(), "f:1").questions == (known,)
    assert Answer("7", "two").columns() == ['{"answer":"two","question_id":"7"}']


def test_rows_are_parsed() -> None:
    assert parse_image_row(["k", "/wA="], "f:1") == ImageRow("k", b"\xff\x00")
    assert parse_caption_row(["k", '[{"caption": "a", "logprob": -1.5}, {"caption": ""}]'], "f:1") == CaptionRow(
        "k", ("a", "")
    )
    assert parse_caption_row(["k", "[]"], "f:1") == CaptionRow("k", ())
    assert parse_question_row(
        ["k", '[{"question_id": 3, "question": "q", "image_id": 1}, {"question_id": "03", "question": ""}]'], "f:1"
    ) == QuestionRow("k", (Question(3, "q"), Question("03", "")))
    assert parse_answer_row(['{"answer":"two","question_id":"7"}'], "f:1") == Answer("7", "two")


@pytest.mark.parametrize(
    ("parse", "columns", "message"),
    [
        (parse_image_row, ["k"], r"^f:9: found 1 columns, expected 2 parted by one tab: a key and a base64 image$"),
        (parse_caption_row, ["k", "[]", "x"], r"^f:9: found 3 columns, expected 2 .* captions in JSON$"),
        (parse_question_row, ["k"], r"^f:9: found 1 columns, expected 2 .* questions in JSON$"),
        (parse_answer_row, ["k", "{}"], r"^f:9: found 2 columns, expected one column with \{"),
        (parse_image_row, ["k", "/wA"], r"^f:9: column 2 is not base64 \(Incorrect padding; it begins '/wA'\)"),
        (parse_image_row, ["k", "/w A="], r"^f:9: column 2 is not base64 \(.*it begins '/w A='\)"),
        (parse_image_row, ["k", "é"], r"^f:9: column 2 is not base64 \(characters outside ASCII; it begins 'é'\)"),
        (parse_caption_row, ["k", "{bad"], r"^f:9: column 2 is not JSON \(Expecting property.*begins '\{bad'\), exp"),
        (
            parse_question_row,
            ["k", r'[{"question_id": 1, "question": "what \ud83d?"}]'],
            r"^f:9: column 2 holds '\\ud83d', half of a character, expected Unicode text$",
        ),
        (parse_caption_row, ["k", r'[{"caption": "\udc00"}]'], r"^f:9: column 2 holds '\\udc00', half of a character"),
        (parse_caption_row, ["k", ""], r"^f:9: column 2 is not JSON \(Expecting value"),
        (parse_caption_row, ["k", "[" * 100_000], r"^f:9: column 2 is not JSON \(nested too deep"),
        (parse_caption_row, ["k", '"text"'], r'^f:9: column 2 holds "text", expected a list of \{"caption": text\}$'),
        (parse_caption_row, ["k", '["a"]'], r'^f:9: column 2 holds "a" in its list, expected a list'),
        (parse_caption_row, ["k", '[{"caption": 5}]'], r'^f:9: column 2 holds \{"caption": 5\}, expected'),
        (parse_question_row, ["k", '[{"question": "q"}]'], r'^f:9: column 2 holds \{"question": "q"\}, expected'),
        (parse_question_row, ["k", '[{"question_id": true, "question": "q"}]'], r"true, .*expected a list of"),
        (parse_question_row, ["k", '[{"question_id": 1.5, "question": "q"}]'], r"1\.5"),
        (parse_question_row, ["k", '[{"question_id": 1, "question": null}]'], r"null"),
        (parse_question_row, ["k", '[{"question_id": 1, "question": "q", "answers": ["a"]}]'], r'under "answers"'),
        (
            parse_question_row,
            ["k", '[{"question_id": 1, "question": "q", "answers": 5}]'],
            r"f:9: .* holds 5, expected",
        ),
        (parse_answer_row, ["[]"], r"^f:9: column 1 holds \[\], expected one column"),
        (parse_answer_row, ['{"answer":"x"}'], r'^f:9: column 1 holds \{"answer": "x"\}'),
        (parse_answer_row, ['{"answer":"x"'], r"^f:9: column 1 is not JSON"),
    ],
)
def test_other_content_is_refused_with_place_and_value(parse, columns: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(columns, "f:9")


def test_characters_written_as_two_escapes_are_one() -> None:
    assert parse_caption_row(["k", r'[{"caption": "\ud83d\ude00 \\ud800"}]'], "f:1").captions == ("😀 \\ud800",)


@given(st.text(max_size=30) | st.binary(max_size=30).map(lambda data: data.decode("utf-8", "surrogateescape")))
@example('[{"caption": 1e999}]')
@example('[{"question_id": 1, "question": "q", "question": NaN}]')
@example('[{"question_id": ' + "1" * 5000 + "}]")
def test_any_text_is_a_row_or_a_data_error(text: str) -> None:
    for parse in (parse_image_row, parse_caption_row, parse_question_row):
        with suppress(DataError):
            parse(["k", text], "f:1")
    with suppress(DataError):
        parse_answer_row([text], "f:1")


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(DataError, match=r'"y{76}\.\.\., expected') as caught:
        parse_caption_row(["k", f'"{"y" * 5000}"'], "f:9")
    assert len(str(caught.value)) < 200
