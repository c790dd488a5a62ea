from __future__ import annotations

import pytest

from git_caption.errors import UsageError
from git_caption.text.prompts import render


@pytest.mark.parametrize(
    ("template", "question", "expected"),
    [
        ("", None, ""),
        ("a photo of", None, "a photo of"),
        ("{question}", "what is it?", "what is it?"),
        ("Question: {question} Answer:", "what is it?", "Question: what is it? Answer:"),
        ("{question}", "what is {question}?", "what is {question}?"),
        ("{question}", "a {0.__class__} b {x!r} %s", "a {0.__class__} b {x!r} %s"),
        ("{question}", "", ""),
        ('{"q": "{question}"}', "why?", '{"q": "why?"}'),
    ],
)
def test_only_the_question_is_filled_in(template, question, expected):
    assert render(template, question) == expected


def test_a_question_without_a_place_is_refused():
    with pytest.raises(UsageError, match=r"template 'Answer:' has no \{question\}: the question 'why\?' would be lost"):
        render("Answer:", "why?")


def test_a_place_without_a_question_is_refused():
    with pytest.raises(UsageError, match=r"template 'Q: \{question\}' asks for a question and there is none"):
        render("Q: {question}")


def test_another_placeholder_is_refused():
    with pytest.raises(UsageError, match=r"'Q: \{quesiton\}' has the placeholder \{quesiton\}, known: \{question\}"):
        render("Q: {quesiton}", "why?")
