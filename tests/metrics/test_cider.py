"""CIDEr-D on given document frequencies, against pycocoevalcap's."""

import random

import pytest

from git_caption.metrics.cider import CiderD, document_frequencies


def _texts(count, seed):
    source = random.Random(seed)
    words = ["a", "red", "blue", "star", "on", "the", "left", "of", "two", "small", "boxes", "END"]
    return [[" ".join(source.choices(words, k=source.randint(0, 9))) for _ in range(3)] for _ in range(count)]


def test_scores_are_those_of_pycocoevalcap_where_all_images_are_scored():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer()
    references, candidates = _texts(12, seed=0), _texts(12, seed=1)
    candidates[3] = ["", references[3][0], "words that nobody has said"]
    cider = CiderD(document_frequencies(references))
    for place in range(3):
        for own, given in zip(candidates, references, strict=True):
            scorer += (own[place], given)
    # all three candidates of an image in one corpus: a document for each, so the frequencies are put in by hand
    scorer.document_frequency.update(_counted(references))
    scorer.crefs = _Documents(scorer.crefs, len(references))
    wanted = scorer.compute_cider()
    found = [scores[place] for place in range(3) for scores in map(cider.scores, candidates, references)]
    assert found == pytest.approx(wanted, abs=1e-9)
    assert found[12 + 3] > 2 and found[3] == found[24 + 3] == 0.0


def _counted(references):
    """In how many images each n-gram stands, by the scorer's own way of taking texts apart."""
    cook_refs = pytest.importorskip("pycocoevalcap.cider.cider_scorer").cook_refs
    counts = {}
    for texts in references:
        for ngram in {ngram for cooked in cook_refs(texts) for ngram in cooked}:
            counts[ngram] = counts.get(ngram, 0) + 1
    return counts


class _Documents(list):
    """A list that says it has as many items as the corpus has images: the scorer takes its logarithm."""

    def __init__(self, items, count):
        super().__init__(items)
        self.count = count

    def __len__(self):
        return self.count
