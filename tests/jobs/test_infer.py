"""The inference jobs on a small random captioner: what they print and write, against the captioner asked directly."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from git_caption.errors import DataError, JobFailed, UsageError
from git_caption.jobs import infer
from git_caption.jobs.main import main
from git_caption.params.infer import CocoParams, SingleImageParams, SingleTsvParams
from git_caption.params.schema import parse
from git_caption.tsv.rows import ImageRow, Question, QuestionRow
from git_caption.tsv.writer import TsvWriter
from tests.small_captioner import small_captioner

ROOT = Path(__file__).resolve().parents[2]
COLORS = [(220, 30, 30), (20, 200, 60), (30, 40, 210), (240, 240, 90), (5, 5, 5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    small_captioner(tmp_path_factory.mktemp("lm")).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def captioner(model):
    from git_caption import Captioner

    return Captioner.load(model, device="cpu")


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    """A captioner that sees as many tokens as an image is long, and the keys for that."""
    folder = tmp_path_factory.mktemp("grids") / "checkpoint"
    small_captioner(tmp_path_factory.mktemp("lm"), mapper="linear", output="grid").save(folder)
    return str(folder), {"test_respect_ratio_max": 6400}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, color in enumerate(COLORS):
        image = Image.new("RGB", (40, 32), color)
        image.paste((255, 255, 255), (3 * number, 4, 3 * number + 12, 20))
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture
def image_tsv(tmp_path, pictures):
    path = tmp_path / "images.tsv"
    with TsvWriter(path) as writer:
        for file in sorted(pictures.iterdir()):
            writer.write(ImageRow(file.stem, file.read_bytes()).columns())
    return str(path)


def _single(model, **keys):
    return parse(SingleImageParams, {"model_path": model, "device": "cpu", **keys}, "job")


def _tsv(model, **keys):
    return parse(SingleTsvParams, {"model_path": model, "device": "cpu", "num_workers": 0, **keys}, "job")


def test_one_image_prints_its_caption_alone(model, captioner, pictures, capsys):
    infer.single_image(_single(model, image_path=str(pictures / "1.png")))
    assert capsys.readouterr().out == captioner.caption([pictures / "1.png"])[0] + "\n"


def test_a_prompt_is_a_question(model, captioner, pictures, capsys):
    infer.single_image(_single(model, image_path=str(pictures / "1.png"), prefix="what is it?"))
    assert capsys.readouterr().out == captioner.answer([pictures / "1.png"], ["what is it?"])[0] + "\n"


def test_a_folder_and_a_pattern_print_a_line_for_each_image(model, captioner, pictures, capsys):
    (pictures / "notes.txt").write_text("not an image, and not asked for")
    files = sorted(pictures.glob("*.png"))
    texts = [" ".join(text.split()) for text in captioner.caption(files)]
    expected = "".join(f"{file}\t{text}\n" for file, text in zip(files, texts, strict=True))
    for path in (str(pictures), str(pictures / "*.png")):
        infer.single_image(_single(model, image_path=path, batch_size=2))
        assert capsys.readouterr().out == expected


def test_a_broken_image_of_a_folder_is_listed_and_the_others_go_on(model, pictures, capsys):
    (pictures / "2.png").write_bytes(b"<html>no picture</html>")
    infer.single_image(_single(model, image_path=str(pictures)))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5 and out.splitlines()[2] == f"{pictures}/2.png\t"
    assert "2.png" in err and "1 of 5 images could not be processed" in err
    with pytest.raises(DataError, match=r"2\.png"):
        infer.single_image(_single(model, image_path=str(pictures), on_error="raise"))
    with pytest.raises(JobFailed, match="1 images could not be processed, 'max_errors' allows 0"):
        infer.single_image(_single(model, image_path=str(pictures), max_errors=0))


def test_a_file_that_is_no_image_is_named_with_the_cause(model, pictures):
    frames = [str(pictures / "1.png"), str(pictures / "page.png")]
    (pictures / "page.png").write_bytes(b"<html>no picture</html>")
    for path in (frames[1], frames):
        with pytest.raises(DataError) as refused:
            infer.single_image(_single(model, image_path=path))
        assert str(refused.value).startswith(f"{frames[1]}: not an image: an HTML page of 23 bytes")


def test_a_list_of_images_is_one_video(model, captioner, pictures, capsys):
    frames = [str(pictures / "0.png"), str(pictures / "3.png")]
    infer.single_image(_single(model, image_path=frames))
    assert capsys.readouterr().out == captioner.caption([frames])[0] + "\n"


def test_a_pattern_goes_into_folders(model, captioner, pictures, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "pictures" / "more" / "deep")
    files = sorted(str(file) for file in pictures.rglob("*.png"))
    texts = [" ".join(text.split()) for text in captioner.caption(files)]
    infer.single_image(_single(model, image_path=str(pictures / "**" / "*.png")))
    assert len(files) == 10
    assert capsys.readouterr().out == "".join(f"{file}\t{text}\n" for file, text in zip(files, texts, strict=True))


def test_a_folder_that_turns_out_without_images_is_refused_before_weights_are_loaded(tmp_path):
    empty = tmp_path / "promised by an earlier job"
    params = parse(SingleImageParams, {"model_path": "none/such", "image_path": str(empty)}, "job", [str(empty)])
    empty.mkdir()
    with pytest.raises(UsageError, match=r"^'image_path': .*promised.* holds no image, expected files ending in \.jpg"):
        infer.single_image(params)


@pytest.mark.parametrize("prompt", ["", "what?"])
def test_an_image_too_long_for_the_model_is_skipped_and_the_others_go_on(grids, pictures, prompt, capsys):
    captioner, keys = grids
    Image.new("RGB", (6400, 32)).save(pictures / "1.png")
    infer.single_image(_single(captioner, image_path=str(pictures), prompt=prompt, **keys))
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    assert [Path(path).name for path, _ in lines] == [f"{number}.png" for number in range(5)]
    assert [bool(text) for _, text in lines] == [True, False, True, True, True]
    assert err.splitlines()[0].startswith(f"skipped {pictures}/1.png: ") and "1.png: prefix and prompt have 80" in err
    assert err.splitlines()[1] == "1 of 5 images could not be processed"
    with pytest.raises(DataError, match=r"1\.png: prefix and prompt have 80\d tokens"):
        infer.single_image(_single(captioner, image_path=str(pictures), prompt=prompt, on_error="raise", **keys))


def test_an_image_that_may_not_be_read_is_skipped(model, pictures, monkeypatch, capsys):
    read = Path.read_bytes

    def refusing(path):
        if path == pictures / "1.png":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    infer.single_image(_single(model, image_path=str(pictures)))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5 and out.splitlines()[1] == f"{pictures}/1.png\t"
    assert f"skipped {pictures}/1.png: cannot be read: Permission denied\n" in err


def test_a_batch_of_a_folder_too_large_for_the_memory_is_halved(model, pictures, monkeypatch, capsys):
    params = _single(model, image_path=str(pictures))
    infer.single_image(params)
    expected = capsys.readouterr().out
    captioner = infer.load_captioner(params.model, params.running)
    encode = captioner.encode

    def short(pixels):
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(pixels)

    monkeypatch.setattr(captioner, "encode", short)
    infer.single_image(params)
    out, err = capsys.readouterr()
    assert (out, err) == (expected, "1 batches halved for lack of memory\n")


def test_several_captions_print_as_json_best_first(model, pictures, capsys):
    infer.single_image(
        _single(model, image_path=str(pictures / "1.png"), num_beams=3, num_captions=2, with_scores=True)
    )
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2 and set(found[0]) == {"caption", "logprob", "mean_logprob"}
    assert all(round(entry["logprob"], 4) == entry["logprob"] < 0 for entry in found)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_tsv_is_captioned_in_order_whatever_the_batch(model, captioner, pictures, image_tsv, tmp_path, batch_size):
    out = tmp_path / "out" / "captions.tsv"
    infer.single_tsv(_tsv(model, image_tsv=image_tsv, out_tsv=str(out), batch_size=batch_size))
    files = sorted(pictures.iterdir())
    expected = [
        f'{file.stem}\t[{{"caption":{json.dumps(text)}}}]'
        for file, text in zip(files, captioner.caption(files), strict=True)
    ]
    assert out.read_text().splitlines() == expected
    assert out.with_suffix(".lineidx").exists() and out.with_suffix(".lineidx.8b").exists()


@pytest.fixture
def question_tsv(tmp_path):
    path = tmp_path / "questions.tsv"
    asked = [
        ["what?"],
        ["is it a very large red square or two of them?", "no?"],
        [],
        ["what is left of the star?"],
        ["?"],
    ]
    with TsvWriter(path) as writer:
        for number, texts in enumerate(asked):
            rows = tuple(Question(f"q{number}-{i}", text) for i, text in enumerate(texts))
            writer.write(QuestionRow(str(number), rows).columns())
    return str(path), asked


def test_questions_are_answered_a_line_each(model, captioner, pictures, image_tsv, question_tsv, tmp_path):
    path, asked = question_tsv
    out = tmp_path / "answers.tsv"
    infer.single_tsv(_tsv(model, image_tsv=image_tsv, question_tsv=path, out_tsv=str(out), batch_size=3))
    expected = []
    for number, texts in enumerate(asked):
        for i, text in enumerate(texts):
            answer = captioner.answer([pictures / f"{number}.png"], [text])[0]
            expected.append(f'{{"answer":{json.dumps(answer)},"question_id":"q{number}-{i}"}}')
    assert out.read_text().splitlines() == expected


def test_a_broken_image_leaves_an_empty_answer_for_each_question(model, image_tsv, question_tsv, tmp_path, capsys):
    lines = Path(image_tsv).read_text().splitlines()
    lines[1] = "1\tbm90IGFuIGltYWdl"
    broken = tmp_path / "broken.tsv"
    broken.write_text("\n".join(lines) + "\n")
    out = tmp_path / "answers.tsv"
    infer.single_tsv(_tsv(model, image_tsv=str(broken), question_tsv=question_tsv[0], out_tsv=str(out)))
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [entry["question_id"] for entry in answers] == ["q0-0", "q1-0", "q1-1", "q3-0", "q4-0"]
    assert [entry["answer"] for entry in answers[1:3]] == ["", ""]
    errors = (tmp_path / "answers.tsv.errors.tsv").read_text()
    assert errors.count("\n") == 1 and "broken.tsv:2" in errors
    assert "1 rows skipped" in capsys.readouterr().out


def test_a_question_too_long_for_the_model_is_its_rows_failure_only(model, image_tsv, tmp_path):
    path, out = tmp_path / "long.tsv", tmp_path / "answers.tsv"
    with TsvWriter(path) as writer:
        for number in range(len(COLORS)):
            text = "very " * 400 + "long?" if number == 2 else "what?"
            writer.write(QuestionRow(str(number), (Question(number, text),)).columns())
    infer.single_tsv(_tsv(model, image_tsv=image_tsv, question_tsv=str(path), out_tsv=str(out)))
    answers = [json.loads(line)["answer"] for line in out.read_text().splitlines()]
    assert answers[2] == "" and all(answers[:2] + answers[3:])
    assert "question_id 2" in (tmp_path / "answers.tsv.errors.tsv").read_text()


def test_several_answers_to_a_question_are_refused(model, image_tsv, question_tsv, tmp_path):
    params = _tsv(
        model, image_tsv=image_tsv, question_tsv=question_tsv[0], out_tsv=str(tmp_path / "a.tsv"), num_captions=2
    )
    with pytest.raises(UsageError, match="'num_captions': 2 asked for"):
        infer.single_tsv(params)


def _split(folder, images):
    """The keys of a split of COCO that lists these images."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": []}))
    return {"data_dir": str(folder), "data_type": "val2017", "device": "cpu", "num_workers": 0}


