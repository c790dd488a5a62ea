"""Self-critical sequence training: captions are drawn, scored, and made likelier where they are better than others.

Self-critical Sequence Training for Image Captioning, Rennie et al. 2017, https://arxiv.org/abs/1612.00563; the mean of
the other captions as baseline: A Better Variant of Self-Critical Sequence Training, Luo 2020,
https://arxiv.org/abs/2003.09971.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from git_caption.captioner.captioner import Captioner, Features, Generated, Identity
from git_caption.decoding.generate import first_stop
from git_caption.errors import DataError
from git_caption.metrics import ptb
from git_caption.metrics.cider import CiderD, DocumentFrequencies, document_frequencies
from git_caption.model.git import TextBatch
from git_caption.params.decoding import Decoding, DecodingParams
from git_caption.params.training.dataset import DatasetParams
from git_caption.samples.collate import Batch
from git_caption.samples.inputs import identity
from git_caption.samples.training_data import TrainingData
from git_caption.text.tokenizer import decode, end_token_ids
from git_caption.training.objectives import Objective
from git_caption.tsv.writer import write_atomically

END = "END"  # no word that the tokenizer gives: those are in lower case
COUNTED = "document_frequencies.json"
FORM = 1  # of that file; another where what is counted changes


class ScstObjective(Objective):
    """The expected reward of captions drawn from the network, by the gradient of their log-probabilities.

    The reward is CIDEr-D on the document frequencies of the training references. The end of a text is a word of it, in
    references too: without that, captions that break off ("a cat on a") cost nothing, and the network learns them.
    """

    measures = ("reward", "baseline")

    def __init__(self, captioner: Captioner, cider: CiderD, samples: int, baseline: Literal["greedy", "mean"]) -> None:
        """captioner: of the network to train. samples, baseline: as `ScstParams` has them."""
        super().__init__()
        self.network: Any = captioner.network  # of any family that has `token_logprobs`
        self.captioner = captioner
        self.cider = cider
        self.samples = samples
        self.baseline = baseline
        own = captioner.decoding(DecodingParams(temperature=0.0, num_captions=1), "caption")
        self._stops = own.stop
        self._greedy = Decoding(num_beams=1, max_new_tokens=own.max_new_tokens)
        # from the network's own distribution, whose log-probabilities the gradient is taken of
        self._drawn = replace(self._greedy, do_sample=True, temperature=1.0, num_captions=samples)
        self._ends = end_token_ids(captioner.tokenizer, captioner.network.language_model)
        self._noted = [0.0, 0.0]

    def count(self, batch: Batch) -> int:
        """Captions drawn."""
        return len(batch.keys) * self.samples

    def forward(self, seen: Tensor | Features, batch: Batch) -> Tensor:
        """The sum over drawn captions of the negative advantage times the log-probability."""
        features = seen if isinstance(seen, Features) else self.network.encode(seen)
        drawn, rewards, baselines = self._played(features, batch)
        self._noted[0] += sum(map(sum, rewards))
        self._noted[1] += sum(map(sum, baselines))
        advantages = torch.tensor(rewards).flatten() - torch.tensor(baselines).flatten()
        images = [image for image in range(len(drawn)) for _ in range(self.samples)]
        prompt = self.captioner.prompt_ids(self.captioner.caption_prompt())
        targets = [list(self._whole(text)[0]) for texts in drawn for text in texts]
        texts = TextBatch([prompt] * len(targets), targets, images)
        logprobs: Tensor = self.network.token_logprobs(features, texts).sum(1)  # [B * samples]
        return -(advantages.to(logprobs.device, logprobs.dtype) * logprobs).sum()

    def take_measures(self) -> list[float]:
        """Rewards and baselines, summed over the captions drawn since the last call."""
        noted, self._noted = self._noted, [0.0, 0.0]
        return noted

    def _played(
        self, features: Features, batch: Batch
    ) -> tuple[list[list[Generated]], list[list[float]], list[list[float]]]:
        """The captions drawn of each picture, their rewards, and what each of these is compared with."""
        features = Features(features.values.detach(), features.mask)
        prompts = [self.captioner.caption_prompt()] * len(batch.keys)
        # the seed is the picture's in this epoch, whatever process and batch it is in
        identities = [Identity(str(seed), name=key) for seed, key in zip(batch.seeds, batch.keys, strict=True)]
        training = self.training
        self.eval()
        drawn = self.captioner.generate(features, prompts, self._drawn, identities)
        if self.baseline == "greedy":
            greedy = self.captioner.generate(features, prompts, self._greedy, identities)
        self.train(training)
        references = [[referred(text) for text in texts] for texts in batch.references]
        rewards = [self._rewards(texts, known) for texts, known in zip(drawn, references, strict=True)]
        if self.baseline == "greedy":
            scored = [self._rewards(texts, known) for texts, known in zip(greedy, references, strict=True)]
            return drawn, rewards, [of_greedy * self.samples for of_greedy in scored]
        return drawn, rewards, [[(sum(row) - own) / (len(row) - 1) for own in row] for row in rewards]

    def _rewards(self, texts: Sequence[Generated], references: Sequence[str]) -> list[float]:
        return self.cider.scores([self._whole(text)[1] for text in texts], references)

    def _whole(self, text: Generated) -> tuple[tuple[int, ...], str]:
        """A text's tokens up to where it ends, at a stop text too, and its words, the end among them if it does."""
        ids = text.token_ids
        counts = range(1, len(ids) + 1)
        before = bisect_left(counts, True, key=lambda count: self._before_stop(ids[:count]) is not None)
        if (said := self._before_stop(ids[: before + 1])) is not None:
            return ids[: before + 1], referred(said)
        ended = bool(ids) and ids[-1] in self._ends
        return ids, referred(text.text) if ended else words_of(text.text)

    def _before_stop(self, ids: Sequence[int]) -> str | None:
        """What these tokens say before a stop text; None where there is none."""
        read = decode(self.captioner.tokenizer, ids) if self._stops else ""
        return None if (place := first_stop(read, self._stops)) is None else read[:place]


def words_of(text: str) -> str:
    """A text's words, tokenized by itself, so that the texts beside it do not matter."""
    return ptb.tokenize([text])[0]


def referred(text: str) -> str:
    """The words of a whole text, its end among them."""
    return f"{words_of(text)} {END}".lstrip()


def frequencies_of(data: TrainingData, params: DatasetParams, folder: Path) -> DocumentFrequencies:
    """The document frequencies of a data set's captions, counted once and kept in `folder`.

    Args:
        data: of whose captions.
        params: which it was opened by.
        folder: the run's.

    Raises:
        DataError: no picture has a caption.
    """
    path = folder / COUNTED
    told = [one.chosen for one in params.sets]
    content = json.dumps([FORM, data.kind, len(data), told, [identity(file) for file in data.inputs]])
    digest = hashlib.sha256(content.encode()).hexdigest()
    if path.exists():
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["digest"] == digest:
            return DocumentFrequencies(held["documents"], held["counts"])
    found = document_frequencies([referred(text) for text in captions] for captions in _captions(data))
    if not found.documents:
        raise DataError(f"{data.kind}: no picture has a caption, and objective scst needs captions to score against")
    write_atomically(path, json.dumps({"digest": digest, **asdict(found)}).encode())
    return found


def _captions(data: TrainingData) -> Iterator[tuple[str, ...]]:
    """Of each picture that has any; what is wrong with the others is told when they are read for a step."""
    for row in range(len(data)):
        try:
            captions = data.texts(row).captions
        except DataError:
            continue
        if captions:
            yield captions
