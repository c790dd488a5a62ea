"""CIDEr-D on document frequencies that stay the same (Vedantam et al. 2015, arXiv:1411.5726).

pycocoevalcap counts how common words are among the images it is given, so that a few of them cannot be scored. Here
that is counted once, over a whole data set; the scores are those of pycocoevalcap's `CiderScorer` with these counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ORDERS = 4  # n-grams of one word up to so many
SIGMA = 6.0  # of the penalty for a length that is not the reference's
SCALE = 10.0


@dataclass(frozen=True)
class DocumentFrequencies:
    """In the references of how many of `documents` images an n-gram stands: in one, where `counts` does not have it."""

    documents: int
    counts: dict[str, int]


@dataclass(frozen=True)
class _Caption:
    """A caption as CIDEr compares it: of each order the weights of its n-grams and their norm; its length."""

    weights: list[dict[str, float]]
    norms: list[float]
    length: int


def document_frequencies(images: Iterable[Sequence[str]]) -> DocumentFrequencies:
    """Count the n-grams of all images.

    Args:
        images: the references of each, tokenized: words parted by single spaces.
    """
    documents = 0
    counts: Counter[str] = Counter()
    for references in images:
        documents += 1
        counts.update({ngram for text in references for order in _ngrams(text) for ngram in order})
    return DocumentFrequencies(documents, {ngram: count for ngram, count in counts.items() if count > 1})


class CiderD:
    """Scores captions, tokenized as those that were counted, image by image."""

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self._documents = math.log(max(1, frequencies.documents))
        self._counts = frequencies.counts

    def scores(self, candidates: Sequence[str], references: Sequence[str]) -> list[float]:
        """CIDEr-D of each candidate against all references of its image, 0 to 10."""
        compared = [self._caption(text) for text in references]
        return [self._score(self._caption(text), compared) for text in candidates]

    def _score(self, candidate: _Caption, references: Sequence[_Caption]) -> float:
        return SCALE * sum(_similarity(candidate, reference) for reference in references) / max(1, len(references))

    def _caption(self, text: str) -> _Caption:
        weights = [
            {ngram: count * (self._documents - math.log(self._counts.get(ngram, 1))) for ngram, count in order.items()}
            for order in _ngrams(text)
        ]
        norms = [math.hypot(*order.values()) for order in weights]
        return _Caption(weights, norms, max(0, len(text.split()) - 1))  # pycocoevalcap's length: the pairs of words


def _similarity(candidate: _Caption, reference: _Caption) -> float:
    """The mean over the orders of cosines, clipped to what the reference has, less for another length."""
    total = 0.0
    for own, given, own_norm, given_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        if own_norm and given_norm:
            shared = math.fsum(
                min(weight, given[ngram]) * given[ngram] for ngram, weight in own.items() if ngram in given
            )
            total += shared / (own_norm * given_norm)
    return total / ORDERS * math.exp(-((candidate.length - reference.length) ** 2) / (2 * SIGMA**2))


def _ngrams(text: str) -> list[Counter[str]]:
    """How often each n-gram stands in a text, order by order."""
    words = text.split()
    return [
        Counter(" ".join(words[begin : begin + order]) for begin in range(len(words) - order + 1))
        for order in range(1, ORDERS + 1)
    ]
