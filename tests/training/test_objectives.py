"""The losses, against ones computed text by text and pair by pair."""

import itertools
import math
import random

import pytest
import torch
from torch import nn

from git_caption.model.clip_text import ClipText
from git_caption.model.vision import Features
from git_caption.samples.collate import Batch
from git_caption.text.tokenizer import encode_target, train_bpe
from git_caption.training.objectives import CaptionObjective, ContrastiveObjective, LanguageObjective
from tests.small_network import SETTINGS, TEXTS, VOCABULARY, network


class Encoder(nn.Module):
    """Gives pixels float[B, D] as the features of B images."""

    def forward(self, pixels):
        return Features(pixels[:, None], torch.ones(len(pixels), 1, dtype=torch.bool))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_bpe(TEXTS, VOCABULARY, tmp_path_factory.mktemp("tokenizer"))


def _batch(tokenizer) -> Batch:
    """Nine texts of different lengths, with and without prompts, about three pictures."""
    source = random.Random(1)
    prompts = [tokenizer(text).input_ids for text in ["", "what is it?", "a", "", "is it red?", "", "", "how many", ""]]
    targets = [encode_target(tokenizer, source.choice(TEXTS), after_prompt=bool(prompt)) for prompt in prompts]
    return Batch(["a", "b", "c"], torch.zeros(3, 3, 1, 1), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]), prompts, targets)


@pytest.mark.parametrize("family", SETTINGS)
def test_the_caption_loss_is_the_mean_over_all_target_tokens_their_end_among_them(family, tokenizer):
    net = network(family, tokenizer, seed=2)
    net.image_encoder = Encoder()
    pixels, batch = 3 * torch.randn(3, 6, dtype=torch.float64), _batch(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id  # an end that is taken for padding would not be learnt

    objective = CaptionObjective(net)
    loss = objective(pixels, batch) / objective.count(batch)

    with torch.no_grad():
        prefixes, _ = net.prefix(Encoder()(pixels))
        embeddings = net.language_model.get_input_embeddings()
        losses, ends = [], []
        for image, prompt, target in zip(batch.images.tolist(), batch.prompt_ids, batch.target_ids, strict=True):
            tokens = embeddings(torch.tensor([[*prompt, *target]]))
            logits = net.language_model(inputs_embeds=torch.cat([prefixes[image : image + 1], tokens], dim=1)).logits[0]
            before = logits[-len(target) - 1 : -1].log_softmax(1)
            own = [-before[step, token].item() for step, token in enumerate(target)]
            losses += own
            ends.append(own[-1])
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    without_ends = (sum(losses) - sum(ends)) / (len(losses) - len(ends))
    assert abs(loss.item() - without_ends) > 0.01


@pytest.mark.parametrize("family", SETTINGS)
def test_the_language_loss_is_the_mean_over_the_texts_of_each_picture_one_after_another(family, tokenizer):
    model, batch = network(family, tokenizer, seed=3).language_model, _batch(tokenizer)
    model.config.max_position_embeddings = positions = 30
    end = tokenizer.eos_token_id
    texts = [p + t for p, t in zip(batch.prompt_ids, batch.target_ids, strict=True)]
    documents = [[end, *itertools.chain(*texts[first:last])] for first, last in ((0, 3), (3, 5), (5, 9))]
    assert max(map(len, documents)) > positions + 1 > min(map(len, documents))
    documents = [document[: positions + 1] for document in documents]  # the last token is read, not met

    objective = LanguageObjective(model)
    nothing = Features(torch.zeros(3, 0, 0), torch.ones(3, 0, dtype=torch.bool))
    loss = objective(nothing, batch) / objective.count(batch)

    losses = []
    for document in documents:
        for place in range(1, len(document)):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([document[:place]])).logits[0, -1]
            losses.append(-logits.log_softmax(0)[document[place]].item())
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_contrastive_loss_is_the_mean_cross_entropy_of_rows_and_columns():
    text = ClipText(width=8, layers=1, heads=2, context=4, vocab=10, embed_dim=6)
    pixels = torch.randn(3, 6)
    captions = [[1, 2], [3, 4, 5], [6, 7, 8, 9, 1, 2]]  # the last is longer than the context
    batch = Batch(["a", "b", "c"], torch.zeros(3, 3, 1, 1), torch.arange(3), [[], [], []], captions)

    objective = ContrastiveObjective(Encoder(), text)
    loss = objective(pixels, batch) / objective.count(batch)

    texts = [text(torch.tensor([ids[:4]]), torch.tensor([min(4, len(ids))]))[0].tolist() for ids in captions]

    def similarity(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    scores = [[similarity(image, caption) / 0.07 for caption in texts] for image in pixels.tolist()]
    wanted = 0.0
    for pair in range(3):
        for others in (scores[pair], [row[pair] for row in scores]):
            wanted += (math.log(sum(map(math.exp, others))) - scores[pair][pair]) / 6
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