def test_a_coco_split_is_captioned_into_a_result_file(model, captioner, pictures, tmp_path):
    given = _split(tmp_path / "coco", [{"id": 40 + number, "file_name": f"{number}.png"} for number in range(5)])
    shutil.copytree(pictures, tmp_path / "coco" / "val2017")
    (tmp_path / "coco" / "val2017" / "1.png").unlink()
    out = tmp_path / "results.json"
    others = [tmp_path / "results.tsv", tmp_path / "results.json.tsv"]
    for other in others:
        other.write_text("somebody's own")
    keys = {"model_path": model, "json_path": str(out), "p_test": 0.6, "temperature": 0}
    infer.coco(parse(CocoParams, given | keys, "job"))
    texts = captioner.caption([pictures / "0.png", pictures / "2.png"], num_beams=1)
    assert json.loads(out.read_text()) == [
        {"image_id": 40, "caption": texts[0]},
        {"image_id": 41, "caption": ""},
        {"image_id": 42, "caption": texts[1]},
    ]
    assert [other.read_text() for other in others] == ["somebody's own"] * 2
    assert (tmp_path / "results.json.captions.tsv").read_text().splitlines()[1] == '41\t[{"caption":""}]'
    assert "no such image in val2017" in (tmp_path / "results.json.captions.tsv.errors.tsv").read_text()


