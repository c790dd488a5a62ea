from __future__ import annotations

import torch

from git_caption.model.encoder import Features


def test_features_of_one_image_are_selected_for_each_of_its_prompts():
    features = Features(torch.arange(6.0).view(2, 1, 3), torch.tensor([[True], [False]]))

    picked = features.select(torch.tensor([1, 0, 1]))

    assert picked.values[:, 0, 0].tolist() == [3, 0, 3]
    assert picked.mask[:, 0].tolist() == [False, True, False]
