from __future__ import annotations

import pytest
import torch

from git_caption.errors import DataError
from git_caption.model.encoder import Features
from git_caption.model.temporal import TemporalEmbedding


def test_each_frame_gets_the_vector_of_its_position():
    temporal = TemporalEmbedding(positions=3, width=2)
    with torch.no_grad():
        temporal.weight.copy_(torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]]))
    frames = Features(torch.arange(8.0).view(2, 2, 2), torch.tensor([[True, True], [True, False]]))

    placed = temporal(frames)

    assert placed.values.tolist() == [[[10, 21], [12, 23]], [[34, 45], [36, 47]]]
    assert placed.mask is frames.mask


def test_a_new_embedding_changes_nothing_and_learns():
    temporal = TemporalEmbedding(positions=3, width=2)
    frames = Features(torch.randn(3, 4, 2), torch.ones(3, 4, dtype=torch.bool))

    placed = temporal(frames)
    placed.values.sum().backward()

    assert torch.equal(placed.values, frames.values)
    assert temporal.weight.grad.tolist() == [[4.0, 4.0]] * 3


def test_it_takes_the_precision_of_the_features():
    frames = Features(torch.ones(1, 1, 2, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bool))

    assert TemporalEmbedding(1, 2)(frames).values.dtype == torch.bfloat16


def test_more_frames_than_positions_are_refused():
    frames = Features(torch.zeros(4, 1, 2), torch.ones(4, 1, dtype=torch.bool))

    with pytest.raises(DataError, match=r"a video has 4 frames and .* positions for 3: give it at most 3 frames"):
        TemporalEmbedding(3, 2)(frames)