def test_a_coco_result_is_not_called_a_tsv(model, tmp_path):
    keys = _split(tmp_path / "coco", []) | {"model_path": model, "out_file": str(tmp_path / "results.tsv")}
    with pytest.raises(UsageError, match=r"'out_file': expected the name of a JSON file, found '.*results\.tsv'"):
        parse(CocoParams, keys, "job")


@pytest.fixture(scope="module")
def instruct(tmp_path_factory, published):
    folder = tmp_path_factory.mktemp("instruct") / "checkpoint"
    small_captioner(published("qwen2"), "qwen2").save(folder)
    return str(folder)


def test_a_chat_is_asked_for_by_its_keys(instruct, pictures, image_tsv, question_tsv, tmp_path, capsys):
    from git_caption import Captioner

    chatting = Captioner.load(instruct, device="cpu").with_chat(True, "one word.")
    asked = {"chat": True, "system": "one word."}
    infer.single_image(_single(instruct, image_path=str(pictures / "1.png"), prompt="what?", **asked))
    assert capsys.readouterr().out == chatting.answer([pictures / "1.png"], ["what?"])[0] + "\n"

    path, questions = question_tsv
    out = tmp_path / "answers.tsv"
    infer.single_tsv(_tsv(instruct, image_tsv=image_tsv, question_tsv=path, out_tsv=str(out), **asked))
    expected = [
        chatting.answer([pictures / f"{number}.png"], [text])[0]
        for number, texts in enumerate(questions)
        for text in texts
    ]
    assert [json.loads(line)["answer"] for line in out.read_text().splitlines()] == expected
    with pytest.raises(UsageError, match="'system': a message of a chat, and 'chat' is False"):
        _single(instruct, image_path=str(pictures / "1.png"), chat=False, system="one word.")


