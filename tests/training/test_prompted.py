"""Prompted style transfer: a base captioner's caption stands before those that are trained, and before those made."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from git_caption.captioner.captioner import Captioner
from git_caption.decoding.generate import Identity
from git_caption.errors import UsageError, WeightsError
from git_caption.jobs.main import main as inference
from git_caption.jobs.shapes import make
from git_caption.params.decoding import DecodingParams
from git_caption.params.model import PromptConfig
from git_caption.params.shapes import ShapesDataParams
from git_caption.params.training.prompting import TEMPLATE
from git_caption.training.base_captions import base_of
from git_caption.training.main import main, parse_command
from git_caption.tsv.file import TsvFile
from git_caption.tsv.rows import parse_caption_row
from tests import pretrained_models
from tests.small_captioner import small_captioner

ASKED = "A photo: {caption}. Now a post:"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Sixteen scenes, the captioner that a run goes on from and another one."""
    home = tmp_path_factory.mktemp("home")
    make(ShapesDataParams(out_dir=str(home / "scenes"), train=16, test=3))
    for seed, name in enumerate(("plain", "other")):
        captioner = small_captioner(
            home / "gpt2", seed=seed, output=("pooled", "grid")[seed], mapper=["mlp", "linear"][seed]
        )
        captioner.config = replace(captioner.config, prompt=PromptConfig(question="{question}?"))
        captioner.save(home / name)
    return home


def line(home: Path, out: Path, *flags: str) -> list[str]:
    return [
        *("--init_from", str(home / "plain"), "--image_tsv", str(home / "scenes/train.img.tsv")),
        *("--caption_tsv", str(home / "scenes/train.caption.tsv"), "--output_dir", str(out), "--bs", "8"),
        *("--lr", "1e-2", "--warmup_steps", "0", "--device", "cpu", "--num_workers", "0", *flags),
    ]


def captions(path: Path) -> list[str]:
    with TsvFile(path) as rows:
        return [parse_caption_row(columns, rows.where(row)).captions[0] for row, columns in enumerate(rows)]


def pictures(home: Path) -> list[bytes]:
    with TsvFile(home / "scenes/test.img.tsv") as rows:
        return [base64.b64decode(columns[1]) for columns in rows]


def kept(home: Path, count: int) -> list[Path]:
    """The files of so many base captions that runs have left."""
    return [path for path in (home / "runs/base_captions").glob("*.tsv") if len(captions(path)) == count]


def job(home: Path, out: Path, **keys) -> int:
    told = {"type": "test_git_inference_single_tsv", "out_tsv": str(out), "device": "cpu", "num_workers": 0}
    pictured = {} if "features" in keys else {"image_tsv": str(home / "scenes/test.img.tsv")}
    return inference(["-p", json.dumps({**told, **pictured, **keys})])


def by_hand(captioner: Captioner, before: Captioner | None, images: list[bytes], template: str = TEMPLATE) -> list[str]:
    """Captions after those of another captioner, put together from the parts."""
    prompts = [""] * len(images)
    if before is not None:
        prompts = [template.replace("{caption}", " ".join(text.split())) for text in before.caption(images)]
    pixels = [captioner.pixels(image) for image in images]
    decoding = captioner.decoding(DecodingParams(), "caption")
    found = captioner.describe(pixels, prompts, decoding, [Identity("") for _ in images])
    return [texts[0].text for texts in found]


@pytest.fixture(scope="module")
def styled(home) -> Path:
    """A checkpoint trained after the captions of the captioner that it goes on from."""
    out = home / "runs" / "styled"
    validation = ["--val_image_tsv", str(home / "scenes/test.img.tsv")]
    validation += ["--val_caption_tsv", str(home / "scenes/test.caption.tsv")]
    assert main(line(home, out, "--prompted", "--tune", "full", *validation)) == 0
    return out


