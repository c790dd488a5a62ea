from __future__ import annotations

import math

import pytest
import torch

from git_caption.errors import UsageError
from git_caption.model.clip_text import ClipText


@pytest.fixture
def tower() -> ClipText:
    return ClipText(width=16, layers=2, heads=2, context=6, vocab=20, embed_dim=5)


def test_padding_and_batch_do_not_change_an_embedding(tower):
    short = tower(torch.tensor([[3, 4]]), torch.tensor([2]))

    padded = tower(torch.tensor([[7, 8, 9, 1], [3, 4, 0, 0], [3, 4, 19, 19]]), torch.tensor([4, 2, 2]))

    assert padded.shape == (3, 5)
    torch.testing.assert_close(padded[1:2], short, atol=1e-6, rtol=0)
    torch.testing.assert_close(padded[2:3], short, atol=1e-6, rtol=0)


def test_the_last_real_token_and_their_order_matter(tower):
    ids = torch.tensor([[3, 4, 5], [3, 4, 6], [4, 3, 5]])

    embedded = tower(ids, torch.tensor([3, 3, 3]))

    assert (embedded[0] - embedded[1]).abs().max() > 1e-3
    assert (embedded[0] - embedded[2]).abs().max() > 1e-3


def test_logits_are_cosines_times_a_bounded_scale(tower):
    images, texts = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    cosines = torch.tensor([[1.0, math.sqrt(0.5)], [0.0, math.sqrt(0.5)]])

    torch.testing.assert_close(tower.contrastive_logits(images, texts), cosines / 0.07)
    with torch.no_grad():
        tower.log_scale.fill_(9.0)
    torch.testing.assert_close(tower.contrastive_logits(images, texts), 100 * cosines)


def test_texts_out_of_bounds_are_refused(tower):
    with pytest.raises(UsageError, match="texts of 7 tokens for a text tower with a context of 6"):
        tower(torch.zeros(1, 7, dtype=torch.long), torch.tensor([7]))
    with pytest.raises(UsageError, match="text lengths from 0 to 3, expected 1 to 3"):
        tower(torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 0]))


def test_a_few_steps_tell_pairs_apart(tower):
    ids = torch.randint(1, 20, (6, 4))
    images = torch.randn(6, 5)
    optimizer = torch.optim.Adam(tower.parameters(), lr=1e-2)
    for _ in range(60):
        logits = tower.contrastive_logits(images, tower(ids, torch.full((6,), 4)))
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert logits.argmax(1).tolist() == [0, 1, 2, 3, 4, 5]