def test_a_device_map_changes_no_byte_and_no_digest_and_a_chat_does(instruct, image_tsv, tmp_path, monkeypatch):
    digests, own = [], infer.run

    def noting(source, compute, out, settings, **named):
        digests.append(json.dumps(settings, sort_keys=True))
        return own(source, compute, out, settings, **named)

    monkeypatch.setattr(infer, "run", noting)
    asked = [
        {},
        {"device_map": {"": "disk"}},
        {"device_map": "auto", "max_memory": {"cpu": "300KB"}},
        {"chat": True},
    ]
    outputs = []
    for number, keys in enumerate(asked):
        out = tmp_path / f"{number}.tsv"
        infer.single_tsv(_tsv(instruct, image_tsv=image_tsv, out_tsv=str(out), **keys))
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1] == outputs[2] != outputs[3]
    assert digests[0] == digests[1] == digests[2] != digests[3]


def test_a_captioner_is_loaded_once_for_the_jobs_of_a_command(model):
    first = _single(model, image_path=[model + "/config.json"])
    assert infer.load_captioner(first.model, first.running) is infer.load_captioner(first.model, first.running)
    chatting = infer.load_captioner(first.model, first.running, first.prompting)
    assert chatting.network is infer.load_captioner(first.model, first.running).network


def test_gif_bytes_in_a_tsv_are_read_too(model, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (9, 200, 9)).save(buffer, "GIF")
    path, out = tmp_path / "gif.tsv", tmp_path / "captions.tsv"
    with TsvWriter(path) as writer:
        writer.write(ImageRow("g", buffer.getvalue()).columns())
    infer.single_tsv(_tsv(model, image_tsv=str(path), out_tsv=str(out)))
    assert out.read_text().startswith('g\t[{"caption":"') and not (tmp_path / "captions.tsv.errors.tsv").exists()


