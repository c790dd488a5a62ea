from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from git_caption.captioner.captioner import Captioner
from git_caption.decoding.generate import Identity
from git_caption.errors import UsageError, WeightsError
from git_caption.images.transform import normalise
from git_caption.params.decoding import DecodingParams
from tests import hub_cache

ATOL = 2e-5  # worst seen 6e-6, of the mapped embeddings, between the tool's libraries and ours


@pytest.fixture
def example(shared_data) -> Path:
    """What the tool itself wrote and said, from a small random model."""
    return shared_data / "legacy" / "kevin_vit_pooled_mlp_gpt2"


def load(folder: Path, **keys) -> Captioner:
    return Captioner.load(folder / "model_4.pt", language_model=str(folder / "lm"), device="cpu", **keys)


def test_it_says_what_the_tool_said(example):
    captioner = load(example)
    expected = json.loads((example / "expected.json").read_text())
    tensors = torch.load(example / "expected.pt", weights_only=True)
    decoding = captioner.decoding(DecodingParams(), "caption")
    for kind in ("images", "images_imagenet"):
        rows = [row for row in expected["generate"] if row["input"] == kind]
        with torch.inference_mode():
            features = captioner.network.encode(tensors[kind])
            prefix = captioner.network.prefix(features)[0]
        if kind == "images":
            assert torch.allclose(features.values[:, 0], tensors["image_features"], atol=ATOL)
            assert torch.allclose(prefix, tensors["mapped"], atol=ATOL)
        picked = features.select(torch.tensor([row["image"] for row in rows]))
        identities = [Identity(str(number)) for number in range(len(rows))]
        found = captioner.generate(picked, [row["prompt"] for row in rows], decoding, identities)
        assert [list(texts[0].token_ids) for texts in found] == [row["output_ids"][1:] for row in rows]
        assert [texts[0].text for texts in found] == [row["text"].strip() for row in rows]
        assert len(rows) >= 4


def test_images_are_prepared_as_the_tool_did_at_inference(example):
    captioner = load(example)
    pixels = torch.cat([torch.from_numpy(captioner.pixels(example / f"image{number}.png")) for number in range(4)])
    given = torch.load(example / "expected.pt", weights_only=True)["images_imagenet"]
    transform = captioner.config.transform
    assert torch.equal(normalise(pixels, transform.mean, transform.std), given)
    assert transform.exif is False


def test_all_keys_of_the_tool_may_be_given(example, shared_data):
    encoder = shared_data / "legacy" / "openai_clip_vit_w64" / "model_state_dict.pt"
    keys = {"image_encoder_type": str(encoder), "mapping_type": "mlp", "output_grid": False, "input_resolution": 64}
    assert load(example, **keys).config == load(example).config


def test_keys_that_contradict_the_file_are_named_together(example):
    with pytest.raises(UsageError) as caught:
        load(example, image_encoder_type="ViT-B/32", mapping_type="linearLn", output_grid=True, input_resolution=224)
    for part in (
        "image_encoder_type 'ViT-B/32' (ViT, layers 12, width 768, patch 32, resolution 224) was given and the file "
        "has ViT, layers 2, width 64, patch 16, resolution 64",
        "mapping_type 'linearLn' was given and the file has 'mlp'",
        "output_grid True was given and the file has False",
        "input_resolution 224 was given and the file has 64",
    ):
        assert part in str(caught.value)


def test_it_becomes_a_checkpoint_that_says_the_same(example, tmp_path):
    captioner = load(example)
    images = [example / f"image{number}.png" for number in range(4)]
    captioner.save(tmp_path)
    again = Captioner.load(tmp_path, device="cpu")
    assert again.caption(images) == captioner.caption(images)
    assert again.config.transform == captioner.config.transform


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "gpt2-large"), ("opt", "facebook/opt-2.7b"), ("llama", "decapoda-research/llama-7b-hf")],
)
def test_where_no_language_model_is_named_it_is_the_tools_one_with_the_files_layers(
    family, name, make_captioner, hub_home, tmp_path
):
    old_file(tmp_path / "model.pt", make_captioner(family))
    with pytest.raises(WeightsError, match=rf"^{name}: config.json, a tokenizer"):
        Captioner.load(tmp_path / "model.pt")