def test_base_captions_are_those_of_the_captioner_before_the_run_and_are_used_again(home, styled, capsys):
    (of_test,) = kept(home, 3)
    assert captions(of_test) == Captioner.load(home / "plain", device="cpu").caption(pictures(home))
    assert len(kept(home, 16)) == 1

    assert main(line(home, home / "runs/again", "--prompted", "--tune", "full")) == 0
    assert f"base captions of an earlier run are used again: {kept(home, 16)[0]}" in capsys.readouterr().out
    first, second = (Captioner.load(home / "runs" / name, device="cpu") for name in ("styled", "again"))
    ours, theirs = (captioner.network.state_dict() for captioner in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_splits_that_lie_in_one_file_have_captions_of_their_own(home, tmp_path):
    lines = ["image,caption,split"]
    for number, image in enumerate(pictures(home)):
        (tmp_path / f"{number}.jpg").write_bytes(image)
        lines += [f"{number}.jpg,a post,{split}" for split in (("val",) if number == 2 else ("train", "val"))]
    (tmp_path / "posts.csv").write_text("\n".join(lines))
    flags = ["--init_from", str(home / "plain"), "--prompted", "--data", str(tmp_path / "posts.csv"), "--bs", "2"]
    flags += ["--split", "train", "--val_split", "val", "--output_dir", str(tmp_path / "runs/out")]
    assert main([*flags, "--device", "cpu", "--num_workers", "0", "--warmup_steps", "0"]) == 0
    of_train, of_val = sorted(map(captions, (tmp_path / "runs/base_captions").glob("*.tsv")), key=len)
    assert of_val == Captioner.load(home / "plain", device="cpu").caption(pictures(home)) == [*of_train, of_val[2]]


def test_what_is_trained_follows_the_template_with_the_base_caption(home, styled, monkeypatch):
    from git_caption.training.objectives import CaptionObjective

    seen: list[str] = []
    forward = CaptionObjective.forward

    def noted(self, given, batch):
        seen.extend(tokenizer.decode(prompt) for prompt in batch.prompt_ids)
        return forward(self, given, batch)

    tokenizer = Captioner.load(home / "plain", device="cpu").tokenizer
    monkeypatch.setattr(CaptionObjective, "forward", noted)
    assert main(line(home, home / "runs/noted", "--prompted", "--base_template", ASKED)) == 0
    before = [" ".join(text.split()) for text in captions(kept(home, 16)[0])]
    assert sorted(seen) == sorted(f"A photo: {text}. Now a post:" for text in before)


def test_inference_follows_the_base_caption_unless_told_not_to(home, styled, tmp_path, capsys):
    images = pictures(home)
    plain = Captioner.load(home / "plain", device="cpu")
    captioner = Captioner.load(styled, device="cpu")
    assert captioner.base is not None and captioner.base.shares_features
    wanted = by_hand(captioner, plain, images)
    assert captioner.caption(images) == wanted

    assert job(home, tmp_path / "with.tsv", model_path=str(styled)) == 0
    assert captions(tmp_path / "with.tsv") == wanted
    assert job(home, tmp_path / "without.tsv", model_path=str(styled), prompted=False) == 0
    without = by_hand(captioner, None, images)
    assert captions(tmp_path / "without.tsv") == without != wanted
    assert Captioner.load(styled, device="cpu", prompted=False).caption(images) == without

    (tmp_path / "0.png").write_bytes(images[0])
    capsys.readouterr()
    single = {"type": "test_git_inference_single_image", "model_path": str(styled), "device": "cpu"}
    assert inference(["-p", json.dumps({**single, "image_path": str(tmp_path / "0.png")})]) == 0
    assert inference(["-p", json.dumps({**single, "image_path": str(tmp_path)})]) == 0
    one_line = " ".join(wanted[0].split())
    assert capsys.readouterr().out == f"{wanted[0]}\n{tmp_path / '0.png'}\t{one_line}\n"


def test_questions_are_asked_without_a_base_caption(home, styled, tmp_path, capsys):
    asked = {"model_path": str(styled), "question_tsv": str(home / "scenes/test.question.tsv")}
    assert job(home, tmp_path / "answers.tsv", **asked) == 0
    assert job(home, tmp_path / "alone.tsv", **asked, prompted=False) == 0
    assert (tmp_path / "answers.tsv").read_bytes() == (tmp_path / "alone.tsv").read_bytes()
    assert job(home, tmp_path / "x.tsv", **asked, prompted=True) == 2
    assert "'prompted': a base captioner's caption stands before captions alone" in capsys.readouterr().err
    assert job(home, tmp_path / "x.tsv", model_path=str(home / "plain"), prompted=True) == 2
    assert "it has no base captioner" in capsys.readouterr().err


def test_another_base_captioner_sees_pictures_its_own_way(home, tmp_path):
    out = tmp_path / "runs" / "by_other"
    flags = ["--prompted", "--base_captioner", str(home / "other"), "--base_template", ASKED]
    assert main(line(home, out, *flags, "--base_decoding", "{'num_beams': 1, 'max_new_tokens': 4}")) == 0
    captioner = Captioner.load(out, device="cpu")
    assert captioner.base is not None and not captioner.base.shares_features
    other = Captioner.load(home / "other", device="cpu")
    other.config = replace(other.config, decoding=DecodingParams(num_beams=1, max_new_tokens=4))
    wanted = by_hand(captioner, other, pictures(home), ASKED)
    assert job(home, tmp_path / "with.tsv", model_path=str(out)) == 0
    assert captions(tmp_path / "with.tsv") == wanted

    told = {"type": "extract_features", "image_tsv": str(home / "scenes/test.img.tsv"), "model_path": str(out)}
    assert inference(["-p", json.dumps({**told, "out": str(tmp_path / "features"), "device": "cpu"})]) == 0
    features = {"features": str(tmp_path / "features"), "model_path": str(out)}
    assert job(home, tmp_path / "stored.tsv", **features) == 2
    assert job(home, tmp_path / "stored.tsv", **features, prompted=False) == 0


def test_a_pretrained_captioner_may_be_the_base(home, tmp_path, capsys):
    flags = ["--prompted", "--base_captioner", str(pretrained_models.blip(tmp_path / "blip"))]
    flags += ["--base_template", ASKED, "--base_decoding.max_new_tokens", "5"]
    assert main(line(home, tmp_path / "out", *flags)) == 0, capsys.readouterr().err
    captioner = Captioner.load(tmp_path / "out", device="cpu")
    blip = Captioner.load(tmp_path / "blip", device="cpu")
    blip.config = replace(blip.config, decoding=DecodingParams(max_new_tokens=5))
    wanted = by_hand(captioner, blip, pictures(home), ASKED)
    assert job(home, tmp_path / "with.tsv", model_path=str(tmp_path / "out")) == 0
    assert captions(tmp_path / "with.tsv") == wanted
    told = {"type": "export", "model_path": str(tmp_path / "out"), "out_dir": str(tmp_path / "whole")}
    assert inference(["-p", json.dumps(told)]) == 2
    assert "a pretrained captioner is not taken apart nor saved" in capsys.readouterr().err
    assert not (tmp_path / "whole" / "config.json").exists()


def test_a_pretrained_captioner_that_was_trained_may_be_the_base_and_has_none_itself(home, tmp_path, capsys):
    data = ["--image_tsv", str(home / "scenes/test.img.tsv"), "--caption_tsv", str(home / "scenes/test.caption.tsv")]
    flags = [*data, "--bs", "3", "--device", "cpu", "--num_workers", "0", "--epochs", "1", "--warmup_steps", "0"]
    flags += ["--decoding.max_new_tokens", "4"]
    trained = str(tmp_path / "tuned")
    git = str(pretrained_models.git(tmp_path / "git"))
    assert main(["--captioner", git, "--tune", "head", "--output_dir", trained, *flags]) == 0
    prompting = ["--prompted", "--base_captioner", trained, "--base_template", ASKED]
    assert main(["--init_from", str(home / "plain"), *prompting, *flags, "--output_dir", str(tmp_path / "out")]) == 0
    (made,) = (tmp_path / "base_captions").glob("*.tsv")
    assert captions(made) == Captioner.load(trained, device="cpu").caption(pictures(home))
    scst = ["--objective", "scst", "--init_from", trained, "--output_dir", str(tmp_path / "scst")]
    assert main([*scst, *flags]) == 0, capsys.readouterr().err
    made.unlink()
    assert main(["--init_from", trained, "--prompted", *flags, "--output_dir", str(tmp_path / "no")]) == 2
    assert f"{trained} is a pretrained captioner" in capsys.readouterr().err
    assert not list((tmp_path / "base_captions").glob("*.tsv"))


def test_stored_features_stand_for_the_pictures_of_both(home, styled, tmp_path):
    for split in ("train", "test"):
        told = {"type": "extract_features", "image_tsv": str(home / f"scenes/{split}.img.tsv"), "device": "cpu"}
        told |= {"out": str(tmp_path / split), "model_path": str(home / "plain"), "stored_as": "float32"}
        assert inference(["-p", json.dumps(told)]) == 0
    flags = ["--prompted", "--tune", "full", "--features", str(tmp_path / "train")]
    assert main(line(home, tmp_path / "runs" / "stored", *flags)) == 0
    (made,) = (tmp_path / "runs" / "base_captions").glob("*.tsv")
    assert captions(made) in [captions(path) for path in kept(home, 16)]  # of the pictures themselves
    assert job(home, tmp_path / "out.tsv", model_path=str(styled), features=str(tmp_path / "test")) == 0
    assert captions(tmp_path / "out.tsv") == Captioner.load(styled, device="cpu").caption(pictures(home))


def test_an_exported_checkpoint_holds_its_base_captioner(home, styled, tmp_path):
    out = tmp_path / "whole"
    assert inference(["-p", json.dumps({"type": "export", "model_path": str(styled), "out_dir": str(out)})]) == 0
    assert json.loads((out / "config.json").read_text())["base"]["source"] is None
    again = tmp_path / "moved"
    out.rename(again)
    loaded = Captioner.load(again, device="cpu")
    wanted = Captioner.load(styled, device="cpu").caption(pictures(home))
    assert loaded.caption(pictures(home)) == wanted
    loaded.save(tmp_path / "saved")
    assert Captioner.load(tmp_path / "saved", device="cpu").caption(pictures(home)) == wanted

    params = parse_command([*line(home, tmp_path / "on", "--prompted"), "--init_from", str(tmp_path / "saved")])
    assert base_of(params).source.id == str(tmp_path / "saved" / "base")
    Captioner.load(home / "plain", device="cpu").save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "base").exists()


