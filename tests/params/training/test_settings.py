"""What a preset, a config file and flags make together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from git_caption.errors import UsageError
from git_caption.params.schema import describe, to_dict
from git_caption.params.training.presets import PRESETS
from git_caption.params.training.run import TrainingParams
from git_caption.params.training.settings import parts_of, settle
from git_caption.params.training.spellings import SPELLINGS


@pytest.fixture
def told(tmp_path) -> dict:
    """The data and output of a run; further keys are given beside them."""
    for name in ("images", "captions"):
        (tmp_path / name).write_text("")
    return {
        "image_tsv": str(tmp_path / "images"),
        "caption_tsv": str(tmp_path / "captions"),
        "output_dir": str(tmp_path / "out"),
    }


def settled(config, **flags) -> TrainingParams:
    return settle(config, flags, "run.yaml").params


def test_flags_win_over_the_config_which_wins_over_the_preset(told):
    params = settled({**told, "bs": 7, "lr": 1e-3}, lr="1e-4")
    steps = params.optimisation
    assert (params.preset, steps.epochs, steps.bs, steps.lr) == ("git", 10.0, 7, 1e-4)


def test_one_field_of_a_part_is_told_beside_the_others(told):
    config = {**told, "mapper": {"type": "transformer", "layers": 2}, "language_model": {"name": "gpt2"}}
    params = settled(config, prefix_length="12", **{"mapper.heads": "4"}, output_grid="False")
    mapper, encoder = params.parts.mapper, params.parts.image_encoder
    assert mapper is not None and encoder is not None
    assert (mapper.type, mapper.layers, mapper.prefix_length, mapper.heads) == ("transformer", 2, 12, 4)
    assert (encoder.name, encoder.output) == ("ViT-B/32", "pooled")


@pytest.mark.parametrize(
    ("flag", "told_as", "key", "value"),
    [
        ("output_gird", "True", "image_encoder.output", "grid"),
        ("output_grid", "false", "image_encoder.output", "pooled"),
        ("image_encoder_type", "RN50", "image_encoder.name", "RN50"),
        ("is_rn", "True", "image_encoder.name", "RN50x4"),
        ("is_rn", "False", "image_encoder.name", "ViT-B/32"),
        ("language_model", "gpt2-large", "language_model.name", "gpt2-large"),
        ("mapping_type", "mlp", "mapper.type", "mlp"),
        ("mapping_type", "None", "mapper.type", "linear"),
        ("num_layres", "3", "mapper.layers", 3),
        ("num_layers", "3", "mapper.layers", 3),
        ("prefix_length_clip", "3", "mapper.clip_length", 3),
        ("only_prefix", "True", "tune", "mapper"),
        ("train_language_model", "True", "tune", "full"),
        ("-ws", "3", "warmup_steps", 3),
        ("report_to_wandb", "True", "report_to", ["wandb"]),
        ("batch_size", "3", "bs", 3),
        ("mapper", "{'type': 'transformer', 'layers': 3}", "mapper.layers", 3),
    ],
)
def test_old_spellings_set_our_keys(flag, told_as, key, value, told):
    found = to_dict(settled(told, **{flag: told_as}))
    for part in key.split("."):
        found = found[part]
    assert found == value


def test_an_old_spelling_is_taken_from_a_config_too(told):
    params = settled({**told, "output_grid": False, "num_layers": 3})
    assert params.parts.image_encoder.output == "pooled" and params.parts.mapper.layers == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bs": 1, "batch_size": 2}, "run.yaml: 'bs' and 'batch_size' are one key, 'bs'; give one of them"),
        ({"prefix_length": 1, "mapper": {"prefix_length": 2}}, "'prefix_length' and 'mapper' are one key, 'mapper.p"),
        ({"is_rn": True, "image_encoder_type": "RN50"}, "'is_rn' and 'image_encoder_type' are one key"),
        ({"output_grid": "maybe"}, r"'image_encoder.output': expected one of grid, pooled, found 'maybe'"),
        ({"preset": "clipcat"}, r"'preset': expected one of git, .*, found 'clipcat'; did you mean 'clipcap'\?"),
        ({1: 2}, r"unknown key '1'; known keys: preset, "),
        ({"pn": "four", "device": 123}, "'pn': expected where the blocks of each GPU but the last end, as 411"),
    ],
)
def test_what_cannot_be_is_one_line(config, message, told):
    with pytest.raises(UsageError, match=message) as caught:
        settled({**told, **config})
    assert "\n" not in str(caught.value)


def test_each_tool_says_transformer_for_a_mapper_of_its_own(told):
    clipcap = settled({**told, "preset": "clipcap"}, mapping_type="transformer")
    assert clipcap.parts.mapper.type == "transformer"
    own = settled({**told, "mapper": {"type": "transformer"}})
    assert own.parts.mapper.type == "transformer"


def test_an_mlp_takes_pooled_features_unless_told(told):
    assert settled(told, mapping_type="mlp").parts.image_encoder.output == "pooled"
    assert settled(told, mapping_type="linear").parts.image_encoder.output == "grid"
    assert settled(told, mapping_type="mlp", output_grid="True").parts.image_encoder.output == "grid"


@pytest.mark.parametrize(
    ("name", "settings", "bits"),
    [
        ("decapoda-research/llama-7b-hf", {}, "8bit"),
        ("meta-llama/Llama-3.2-1B", {}, "8bit"),
        ("gpt2-large", {}, "none"),
        ("meta-llama/Llama-3.2-1B", {"train_language_model": "True"}, "none"),
        ("meta-llama/Llama-3.2-1B", {"language_model.quantization": "4bit"}, "4bit"),
        ("meta-llama/Llama-3.2-1B", {"preset": "clipcap", "tune": "mapper"}, "none"),
    ],
)
def test_a_frozen_llama_is_held_in_8_bits(name, settings, bits, told):
    assert settled(told, **{"-lm": name, **settings}).parts.language_model.quantization == bits


@pytest.mark.parametrize(("model_type", "bits"), [("llama", "8bit"), ("qwen2", "none")])
def test_a_folder_is_a_llama_by_its_config(model_type, bits, told, tmp_path):
    folder = tmp_path / "llamas" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    assert settled(told, language_model=str(folder)).parts.language_model.quantization == bits


def test_a_part_of_its_own_takes_nothing_from_a_preset(told):
    architecture = {"model_type": "llama", "hidden_size": 16}
    config = {**told, "image_encoder": {"name": "RN50"}, "language_model": {"name": "small"}}
    config["language_model"]["architecture"] = architecture
    assert settled(config).preset is None
    language_model = settled({**config, "preset": "git"}).parts.language_model
    assert (language_model.architecture, language_model.quantization) == (architecture, "none")
    with pytest.raises(UsageError, match=r"missing key 'language_model\.name'"):
        settled({**told, "preset": "git", "language_model": {"architecture": architecture}})


def test_a_run_that_goes_on_or_has_no_language_model_gets_no_parts(told, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    first = settled({**told, "init_from": str(tmp_path / "checkpoint")})
    parts = first.parts
    assert (first.preset, parts.image_encoder, parts.mapper, parts.language_model) == (None, None, None, None)
    assert first.optimisation == TrainingParams(dataset=first.dataset, parts=parts, saving=first.saving).optimisation

    encoder = {"name": "custom", "architecture": {}, "output": "pooled"}
    second = settled({**told, "objective": "contrastive", "image_encoder": encoder})
    assert (second.preset, second.parts.mapper, second.parts.language_model) == (None, None, None)
    further = settled({**told, "preset": "llama_ca", "init_from": str(tmp_path / "checkpoint")})
    assert (further.optimisation.betas, further.fusion.crosses) == ((0.9, 0.95), False)
    third = settled({**told, "preset": "git", "init_from": str(tmp_path / "checkpoint")})
    assert (third.optimisation.warmup_steps, third.parts.image_encoder) == (5000, None)


def test_a_preset_is_implied(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "F.pkl").write_text("")
    (tmp_path / "instagram_data").mkdir()
    out = {"output_dir": "out"}
    assert settled({**out, "data": "F.pkl"}).preset == "clipcap"
    assert settled({**out, "data_dir": "instagram_data", "init_from": "checkpoint"}).preset == "instagram"
    assert settled({**out, "data_dir": "instagram_data"}).preset == "git"
    assert settled({**out, "data": "F.pkl", "nb_ca": 2}).fusion.crosses
    assert settled({**out, "data_dir": "instagram_data", "fusion": "cross_attention"}).preset == "llama_ca"
    assert settled({**out, "data": "F.pkl", "preset": "clipcap_opt"}).parts.mapper.prefix_length == 32


def test_data_of_a_preset_counts_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match="missing key 'data', or 'image_tsv' and 'caption_tsv': what to train on"):
        settled({"output_dir": "out"})
    (tmp_path / "data" / "conceptual").mkdir(parents=True)
    assert settled({"output_dir": "out"}).dataset.data == "../data/conceptual"


@pytest.mark.parametrize(
    ("config", "preset", "targets"),
    [
        ({"model_type": "blip"}, "blip", "query,value,feed_forward"),
        ({"model_type": "blip-2"}, "blip", None),
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}, "vit_gpt2", "c_attn,c_fc"),
        ({"model_type": "vision-encoder-decoder", "decoder": {"model_type": "trocr"}}, "vit_gpt2", None),
        ({"captioner": {"id": "base"}}, "vit_gpt2", "c_attn,c_fc"),
        ("{", "blip", None),
    ],
)
def test_a_captioner_implies_the_preset_of_its_family(config, preset, targets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    base = {"model_type": "vision-encoder-decoder", "decoder": {"model_type": "gpt2"}}
    for name, content in (("base", base), ("captioner", config)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    told = {"captioner": "captioner", "data": "data", "output_dir": "out"}
    params = settled(told)
    assert (params.preset, params.tuning.tune, params.tuning.lora_targets) == (preset, "lora", targets)
    assert params.tuning.lora_rank == 8 and params.parts.image_encoder is None
    going_on = settled({**told, "captioner": None, "init_from": "captioner"}, preset=preset)
    assert going_on.parts.captioner is None and going_on.tuning.lora_rank == 8
    full = settled(told, tune="full")
    assert (full.tuning.lora_rank, full.tuning.lora_targets, full.optimisation.seed) == (None, None, 42)


def test_a_file_prefix_is_a_folder_in_the_output_directory(told):
    params = settled(told, prefix="coco_prefix")
    assert params.saving.output_dir == f"{told['output_dir']}/coco_prefix"


def test_what_is_used_reads_back_as_it_is(told):
    params = settled({**told, "mapper": {"type": "mlp"}, "prompt": {"caption": "A"}}, bs="3")
    again = settle(json.loads(json.dumps(to_dict(params))), {}, "training.json")
    assert again.params == params and again.defaults == {}
    assert settle(to_dict(params), {"lr": "1"}, "x").params.optimisation == replace(params.optimisation, lr=1.0)


def test_the_line_says_what_the_preset_brought(told):
    line = str(settle({**told, "bs": 3}, {"mapping_type": "mlp"}, "x"))
    begin = "preset git (kevin671/generative-image-to-text): image_encoder.name ViT-B/32, image_encoder.output pooled"
    assert line.startswith(begin)
    assert "warmup_steps 5000" in line and "bs" not in line and "mapper.type" not in line


def test_tables_name_keys_that_there_are():
    rows = {row.name for row in describe(TrainingParams)}
    paths = rows | {f"{row}.{inner.name}" for row in rows if (cls := parts_of(row)) for inner in describe(cls)}
    named = {spelling.key for spelling in SPELLINGS}
    for preset in PRESETS.values():
        named |= {*preset.defaults, *preset.words}
        for case in preset.cases:
            named |= {case.key, *case.defaults, *case.unless}
    assert named <= paths