def old_file(path: Path, captioner: Captioner, *, buffers: bool = False) -> dict[str, torch.Tensor]:
    """Write a captioner as the tool would have written it, and give the tensors."""
    network = captioner.network
    tensors = {f"image_encoder.{name}": value for name, value in network.image_encoder.visual.state_dict().items()}
    tensors |= {f"visual_projection.{name}": value for name, value in network.mapper.state_dict().items()}
    tensors |= {f"language_model.{name}": value for name, value in network.language_model.state_dict().items()}
    tensors["wte.weight"] = network.language_model.get_input_embeddings().weight.detach()
    if buffers:
        tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["language_model.transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
        tensors["language_model.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(tensors, path)
    return tensors


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize(("mapper", "output"), [("mlp", "pooled"), ("linear", "grid"), ("linearLn", "pooled")])
def test_files_of_every_kind_are_read(family, mapper, output, make_captioner, language_models, pictures, tmp_path):
    captioner = make_captioner(family, mapper, output)
    old_file(tmp_path / "model.pt", captioner, buffers=True)
    folder = str(language_models[family])
    loaded = Captioner.load(tmp_path / "model.pt", language_model=folder, quantization="none")
    assert loaded.config.mapper.type == mapper and loaded.config.image_encoder.output == output
    with torch.inference_mode():
        pixels = torch.rand(2, 3, 32, 32)
        features = captioner.network.encode(pixels)
        assert torch.allclose(loaded.network.encode(pixels).values, features.values, atol=1e-4)  # values up to 9
        assert torch.equal(loaded.network.prefix(features)[0], captioner.network.prefix(features)[0])
    decoding = captioner.decoding(DecodingParams(num_beams=3, max_new_tokens=8), "caption")
    identities = [Identity("a"), Identity("b")]
    prompts = ["", "what is it?"]
    if mapper == "linear":  # the tool's name for it was None
        Captioner.load(tmp_path / "model.pt", language_model=folder, quantization="none", mapping_type="None")
    assert loaded.generate(features, prompts, decoding, identities) == captioner.generate(
        features, prompts, decoding, identities
    )


def test_a_file_without_a_language_model_takes_it_from_the_hub(make_captioner, language_models, hub_home, tmp_path):
    captioner = make_captioner("gpt2")
    tensors = old_file(tmp_path / "model.pt", captioner)
    kept = {name: value for name, value in tensors.items() if not name.startswith("language_model.")}
    torch.save(kept, tmp_path / "model.pt")
    hub_cache.snapshot(hub_home, "gpt2-large", language_models["gpt2"])
    loaded = Captioner.load(tmp_path / "model.pt", language_model="gpt2-large")
    assert loaded.config.language_model.weights.id == "gpt2-large"
    assert torch.equal(loaded.network.language_model.lm_head.weight, captioner.network.language_model.lm_head.weight)


def test_another_language_model_than_the_files_is_named(make_captioner, language_models, tmp_path):
    old_file(tmp_path / "model.pt", make_captioner("gpt2"))
    with pytest.raises(
        WeightsError, match=r"with language_model '.*opt' does not fit the captioner: \d+ missing \(lang"
    ):
        Captioner.load(tmp_path / "model.pt", language_model=str(language_models["opt"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a loadable language model: .*model_type"),
        ("{bad", r"/config\.json: not readable JSON: Expecting"),
        ("5", r"/config\.json: holds a int, expected an object"),
        ('{"model_type": "new_thing"}', "not a loadable language model: .*new_thing"),
        ('{"model_type": ["a"]}', "not a loadable language model: "),
        ('{"model_type": "gpt2", "n_embd": "x"}', "not a loadable language model: .*'n_embd' expected int, got str"),
        ('{"model_type": "gpt2", "quantization_config": 5}', "not a loadable language model: "),
    ],
)
def test_a_language_model_whose_config_cannot_be_read_is_named(
    content, message, make_captioner, language_models, tmp_path
):
    old_file(tmp_path / "model.pt", make_captioner("gpt2"))
    folder = tmp_path / "lm"
    shutil.copytree(language_models["gpt2"], folder)
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"^{folder}.*{message}") as caught:
        Captioner.load(tmp_path / "model.pt", language_model=str(folder))
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_named(make_captioner, language_models, tmp_path):
    captioner, folder = make_captioner("gpt2"), str(language_models["gpt2"])
    tensors = old_file(tmp_path / "model.pt", captioner)

    def loaded(**changes):
        torch.save({**tensors, **changes}, tmp_path / "model.pt")
        return Captioner.load(tmp_path / "model.pt", language_model=folder, mapping_type=None)

    with pytest.raises(
        WeightsError, match=r"2 unexpected \(image_encoder.visual.extra, language_model.transformer.x\)"
    ):
        loaded(**{"image_encoder.extra": torch.ones(1), "language_model.transformer.x": torch.ones(1)})
    with pytest.raises(WeightsError, match=r"1 misshapen \(language_model.transformer.ln_f.bias is \(3,\), expected"):
        loaded(**{"language_model.transformer.ln_f.bias": torch.ones(3)})
    with pytest.raises(WeightsError, match=r"wte.weight is not the language model's input embedding"):
        loaded(**{"wte.weight": tensors["wte.weight"] + 1})
    others = {name: value for name, value in tensors.items() if not name.startswith("visual_projection.")}
    for name, message in (
        ("visual_projection.convolution", r"none of the tool's: linear, linearLn, mlp and transformer"),
        (
            "projection.weight",
            r"no tensor is named visual_projection\.\* or clip_project\.\*; a checkpoint directory, a file of",
        ),
    ):
        torch.save({**others, name: torch.ones(1)}, tmp_path / "model.pt")
        with pytest.raises(WeightsError, match=message):
            Captioner.load(tmp_path / "model.pt", language_model=folder)
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    with pytest.raises(WeightsError, match=r"image.png: not a readable weight file"):
        Captioner.load(tmp_path / "image.png")


def quantized_file(path: Path, make_captioner, folder: Path) -> Captioner:
    """Write a file with a LLaMA in 8 bits, as the tool did, and give the captioner it is of."""
    pytest.importorskip("bitsandbytes")
    captioner = make_captioner("llama")
    captioner.save(path.parent / "whole")
    captioner = Captioner.load(path.parent / "whole", quantization="8bit", device="cpu")
    tensors = old_file(path, captioner)
    tensors["language_model.lm_head.0.weight"] = tensors.pop("language_model.lm_head.weight")
    torch.save(tensors, path)
    assert any(name.endswith(".SCB") for name in tensors)
    return captioner


def test_llama_in_8_bits_is_loaded_exactly(make_captioner, language_models, tmp_path):
    captioner = quantized_file(tmp_path / "model.pt", make_captioner, language_models["llama"])
    loaded = Captioner.load(tmp_path / "model.pt", language_model=str(language_models["llama"]), device="cpu")
    assert loaded.config.language_model.quantization == "8bit"
    ours, theirs = loaded.network.language_model.state_dict(), captioner.network.language_model.state_dict()
    assert ours.keys() == theirs.keys() and any(value.dtype == torch.int8 for value in ours.values())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_8_bits_without_scales_cannot_be_read(make_captioner, language_models, tmp_path):
    quantized_file(tmp_path / "model.pt", make_captioner, language_models["llama"])
    tensors = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save({name: value for name, value in tensors.items() if not name.endswith("SCB")}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"q_proj.weight is in 8 bits without its scale \(SCB\)"):
        Captioner.load(tmp_path / "model.pt", language_model=str(language_models["llama"]))


def test_the_tools_transformer_is_read_and_maps_as_it_did(make_captioner, hub_home, tmp_path):
    """Grid of a ViT-B/16-like tower as wide as the language model; the layer sees one image's rows as a batch."""
    folder = tmp_path / "lm"
    tokenizer = hub_cache.language_model(folder, "gpt2")
    assert tokenizer == folder
    captioner = make_captioner("gpt2", "linear", "grid")
    width = 64  # of the small tower's grid
    torch.manual_seed(3)
    language_model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=300, n_embd=width, n_layer=1, n_head=2, n_positions=64)
    )
    language_model.config.save_pretrained(folder)
    layer = torch.nn.TransformerEncoderLayer(d_model=width, nhead=8, dim_feedforward=2048, dropout=0.1).eval()
    visual = captioner.network.image_encoder.visual.state_dict()
    tensors = {f"image_encoder.{name}": value for name, value in visual.items()}
    tensors |= {f"visual_projection.{name}": value for name, value in layer.state_dict().items()}
    tensors |= {f"language_model.{name}": value for name, value in language_model.state_dict().items()}
    torch.save({**tensors, "wte.weight": language_model.transformer.wte.weight.detach()}, tmp_path / "model.pt")

    loaded = Captioner.load(tmp_path / "model.pt", language_model=str(folder), mapping_type="transformer")

    assert (loaded.config.mapper.type, loaded.config.mapper.rows_attend) == ("encoder_layer", False)
    with torch.inference_mode():
        pixels = torch.rand(2, 3, 32, 32)
        features = loaded.network.encode(pixels)
        for number in range(2):  # the tool made texts for one image at a time
            theirs = layer(features.values[number : number + 1])
            found = loaded.network.prefix(features)[0][number : number + 1]
            assert torch.allclose(found, theirs, atol=1e-5)
    loaded.save(tmp_path / "saved")
    again = Captioner.load(tmp_path / "saved")
    assert torch.equal(again.network.prefix(features)[0], loaded.network.prefix(features)[0])
