"""The accuracies of visual question answering (Goyal et al. 2017, arXiv:1612.00837)."""

from __future__ import annotations

import re
from collections.abc import Sequence

# As the official evaluation has it: a missing apostrophe of these is put in, one at a time.
_CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)
_SPELLED = {
    word[: found.start()] + word[found.end() :]: word
    for word in _CONTRACTIONS.split()
    for found in re.finditer("'", word)
}
_SPELLED["somebody'd"] = "somebodyd"  # an oddity of the official table
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
LEAST_REFERENCES = 4  # an answer is right where three others have given it
_PERIOD = re.compile(r"\.(?!\d)")


def soft_accuracy(answer: str, references: Sequence[str]) -> float:
    """VQA v2's accuracy: over each choice of all references but one, the mean of min(1, how many equal the answer / 3).

    Args:
        answer: the answer given.
        references: those of the annotators, ten in VQA v2. Where they are all the same, nothing is normalised.

    Raises ValueError if there are no references.
    """
    if not references:
        raise ValueError("an answer is compared with at least one reference, found none")
    answer, *given = [re.sub(r"[\n\t]", " ", text).strip() for text in (answer, *references)]
    if len(set(given)) > 1:
        answer, *given = [normalise(text) for text in (answer, *given)]
    equal = [text == answer for text in given]
    return sum(min(1.0, (sum(equal) - own) / 3) for own in equal) / len(equal)


def accuracy(answer: str, references: Sequence[str]) -> float:
    """`soft_accuracy`, or, where fewer than four people have answered, whose answers could not reach 1, 1.0 or 0.0.

    1.0 if the answer equals one of them, all normalised. Raises ValueError if there are no references.
    """
    if len(references) >= LEAST_REFERENCES or not references:
        return soft_accuracy(answer, references)
    return float(normalise(answer) in map(normalise, references))


def exact_match_accuracy(answer: str, references: Sequence[str]) -> float:
    """1.0 if the answer equals a reference, letter case and white space aside, else 0.0."""
    return float(_plain(answer) in map(_plain, references))


def normalise(text: str) -> str:
    """`text` as the official evaluation compares it: no punctuation, articles or number words; lower case."""
    has_thousands = _COMMA_IN_NUMBER.search(text) is not None
    parted = text
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        parted = parted.replace(sign, "" if beside_space or has_thousands else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", parted).lower().split()]
    return " ".join(_SPELLED.get(word, word) for word in words if word not in _ARTICLES)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