def test_answers_may_be_one_of_a_file(model, captioner, pictures, image_tsv, tmp_path):
    answers = ("yes", "no", "a red circle")
    (tmp_path / "answers.txt").write_text("\n".join(answers))
    question_tsv = tmp_path / "questions.tsv"
    asked = [{"question_id": number, "question": "is it red?"} for number in range(2)]
    question_tsv.write_text("".join(f"{file.stem}\t{json.dumps(asked)}\n" for file in sorted(pictures.iterdir())))
    out = tmp_path / "answers.tsv"
    keys = {"image_tsv": image_tsv, "question_tsv": str(question_tsv), "out_tsv": str(out), "num_beams": 3}
    infer.single_tsv(_tsv(model, **keys, allowed_texts=str(tmp_path / "answers.txt")))
    found = [json.loads(line)["answer"] for line in out.read_text().splitlines()]
    assert len(found) == 2 * len(list(pictures.iterdir())) and set(found) <= set(answers)
    expected = captioner.answer(
        sorted(pictures.iterdir()),
        ["is it red?"] * len(found[::2]),
        num_beams=3,
        allowed_texts=str(tmp_path / "answers.txt"),
    )
    assert found[::2] == expected


def test_questions_on_an_image_share_its_features(model, pictures, image_tsv, tmp_path, monkeypatch):
    question_tsv = tmp_path / "questions.tsv"
    asked = [{"question_id": number, "question": f"question {number}?"} for number in range(7)]
    files = sorted(pictures.iterdir())
    question_tsv.write_text("".join(f"{file.stem}\t{json.dumps(asked)}\n" for file in files))
    keys = {"image_tsv": image_tsv, "question_tsv": str(question_tsv), "out_tsv": str(tmp_path / "answers.tsv")}
    params = _tsv(model, **keys, batch_size=4)
    encoder = infer.load_captioner(params.model, params.running).network.image_encoder
    encoded: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
    infer.single_tsv(params)
    handle.remove()
    assert sum(encoded) == len(files)
    assert len((tmp_path / "answers.tsv").read_text().splitlines()) == 7 * len(files)


def test_the_shape_of_images_is_kept_where_that_is_asked_for(model, pictures, image_tsv, tmp_path):
    from git_caption import Captioner

    out = tmp_path / "captions.tsv"
    asked = {"test_crop_size": 48, "test_respect_ratio_max": 64}
    infer.single_tsv(_tsv(model, image_tsv=image_tsv, out_tsv=str(out), batch_size=2, **asked))
    texts = Captioner.load(model, device="cpu", **asked).caption(sorted(pictures.iterdir()))
    assert [json.loads(line.split("\t")[1])[0]["caption"] for line in out.read_text().splitlines()] == texts


@pytest.mark.parametrize(
    ("first", "then", "named"),
    [
        ({}, {"exact_decode": True}, "exact_decode: False then, True now"),
        ({}, {"test_crop_size": 48}, "model: "),
        ({"test_respect_ratio_max": 64}, {"test_respect_ratio_max": 80}, "model: "),
        ({}, {"num_beams": 5}, "decoding.num_beams: 2 then, 5 now"),
        ({}, {"batch_size": 3}, "batch_size: 32 then, 3 now"),
        ({}, {"dtype": "bfloat16"}, "dtype: float32 then, bfloat16 now"),
    ],
)
def test_a_run_is_not_resumed_with_keys_that_change_its_bytes(model, image_tsv, tmp_path, first, then, named):
    lines = Path(image_tsv).read_text().splitlines()
    broken = tmp_path / "broken.tsv"
    broken.write_text("\n".join([*lines, "5\t!"]) + "\n")
    keys = {"image_tsv": str(broken), "out_tsv": str(tmp_path / "out.tsv"), "max_errors": 0}
    with pytest.raises(JobFailed, match="'max_errors' allows 0"):
        infer.single_tsv(_tsv(model, **keys, **first))
    with pytest.raises(UsageError, match=f"unfinished run with other settings .*{named}"):
        infer.single_tsv(_tsv(model, **keys, **first | then))
    infer.single_tsv(_tsv(model, **keys | {"max_errors": 1, "num_workers": 1}, **first))  # these change no byte
    assert len((tmp_path / "out.tsv").read_text().splitlines()) == 6


