from __future__ import annotations

import pytest
import torch
from torch import nn

from git_caption.errors import UsageError
from git_caption.model.mapping import TransformerMapper, build_mapper
from git_caption.model.weights import load_exactly, read_tensors
from git_caption.params.model import MapperConfig

VISION, LANGUAGE = 6, 8


def all_true(values):
    return torch.ones(values.shape[:2], dtype=torch.bool)


def reference(mapper: TransformerMapper, rows: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """ClipCap's layers by torch's own attention: rows float[B, L, D_l], `hidden` bool[B, L] true where not seen."""
    for layer in mapper.transformer.layers:
        attention = nn.MultiheadAttention(LANGUAGE, layer.attn.heads, batch_first=True)
        weights = {
            "in_proj_weight": torch.cat([layer.attn.to_queries.weight, layer.attn.to_keys_values.weight]),
            "in_proj_bias": torch.zeros(3 * LANGUAGE),
            "out_proj.weight": layer.attn.project.weight,
            "out_proj.bias": layer.attn.project.bias,
        }
        attention.load_state_dict(weights)
        normed = layer.norm1(rows)
        rows = rows + attention(normed, normed, normed, key_padding_mask=hidden, need_weights=False)[0]
        rows = rows + layer.mlp.fc2(layer.mlp.fc1(layer.norm2(rows)).clamp(min=0))
    return rows


def test_linear_maps_each_row_and_has_the_old_names():
    mapper = build_mapper(MapperConfig(type="linear"), VISION, LANGUAGE, pooled=False)
    values = torch.randn(2, 3, VISION)

    assert set(mapper.state_dict()) == {"weight", "bias"}
    assert mapper.keeps_rows
    torch.testing.assert_close(mapper(values, all_true(values)), values @ mapper.weight.T + mapper.bias)


def test_linear_with_norm_maps_each_row_and_has_the_old_names():
    mapper = build_mapper(MapperConfig(type="linearLn"), VISION, LANGUAGE, pooled=False)
    values = torch.randn(2, 3, VISION)

    mapped = mapper(values, all_true(values))

    assert set(mapper.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert mapper.keeps_rows
    rows = values @ mapper.state_dict()["0.weight"].T + mapper.state_dict()["0.bias"]
    rows = (rows - rows.mean(2, keepdim=True)) / (rows.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(mapped, rows)


def test_mlp_makes_a_prefix_from_one_row_and_has_the_old_names():
    mapper = build_mapper(MapperConfig(type="mlp", prefix_length=5), VISION, LANGUAGE, pooled=True)
    values = torch.randn(2, 1, VISION)

    mapped = mapper(values, all_true(values))

    shapes = {name: tuple(tensor.shape) for name, tensor in mapper.state_dict().items()}
    assert shapes == {
        "model.0.weight": (20, VISION),
        "model.0.bias": (20,),
        "model.2.weight": (40, 20),
        "model.2.bias": (40,),
    }
    assert not mapper.keeps_rows
    t = mapper.state_dict()
    flat = torch.tanh(values[:, 0] @ t["model.0.weight"].T + t["model.0.bias"]) @ t["model.2.weight"].T
    torch.testing.assert_close(mapped, (flat + t["model.2.bias"]).view(2, 5, LANGUAGE))


def test_mlp_equals_the_one_of_clipcap(shared_data):
    folder = shared_data / "legacy" / "clipcap_mlp"
    expected = torch.load(folder / "expected.pt", weights_only=True)
    tensors = read_tensors(folder / "model.pt", ("clip_project.",))
    mapper = build_mapper(MapperConfig(type="mlp", prefix_length=10), 64, 64, pooled=True)
    load_exactly(mapper, {name.removeprefix("clip_project."): value for name, value in tensors.items()}, "model.pt")

    mapped = mapper(expected["prefix_in"][:, None], torch.ones(6, 1, dtype=torch.bool))

    torch.testing.assert_close(mapped, expected["prefix_embeddings"], atol=1e-6, rtol=0)


def test_mlp_on_grid_is_refused_with_what_to_use():
    with pytest.raises(UsageError, match=r"'mlp' maps one pooled feature.*'output_grid': False.*'transformer'"):
        build_mapper(MapperConfig(type="mlp"), VISION, LANGUAGE, pooled=False)


def test_transformer_reads_a_pooled_feature_as_clipcap_does():
    config = MapperConfig(type="transformer", prefix_length=3, clip_length=4, layers=2, heads=2)
    mapper = build_mapper(config, VISION, LANGUAGE, pooled=True)
    values = torch.randn(2, 1, VISION)

    mapped = mapper(values, all_true(values))

    rows = mapper.linear(values[:, 0]).view(2, 4, LANGUAGE)
    rows = torch.cat([rows, mapper.prefix_const.expand(2, -1, -1)], 1)
    expected = reference(mapper, rows, torch.zeros(2, 7, dtype=torch.bool))[:, 4:]
    torch.testing.assert_close(mapped, expected, atol=1e-6, rtol=0)
    assert not mapper.keeps_rows


def test_transformer_has_the_names_of_clipcap():
    config = MapperConfig(type="transformer", prefix_length=3, clip_length=4, layers=1, heads=2)

    names = set(build_mapper(config, VISION, LANGUAGE, pooled=True).state_dict())

    layer = "transformer.layers.0."
    assert names == {"prefix_const", "linear.weight", "linear.bias"} | {
        f"{layer}{name}"
        for name in (
            *("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"),
            *("attn.to_queries.weight", "attn.to_keys_values.weight", "attn.project.weight", "attn.project.bias"),
            *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"),
        )
    }


def test_transformer_on_grid_reads_the_rows_that_are_real():
    config = MapperConfig(type="transformer", prefix_length=3, layers=2, heads=2)
    mapper = build_mapper(config, VISION, LANGUAGE, pooled=False)
    values = torch.randn(2, 4, VISION)
    mask = torch.tensor([[True, True, True, True], [True, False, True, False]])

    mapped = mapper(values, mask)

    rows = torch.cat([mapper.linear(values), mapper.prefix_const.expand(2, -1, -1)], 1)
    hidden = torch.cat([~mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(mapped, reference(mapper, rows, hidden)[:, 4:], atol=1e-6, rtol=0)
    torch.testing.assert_close(mapped[1:], mapper(values[1:, [0, 2]], mask[1:, [0, 2]]), atol=1e-6, rtol=0)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UsageError, match=r"mapper\.heads 3 does not divide the language model's width 8"):
        build_mapper(MapperConfig(type="transformer", heads=3), VISION, LANGUAGE, pooled=True)


def test_an_unknown_mapper_is_refused():
    with pytest.raises(UsageError, match=r"unknown mapping_type 'conv', known: linear, .*, encoder_layer"):
        build_mapper(MapperConfig(type="conv"), VISION, LANGUAGE, pooled=True)  # type: ignore[arg-type]


def encoder_layer(tensors: dict[str, torch.Tensor], rows: torch.Tensor, heads: int) -> torch.Tensor:
    """A post-norm layer with ReLU over rows float[L, D], written out: softmax attention head by head."""

    def linear(name: str, given: torch.Tensor) -> torch.Tensor:
        return given @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(name: str, given: torch.Tensor) -> torch.Tensor:
        centred = given - given.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    queries, keys, values = (rows @ tensors["self_attn.in_proj_weight"].T + tensors["self_attn.in_proj_bias"]).chunk(
        3, -1
    )
    size = rows.shape[1] // heads
    by_head = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = (queries[:, part] @ keys[:, part].T / size**0.5).softmax(-1)
        by_head.append(weights @ values[:, part])
    rows = norm("norm1", rows + linear("self_attn.out_proj", torch.cat(by_head, -1)))
    return norm("norm2", rows + linear("linear2", linear("linear1", rows).clamp(min=0)))


@pytest.mark.parametrize("rows_attend", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_encoder_layer_attends_to_real_rows_alone_however_batched(rows_attend, training):
    config = MapperConfig(type="encoder_layer", heads=2, rows_attend=rows_attend)
    mapper = build_mapper(config, LANGUAGE, LANGUAGE, pooled=False)
    mapper.train(training)
    for module in mapper.modules():  # in training, but nothing dropped, so that it can be compared
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    mapper.self_attn.dropout = 0.0
    values = torch.randn(2, 4, LANGUAGE)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])

    with torch.no_grad():
        mapped = mapper(values, mask)

    tensors = mapper.state_dict()
    for number, length in enumerate([4, 2]):
        rows = values[number, :length]
        expected = (
            encoder_layer(tensors, rows, heads=2)
            if rows_attend
            else torch.cat([encoder_layer(tensors, row[None], heads=2) for row in rows])
        )
        torch.testing.assert_close(mapped[number, :length], expected, atol=2e-6, rtol=0)
        with torch.no_grad():
            alone = mapper(rows[None], mask[number : number + 1, :length])
        torch.testing.assert_close(mapped[number : number + 1, :length], alone, atol=1e-6, rtol=0)
    assert mapper.keeps_rows and tensors["linear1.weight"].shape == (2048, LANGUAGE)


def test_encoder_layer_between_two_widths_is_refused():
    with pytest.raises(UsageError, match=r"keeps the width of the features, 6, and the language model's is 8"):
        build_mapper(MapperConfig(type="encoder_layer"), VISION, LANGUAGE, pooled=False)