def test_a_base_captioner_that_has_changed_or_is_gone_is_told(home, tmp_path):
    Captioner.load(home / "plain", device="cpu").save(tmp_path / "base")
    out = tmp_path / "runs" / "out"
    assert main(line(home, out, "--prompted", "--base_captioner", str(tmp_path / "base"))) == 0
    Captioner.load(home / "other", device="cpu").save(tmp_path / "base")
    with pytest.raises(WeightsError, match=r"its base captioner cannot be loaded \(.*sha256.*'prompted': False"):
        Captioner.load(out, device="cpu")
    assert Captioner.load(out, device="cpu", prompted=False).caption(pictures(home))
    with pytest.raises(UsageError, match="has a base captioner itself"):
        base_of(parse_command(line(home, tmp_path / "x", "--prompted", "--base_captioner", str(out))))


def test_scst_does_not_drop_a_base_captioner_unsaid(home, styled, tmp_path, capsys):
    assert main(line(home, tmp_path / "out", "--objective", "scst", "--init_from", str(styled))) == 2
    assert f"those of {styled} follow a base captioner's" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--base_template", "{caption}"], "'base_template': is of the base captioner"),
        (["--prompted", "--base_template", "no place"], "expected a template with {caption} in it"),
        (
            ["--prompted", "--base_template", "{caption} {mood}"],
            "in it and nothing else in braces, found '{caption} {m",
        ),
        (["--prompt.caption", "{mood}"], "'prompt.caption': nothing is known to put in the place of {mood}"),
        (["--prompt.question", "{question} {mood}"], "'prompt.question': nothing is known to put in the place of {mo"),
        (["--prompted", "--base_captioner", "nowhere/at/all"], "no such checkpoint"),
    ],
)
def test_faults_are_found_before_anything_is_loaded(flags, fault, home, tmp_path):
    with pytest.raises(UsageError) as raised:
        parse_command(line(home, tmp_path / "out", *flags))
    assert fault in str(raised.value)
