"""The command lines of the tools before this one, as their READMEs have them, on tiny weights under the real names."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from git_caption.captioner.captioner import Captioner
from git_caption.captioner.legacy import clipcap
from git_caption.model.mapping import build_mapper
from git_caption.params.model import MapperConfig
from git_caption.params.training.run import TrainingParams
from git_caption.training.main import main, parse_command
from tests import hub_cache, pretrained_models
from tests.written_clip import random_clip

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64}
# name -> repository, the width of its pooled features as published, and the tower in its place
ENCODERS = {
    "ViT-B-32": ("timm/vit_base_patch32_clip_224.openai", 512, VIT),
    "ViT-B-16": ("timm/vit_base_patch16_clip_224.openai", 512, VIT),
    "RN50x4": ("timm/resnet50x4_clip.openai", 640, RESNET),
}
CAPTIONERS = {
    "Salesforce/blip-image-captioning-base": pretrained_models.blip,
    "nlpconnect/vit-gpt2-image-captioning": pretrained_models.vision_encoder_decoder,
}
SIZES = {"gpt2": {"n_positions": 256}}  # of few tokens the template of a base caption takes many
LANGUAGE_MODELS = {
    "gpt2": "gpt2",
    "gpt2-large": "gpt2",
    "decapoda-research/llama-7b-hf": "llama",
    "facebook/opt-2.7b": "opt",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """HF_HOME with a hub cache of all the weights that the lines name."""
    home = tmp_path_factory.mktemp("home")
    sources = tmp_path_factory.mktemp("sources")
    for name, (repository, width, tower) in ENCODERS.items():
        (sources / name).mkdir()
        save_file(random_clip(tower, embed_dim=width), sources / name / "open_clip_model.safetensors")
        hub_cache.snapshot(home / "hub", repository, sources / name)
    for repository, family in LANGUAGE_MODELS.items():
        folder = sources / repository.replace("/", "_")
        folder.mkdir()
        hub_cache.snapshot(
            home / "hub", repository, hub_cache.language_model(folder, family, **SIZES.get(repository, {}))
        )
    for repository, make in CAPTIONERS.items():
        hub_cache.snapshot(home / "hub", repository, make(sources / repository.replace("/", "_")))
    return home


@pytest.fixture
def desk(home, tmp_path, monkeypatch) -> Path:
    """A folder to type the lines in, with the weights in reach."""
    real = open_clip.get_model_config

    def narrow(model: str) -> dict:
        _, width, tower = ENCODERS[model.removesuffix("-quickgelu")]
        return {**copy.deepcopy(real(model)), "embed_dim": width, "vision_cfg": tower}

    monkeypatch.setattr(open_clip, "get_model_config", narrow)
    monkeypatch.setenv("HF_HOME", str(home))
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    return desk


def conceptual(folder: Path, pictures: int) -> None:
    """The first pictures of a CC3M folder as download.py leaves it."""
    (folder / "train").mkdir(parents=True)
    rows = []
    for number in range(pictures):
        Image.new("RGB", (40, 40), (number * 6, 90, 30)).save(folder / "train" / f"{number:08d}.jpg")
        rows.append(f"{hub_cache.TEXTS[number % 5]}\thttp://127.0.0.1/{number}.jpg\n")
    (folder / "Train_GCC-training.tsv").write_text("".join(rows))


def pickled(path: Path, width: int, rows: int = 40) -> None:
    """The file of parse_coco.py."""
    path.parent.mkdir(parents=True)
    captions = [
        {"image_id": str(row), "caption": hub_cache.TEXTS[row % 5], "clip_embedding": row} for row in range(rows)
    ]
    with open(path, "wb") as file:
        pickle.dump({"clip_embedding": torch.randn(rows, width, dtype=torch.float16), "captions": captions}, file)


def listed(path: Path, pictures: int) -> None:
    """A JSON list of texts and images."""
    rows = []
    for number in range(pictures):
        image = path.parent / f"{path.stem}_{number}.jpg"
        Image.new("RGB", (40, 40), (number * 7, 90, 30)).save(image)
        rows.append({"text": hub_cache.TEXTS[number % 5], "image": image.name})
    path.write_text(json.dumps(rows))


def arguments(line: str) -> list[str]:
    """What follows train.py, on one CPU."""
    return [*shlex.split(line.replace("\\\n", " ").split("train.py", 1)[1]), "--device", "cpu", "--num_workers", "0"]


def stored(folder: str) -> set[str]:
    return {name.split(".")[0] for name in load_file(Path(folder) / "model.safetensors")}


def config(folder: str) -> dict:
    return json.loads((Path(folder) / "config.json").read_text())


def test_gpt2_large_between_a_frozen_clip_and_an_mlp(desk, monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    conceptual(desk.parent / "data" / "conceptual", 32)
    line = """torchrun --nnodes=1 --nproc_per_node=1 train.py \\
        --epochs 5 \\
        --bs 32 \\
        -iet ViT-B/32 \\
        -lm gpt2-large \\
        -mpt mlp \\
        --lr 2e-5 \\
        -ws 5000 \\
        --output_dir checkpoints/vitb32_gpt2l"""
    assert main(arguments(line)) == 0, capsys.readouterr().err
    said = capsys.readouterr().out.splitlines()
    assert (
        said[0].startswith("preset git (kevin671/generative-image-to-text): data ../data/conceptual, ")
        and "image_encoder.output pooled" in said[0]
    )
    assert "the learning rate rises for 5000 steps and the run has 5" in said[1]

    out = "checkpoints/vitb32_gpt2l"
    assert stored(out) == {"mapper"}
    made = config(out)
    assert (made["image_encoder"]["name"], made["language_model"]["name"]) == ("ViT-B/32", "gpt2-large")
    assert (made["mapper"]["type"], made["mapper"]["prefix_length"]) == ("mlp", 5)
    assert Captioner.load(out, device="cpu").caption([Image.new("RGB", (40, 40))])


def test_llama_in_8_bits(desk, monkeypatch, capsys):
    pytest.importorskip("bitsandbytes")
    conceptual(desk.parent / "data" / "conceptual", 10)
    line = (
        "torchrun --nproc_per_node=4 train.py --epochs 2 --bs 10 -iet ViT-B/16 -lm decapoda-research/llama-7b-hf "
        "--output_gird False -mpt mlp --lr 1e-5 -ws 5000 --output_dir checkpoints/vit-llama-8bit"
    )
    assert main(arguments(line)) == 0, capsys.readouterr().err
    made = config("checkpoints/vit-llama-8bit")
    assert made["language_model"]["quantization"] == "8bit"
    assert (made["image_encoder"]["name"], made["image_encoder"]["output"]) == ("ViT-B/16", "pooled")
    assert stored("checkpoints/vit-llama-8bit") == {"mapper"}


def test_clipcap_trains_its_mapper_and_gpt2(desk, capsys):
    pickled(Path("data/coco/oscar_split_ViT-B_32_train.pkl"), 512)
    line = "python train.py --data ./data/coco/oscar_split_ViT-B_32_train.pkl --out_dir ./coco_train/"
    assert main([*arguments(line), "--epochs", "1"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("preset clipcap (rmokady/CLIP_prefix_caption): image_encoder.name ")
    assert stored("coco_train") == {"mapper", "language_model"}
    made = config("coco_train")
    assert (made["image_encoder"]["name"], made["language_model"]["name"]) == ("ViT-B/32", "gpt2")
    assert (made["mapper"]["type"], made["mapper"]["prefix_length"]) == ("mlp", 10)


@pytest.mark.parametrize(("switches", "encoder", "width"), [("", "ViT-B/32", 512), ("--is_rn", "RN50x4", 640)])
def test_clipcap_trains_its_transformer_alone(switches, encoder, width, desk, capsys):
    pickled(Path("data/F.pkl"), width)
    line = (
        "python train.py --only_prefix --data data/F.pkl --out_dir ./coco_train/ --mapping_type transformer "
        f"--num_layres 8 --prefix_length 40 --prefix_length_clip 40 {switches}"
    )
    assert main([*arguments(line), "--epochs", "1"]) == 0, capsys.readouterr().err
    assert stored("coco_train") == {"mapper"}
    made = config("coco_train")
    assert made["image_encoder"]["name"] == encoder
    sizes = {name: made["mapper"][name] for name in ("type", "prefix_length", "clip_length", "layers", "heads")}
    assert sizes == {"type": "transformer", "prefix_length": 40, "clip_length": 40, "layers": 8, "heads": 8}


def test_clipcap_splits_opt_over_gpus(desk, capsys):
    pickled(Path("data/F.pkl"), 512)
    line = "train.py --preset clipcap_opt --data data/F.pkl --only_prefix --device 123 --pn 411"
    computing = parse_command(shlex.split(line)[1:]).computing
    assert (computing.device, computing.device_split) == ("cuda:1", "1:4,2:11,3")
    if torch.cuda.device_count() < 4:
        assert main(shlex.split(line)[1:]) == 2
        assert re.fullmatch(r"error: .*torch sees \d CUDA devices.*\n", capsys.readouterr().err)
    assert main([*arguments(line), "--bs", "40", "--epochs", "1"]) == 0, (
        capsys.readouterr().err
    )  # on one CPU, undivided
    made = config("checkpoints/clipcap_opt")
    assert (made["language_model"]["name"], made["mapper"]["prefix_length"]) == ("facebook/opt-2.7b", 32)
    assert stored("checkpoints/clipcap_opt") == {"mapper"}


@pytest.fixture
def instagram(home, desk, monkeypatch) -> None:
    """The weights of ClipCap and posts, where the Instagram tool has them."""
    monkeypatch.setitem(clipcap.LANGUAGE_MODELS["gpt.transformer.wte.weight"], hub_cache.WIDTH, "gpt2")
    language_model = AutoModelForCausalLM.from_pretrained("gpt2", dtype=torch.float32, cache_dir=home / "hub")
    mapper = build_mapper(MapperConfig("mlp", prefix_length=10), 512, hub_cache.WIDTH, pooled=True)
    tensors = {f"clip_project.{name}": value for name, value in mapper.state_dict().items()}
    tensors |= {f"gpt.{name}": value for name, value in language_model.state_dict().items()}
    torch.save(tensors, "coco_weights.pt")
    Path("instagram_data").mkdir()
    rows = ["image,caption"]
    for number in range(4):
        Image.new("RGB", (40, 40), (number * 60, 90, 30)).save(f"instagram_data/{number}.jpg")
        rows.append(f'{number}.jpg,"{hub_cache.TEXTS[number]} #art"')
    Path("instagram_data/posts.csv").write_text("\n".join(rows))


@pytest.mark.parametrize("prompted", ["", "--prompted"])
@pytest.mark.parametrize(
    ("tuning", "folder"),
    [
        ("--tune full", "base"),
        ("--tune lora --lora_rank 4", "lora"),
        ("--tune head", "frozen"),
        ("--tune mapper", "mapper"),
    ],
)
def test_clipcap_learns_the_style_of_instagram(tuning, folder, prompted, desk, instagram, capsys):
    line = f"python train.py --init_from coco_weights.pt {tuning} {prompted} --data_dir instagram_data"
    assert main([*arguments(line), "--bs", "4", "--epochs", "1"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("preset instagram (olafbrah/cs182proj): ")
    out = f"checkpoints/{'prompted' if prompted else folder}"
    made = config(out)
    assert (made["adapter"] or {}).get("rank") == (4 if "lora" in tuning else None)
    captioner = Captioner.load(out, device="cpu")
    assert len(captioner.caption([Image.new("RGB", (40, 40))])) == 1
    assert (captioner.base is not None) == bool(prompted)
    if prompted:
        assert made["base"]["source"]["id"] == str(Path("coco_weights.pt").resolve())
        assert made["base"]["template"] == " is a picture of {caption} and a social media post would caption it"
        assert len(list(Path("checkpoints/base_captions").glob("*.tsv"))) == 1


def coco_2014(folder: Path, pictures: int) -> None:
    """A COCO folder of 2014."""
    (folder / "train2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images = [{"id": number, "file_name": f"COCO_train2014_{number:012}.jpg"} for number in range(pictures)]
    for image in images:
        Image.new("RGB", (40, 40), (image["id"] * 6, 90, 30)).save(folder / "train2014" / image["file_name"])
    captions = [{"image_id": number, "caption": f"A Bus {number}."} for number in range(pictures)]
    document = json.dumps({"images": images, "annotations": captions})
    (folder / "annotations" / "captions_train2014.json").write_text(document)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_cross_attention_in_a_frozen_language_model(family, desk, tmp_path, monkeypatch, capsys):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    coco_2014(Path("data/coco"), 16)
    hub_cache.language_model(tmp_path / family, family)
    line = (
        f"torchrun --nproc_per_node 1 train.py --fusion cross_attention --nb_ca 2 -lm {tmp_path / family} --epochs 5 "
        "--loss_save_path res/loss.npy --output_dir D"
    )
    assert main(arguments(line)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith("preset llama_ca (RaphValeri/ImageCaptioning): data data/coco, ")
    assert stored("D") == {"cross_attention"}
    made = config("D")
    assert (made["image_encoder"]["name"], made["image_encoder"]["output"]) == ("ViT-B/32", "pooled")
    assert (made["fusion"], made["cross_attention"]["blocks"]) == ("cross_attention", [0, 1])
    assert len(np.load("res/loss.npy")) == 5
    used = json.loads(Path("D/training.json").read_text())
    assert (used["lr"], used["weight_decay"], used["betas"], used["bs"]) == (1e-4, 0.1, [0.9, 0.95], 16)
    assert Captioner.load("D", device="cpu").caption([Image.new("RGB", (40, 40))])


def test_the_line_of_the_cross_attention_tool_itself(desk, capsys):
    coco_2014(Path("data/coco"), 16)
    line = (
        "torchrun --nproc_per_node 1 train.py --epochs 5 --nb_ca 1 --loss_save_path res_files/loss_2ca_ep5.npy "
        "--model_path params_2ca_ep5.pt -lm decapoda-research/llama-7b-hf"
    )
    assert main(arguments(line)) == 0, capsys.readouterr().err
    assert stored("params_2ca_ep5.pt") == {"cross_attention"}


@pytest.mark.parametrize(
    ("captioner", "options", "preset", "settings", "layers"),
    [
        (
            "Salesforce/blip-image-captioning-base",
            "--epochs 100 --batch_size 32 --lr 1e-5 --seed 42",
            "blip",
            {"bs": 32, "lora_targets": "query,value,feed_forward"},
            {"query", "value", "dense"},
        ),
        (
            "nlpconnect/vit-gpt2-image-captioning",
            "--batch_size 16",
            "vit_gpt2",
            {"bs": 16, "lora_targets": "c_attn,c_fc"},
            {"c_attn", "c_fc"},
        ),
    ],
)
def test_a_pretrained_captioner_by_lora(captioner, options, preset, settings, layers, desk, monkeypatch, capsys):
    pytest.importorskip("peft")
    listed(Path("T.json"), settings["bs"])
    listed(Path("V.json"), 4)
    line = (
        f"python train.py --captioner {captioner} --tune lora --train_data_path T.json --val_data_path V.json "
        f"--output_path O {options}"
    )
    told = arguments(line)
    params = parse_command(told)
    assert (params.optimisation.epochs, params.optimisation.lr, params.optimisation.seed) == (100, 1e-5, 42)
    assert (params.tuning.lora_rank, params.tuning.lora_alpha, params.tuning.lora_dropout) == (8, 32, 0.1)
    assert main([*told, "--epochs", "1"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith(f"preset {preset} (sylee0520/Image-Captioning-CC3M): ")

    noted = json.loads(Path("O/training.json").read_text())
    assert {name: noted[name] for name in settings} == settings
    made = config("O")
    assert made["captioner"]["id"] == captioner and len(made["captioner"]["sha256"]) == 64
    assert stored("O") == set()
    names = {name.split(".lora_")[0].rpartition(".")[2] for name in load_file("O/adapter/adapter_model.safetensors")}
    assert names == layers
    assert Path("O/validation.csv").read_text().count("\n") == 2
    assert Captioner.load("O", device="cpu").caption([Image.new("RGB", (40, 40))])


def test_the_config_of_a_pretrained_captioner(desk, capsys):
    pytest.importorskip("peft")
    shapes = ROOT / "data" / "shapes"
    told = ["--config", str(ROOT / "configs" / "captioner.yaml"), "--epochs", "0.02", "--bs", "8", "--device", "cpu"]
    told += ["--image_tsv", str(shapes / "test.img.tsv"), "--caption_tsv", str(shapes / "test.caption.tsv")]
    assert main([*told, "--max_caption_tokens", "20", "--num_workers", "0"]) == 0, capsys.readouterr().err
    assert config("checkpoints/captioner")["decoding"]["max_new_tokens"] == 64


def test_what_was_used_is_written_and_repeats_the_run(desk, capsys):
    pickled(Path("data/F.pkl"), 512)
    told = arguments("train.py --data data/F.pkl --out_dir a --only_prefix --bs 20 --epochs 1 --warmup_steps 1")
    assert main(told) == 0, capsys.readouterr().err
    noted = json.loads(Path("a/training.json").read_text())
    assert (noted["preset"], noted["bs"], noted["weight_decay"], noted["output_dir"]) == ("clipcap", 20, 0.0, "a")
    assert noted["mapper"]["prefix_length"] == 10 and noted["tune"] == "mapper"

    again = ["--config", "a/training.json", "--output_dir", "b"]
    assert isinstance(parse_command(again), TrainingParams)
    assert main(again) == 0, capsys.readouterr().err
    assert json.loads(Path("b/training.json").read_text()) == {**noted, "output_dir": "b"}
    first, second = (load_file(f"{folder}/model.safetensors") for folder in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
