"""Which blocks of a language model get layers of cross-attention."""

from __future__ import annotations

import pytest

from git_caption.params.training.fusion import FusionParams


@pytest.mark.parametrize(
    ("count", "which", "blocks"),
    [
        (None, None, [0]),
        (2, None, [0, 1]),
        (2, "first", [0, 1]),
        (2, "last", [6, 7]),
        (8, "last", [0, 1, 2, 3, 4, 5, 6, 7]),
        (None, "every:3", [0, 3, 6]),
        (2, "every:3", [0, 3]),
        (None, "every:1", [0, 1, 2, 3, 4, 5, 6, 7]),
        (None, "every:9", [0]),
    ],
)
def test_blocks_are_the_first_the_last_or_each_so_many(count, which, blocks):
    params = FusionParams(fusion="cross_attention", nb_ca=count, ca_layers=which)
    assert params.blocks(8) == blocks and list(params.check()) == []


@pytest.mark.parametrize("which", ["first", "last", "every:1"])
def test_more_layers_than_blocks_reach_past_them(which):
    assert max(FusionParams(fusion="cross_attention", nb_ca=9, ca_layers=which).blocks(8)) == 8
