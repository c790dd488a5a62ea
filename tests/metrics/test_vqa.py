from __future__ import annotations

import pytest

from git_caption.metrics.vqa import exact_match_accuracy, normalise, soft_accuracy


# Of ten references: leaving each out in turn, min(1, equal ones left / 3), averaged.
@pytest.mark.parametrize(("equal", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_soft_accuracy_is_the_mean_over_choices_of_nine(equal: int, accuracy: float) -> None:
    assert soft_accuracy("yes", ["yes"] * equal + ["no"] * (10 - equal)) == pytest.approx(accuracy)


def test_where_all_references_agree_nothing_is_normalised() -> None:
    assert soft_accuracy("2", ["two"] * 10) == 0
    assert soft_accuracy("two", ["two"] * 10) == 1
    assert soft_accuracy("Two", ["two"] * 10) == 0
    assert soft_accuracy("two\n", [" two\t"] * 10) == 1


def test_where_they_differ_both_sides_are_normalised() -> None:
    assert soft_accuracy("2", ["two"] * 9 + ["three"]) == 1
    assert soft_accuracy("The Dog.", ["dog"] * 9 + ["cat"]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red, white and blue flag", "red white and blue flag"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("1,000", "1000"),
        ("3.5.", "3.5"),
        ("U.S.", "us"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("twas", "'twas"),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("black-and-white", "black and white"),
        ("an", ""),
        ("what?!", "what"),
        ("dog's", "dog's"),
        ("10:30", "10:30"),
    ],
)
def test_normalisation_is_the_official_one(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_no_references_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one reference, found none"):
        soft_accuracy("x", [])


def test_exact_match_takes_any_reference_whatever_the_case() -> None:
    assert exact_match_accuracy(" Two  dogs", ["one", "two dogs"]) == 1
    assert exact_match_accuracy("2", ["two"]) == 0