def _door(capsys, job, **keys):
    """Exit code and stderr of the command, run here."""
    code = main(["-p", json.dumps({"type": job, "device": "cpu", **keys})])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_lines_of_other_systems_in_a_folder_nobody_may_write_give_the_same(model, image_tsv, tmp_path, workers):
    plain, other = tmp_path / "plain.tsv", tmp_path / "other.tsv"
    infer.single_tsv(_tsv(model, image_tsv=image_tsv, out_tsv=str(plain)))
    folder = tmp_path / "read-only"
    folder.mkdir()
    lines = Path(image_tsv).read_bytes().splitlines()
    (folder / "crlf.tsv").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))  # and no newline at the end
    folder.chmod(0o555)
    try:
        infer.single_tsv(_tsv(model, image_tsv=str(folder / "crlf.tsv"), out_tsv=str(other), num_workers=workers))
        assert [path.name for path in folder.iterdir()] == ["crlf.tsv"]
    finally:
        folder.chmod(0o755)
    assert other.read_bytes() == plain.read_bytes()


def test_files_that_do_not_belong_together_end_the_job_with_both_named(
    model, image_tsv, question_tsv, tmp_path, capsys
):
    out = tmp_path / "answers.tsv"
    lines = Path(question_tsv[0]).read_text().splitlines(keepends=True)
    (tmp_path / "shorter.tsv").write_text("".join(lines[:4]))
    keys = {"model_path": model, "image_tsv": image_tsv, "out_tsv": str(out), "num_workers": 0}
    shorter, swapped = tmp_path / "shorter.tsv", tmp_path / "swapped.tsv"
    assert _door(capsys, "test_git_inference_single_tsv", question_tsv=str(shorter), **keys) == (
        1,
        f"error: {image_tsv} has 5 rows and {shorter} has 4; expected one row of questions for each image, in the same "
        "order\n",
    )
    swapped.write_text("".join([lines[1], lines[0], *lines[2:]]))
    assert _door(capsys, "test_git_inference_single_tsv", question_tsv=str(swapped), **keys) == (
        1,
        f"error: {swapped}:1: the key is '1', and '0' in {image_tsv}:1; expected the same keys in the same order\n",
    )
    assert not out.exists()


def test_a_broken_row_ends_the_job_where_that_is_asked_for(model, image_tsv, tmp_path, capsys):
    broken = tmp_path / "broken.tsv"
    lines = Path(image_tsv).read_bytes().splitlines()
    broken.write_bytes(b"\n".join([*lines[:3], b"k\xff\tx", *lines[3:]]) + b"\n")
    keys = {"model_path": model, "image_tsv": str(broken), "out_tsv": str(tmp_path / "out.tsv"), "num_workers": 1}
    code, error = _door(capsys, "test_git_inference_single_tsv", on_error="raise", **keys)
    assert code == 1
    cause = f"error: {broken}:4: byte 0xff at 1 is not UTF-8, expected UTF-8 text"
    assert error.endswith(f"{cause} (row 4, key 'k\N{REPLACEMENT CHARACTER}')\n")
    assert not (tmp_path / "out.tsv").exists()


def test_keys_may_come_twice(model, captioner, image_tsv, pictures, tmp_path):
    lines = Path(image_tsv).read_text().splitlines(keepends=True)
    twice, out = tmp_path / "twice.tsv", tmp_path / "out.tsv"
    twice.write_text("".join([lines[0], lines[1].replace("1\t", "0\t", 1), lines[0]]))
    infer.single_tsv(_tsv(model, image_tsv=str(twice), out_tsv=str(out)))
    first, second = captioner.caption([pictures / "0.png", pictures / "1.png"])
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert [(key, json.loads(text)[0]["caption"]) for key, text in rows] == [("0", first), ("0", second), ("0", first)]


def test_scores_stand_in_the_tsv_with_four_decimals_best_first(model, image_tsv, question_tsv, tmp_path):
    out = tmp_path / "out.tsv"
    scored = {"image_tsv": image_tsv, "out_tsv": str(out), "with_scores": True}
    infer.single_tsv(_tsv(model, num_beams=3, num_captions=3, **scored))
    for line in out.read_text().splitlines():
        text = line.split("\t")[1]
        found = json.loads(text)
        assert text == json.dumps(found, sort_keys=True, separators=(",", ":"))
        assert [set(entry) for entry in found] == [{"caption", "logprob", "mean_logprob"}] * 3
        assert all(entry[name] == round(entry[name], 4) for entry in found for name in ("logprob", "mean_logprob"))
    infer.single_tsv(_tsv(model, question_tsv=question_tsv[0], **scored))
    for line in out.read_text().splitlines():
        assert set(json.loads(line)) == {"answer", "logprob", "mean_logprob", "question_id"}


def test_a_job_stopped_by_a_signal_ends_with_75_and_goes_on(model, image_tsv, tmp_path):
    many, out = tmp_path / "many.tsv", tmp_path / "out.tsv"
    many.write_text("".join(Path(image_tsv).read_text().splitlines(keepends=True)) * 350)  # 1750 rows, 7 chunks
    keys = {"image_tsv": str(many), "num_workers": 1, "num_beams": 1, "max_new_tokens": 3}
    command = json.dumps({"type": "test_git_inference_single_tsv", "model_path": model, "device": "cpu", **keys})
    command = command[:-1] + f', "out_tsv": "{out}"}}'
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "inference.py"), "-p", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    parts = tmp_path / "out.tsv.parts"
    while not (parts / "000000.tsv").exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    kept = len(list(parts.glob("??????.tsv")))
    assert (process.returncode, error) == (
        75,
        f"error: stopped by SIGTERM; {kept} of 7 chunks are kept in {parts}: run the same command again to go on\n",
    )
    assert 0 < kept < 7 and not out.exists()
    infer.single_tsv(_tsv(model, **keys, out_tsv=str(out)))
    infer.single_tsv(_tsv(model, **keys, out_tsv=str(tmp_path / "whole.tsv")))
    assert out.read_bytes() == (tmp_path / "whole.tsv").read_bytes()


def test_other_formats_are_read_and_written_with_the_same_texts(model, image_tsv, pictures, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    lines = [json.dumps({"image": str(pictures / f"{number}.png"), "key": str(number)}) for number in range(5)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    jobs = [
        {"type": "tsv_to_webdataset", "tsv": image_tsv, "out_tar": f"{tmp_path}/x.tar"},
        {"type": "tsv_to_parquet", "tsv": image_tsv, "out_parquet": f"{tmp_path}/x.parquet"},
    ]
    (tmp_path / "jobs.json").write_text(json.dumps([{**job, "num_workers": 0} for job in jobs]))
    assert main(["-f", f"{tmp_path}/jobs.json"]) == 0
    infer.single_tsv(_tsv(model, image_tsv=image_tsv, out_tsv=f"{tmp_path}/out.tsv", with_scores=True))
    expected = [line.split("\t") for line in (tmp_path / "out.tsv").read_text().splitlines()]
    records = [{"key": key, **json.loads(text)[0]} for key, text in expected]
    for name in ("x-00000.tar", "x.parquet", "list.jsonl"):
        for ending in ("jsonl", "parquet"):
            out = tmp_path / f"out.{ending}"
            infer.single_tsv(_tsv(model, image_tsv=f"{tmp_path}/{name}", out_tsv=str(out), with_scores=True))
            found = (
                parquet.read_table(out).to_pylist()
                if ending == "parquet"
                else map(json.loads, out.read_text().splitlines())
            )
            assert list(found) == records
            assert not out.with_suffix(".parts").exists()


def test_answers_and_several_captions_go_into_jsonl_and_parquet(model, image_tsv, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with TsvWriter(tmp_path / "q.tsv") as writer:
        for key in range(5):
            writer.write(QuestionRow(str(key), (Question(key, "what?"), Question(f"t{key}", "who?"))).columns())
    asked = {"image_tsv": image_tsv, "question_tsv": f"{tmp_path}/q.tsv"}
    several = {"image_tsv": image_tsv, "num_captions": 2}
    for keys in (asked, several):
        outs = [f"{tmp_path}/out.{ending}" for ending in ("tsv", "jsonl", "parquet")]
        for out in outs:
            infer.single_tsv(_tsv(model, out_tsv=out, **keys))
        tsv = [line.split("\t") for line in Path(outs[0]).read_text().splitlines()]
        if keys is asked:
            records = [json.loads(line) for (line,) in tsv]
        else:
            records = [{"key": key, "captions": json.loads(text)} for key, text in tsv]
        assert [json.loads(line) for line in Path(outs[1]).read_text().splitlines()] == records
        texts = [{**row, "question_id": str(row["question_id"])} if keys is asked else row for row in records]
        assert parquet.read_table(outs[2]).to_pylist() == texts
