from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from git_caption.errors import DataError, JobFailed, UsageError
from git_caption.metrics import java
from git_caption.metrics.coco import Metric, score

WITHOUT_JAVA: tuple[Metric, ...] = ("Bleu", "ROUGE_L", "CIDEr")
CANDIDATES = {"1": "a small dog runs over green grass", "2": "two people sit quietly beside the river"}
REFERENCES = {
    "1": ["A small dog runs over green grass.", "the animal is outdoors"],
    "2": ["Two people sit quietly beside the river!", "a couple rests"],
}


@pytest.fixture
def golden(shared_data: Path) -> tuple[dict[str, str], dict[str, list[str]], dict[str, Any]]:
    """Captions, references and the scores that pycocoevalcap's own pipeline gave them."""
    folder = shared_data / "metrics"
    candidates = json.loads((folder / "candidates_loo4_1000.json").read_text())
    references: dict[str, list[str]] = {}
    for entry in json.loads((folder / "refs_loo4_1000.json").read_text())["annotations"]:
        references.setdefault(str(entry["image_id"]), []).append(entry["caption"])
    scores = json.loads((folder / "scores_loo4_1000.json").read_text())
    return {str(entry["image_id"]): entry["caption"] for entry in candidates}, references, scores


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def fake_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], None]:
    """Puts a shell script in Java's place; `-version` works."""

    def install(script: str, version: int = 17) -> None:
        folder = tmp_path / f"bin{version}"
        folder.mkdir()
        path = folder / "java"
        path.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = -version ]; then echo \'openjdk version "{version}.0.1"\' >&2; exit 0; fi\n'
            f"{script}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))

    return install


def check_golden(found: Any, expected: dict[str, Any]) -> None:
    for name, value in found.overall.items():
        assert value == pytest.approx(expected["scores"][name], abs=1e-12), name  # worst seen: 0.0
    for entry in expected["per_image"]:
        for name, value in found.per_image[str(entry["image_id"])].items():
            assert value == pytest.approx(entry[name], abs=5.1e-9), name  # the file has 8 decimals


def test_scores_are_those_of_pycocoevalcap_without_java(golden: Any, no_java: None) -> None:
    candidates, references, expected = golden
    found = score(candidates, references, WITHOUT_JAVA)
    assert found.tokenizer == "python"
    assert list(found.overall) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    check_golden(found, expected)


@pytest.mark.java
def test_scores_are_those_of_pycocoevalcap_with_java(golden: Any) -> None:
    candidates, references, expected = golden
    found = score(candidates, references)
    assert found.tokenizer == "java"
    assert list(found.overall) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L", "CIDEr"]
    check_golden(found, expected)


def test_a_perfect_caption_has_the_highest_scores(no_java: None) -> None:
    found = score(CANDIDATES, REFERENCES, WITHOUT_JAVA)
    assert found.overall["Bleu_4"] == pytest.approx(1, abs=1e-6)
    assert found.overall["ROUGE_L"] == 1
    # The mean over the references: 10 for the equal one, 0 for the other, which shares no word.
    assert found.overall["CIDEr"] == pytest.approx(5)
    assert found.per_image["2"]["CIDEr"] == pytest.approx(5)
    assert found.reasons == {}


def test_a_hand_counted_bleu(no_java: None) -> None:
    found = score({"x": "a cat on a mat"}, {"x": ["a cat sat on the mat"]}, ["Bleu"])
    # 4 of 5 words (one "a" too many), brevity exp(1 - 6/5); 1 of 4 pairs
    assert found.overall["Bleu_1"] == pytest.approx(0.8 * 2.718281828**-0.2, abs=1e-6)
    assert found.overall["Bleu_2"] == pytest.approx((0.8 * 0.25) ** 0.5 * 2.718281828**-0.2, abs=1e-6)


def test_nothing_is_printed(no_java: None, capfd: pytest.CaptureFixture[str]) -> None:
    score(CANDIDATES, REFERENCES)
    assert capfd.readouterr() == ("", "")


def test_images_without_a_candidate_are_left_out_and_counted(no_java: None) -> None:
    references = {**REFERENCES, "3": ["a bird"], "4": ["a cow"], "5": []}
    found = score(CANDIDATES, references, WITHOUT_JAVA)
    assert (found.images, found.references, found.coverage) == (2, 4, 0.5)
    assert found.overall == score(CANDIDATES, REFERENCES, WITHOUT_JAVA).overall


def test_candidates_without_a_reference_are_an_error_with_examples() -> None:
    candidates = {**CANDIDATES, "a.jpg": "x", "b.jpg": "y", "c.jpg": "z", "d.jpg": "z"}
    with pytest.raises(
        DataError, match=r"4 of 6 .*'a\.jpg', 'b\.jpg', 'c\.jpg', \.\.\.; the references have '1', '2':"
    ):
        score(candidates, REFERENCES)


def test_an_image_with_an_empty_list_of_references_has_none() -> None:
    with pytest.raises(DataError, match=r"1 of 1 .*'1'; the references have none"):
        score({"1": "x"}, {"1": []})


def test_no_candidates_are_an_error() -> None:
    with pytest.raises(DataError, match="no candidate captions"):
        score({}, REFERENCES)


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(UsageError, match="'BLEU'; known: Bleu, METEOR, ROUGE_L, CIDEr, SPICE"):
        score(CANDIDATES, REFERENCES, ["CIDEr", "BLEU"])  # type: ignore[list-item]


def test_cider_over_one_image_is_zero_and_says_why(no_java: None) -> None:
    found = score({"1": CANDIDATES["1"]}, REFERENCES, ["CIDEr"])
    assert found.overall == {"CIDEr": 0}
    assert any("one image" in note for note in found.notes)


def test_empty_captions_score_zero(no_java: None) -> None:
    found = score({"1": "", "2": CANDIDATES["2"]}, REFERENCES, WITHOUT_JAVA)
    assert found.per_image["1"]["CIDEr"] == 0
    assert found.per_image["1"]["Bleu_1"] == 0
    assert found.per_image["2"]["ROUGE_L"] == 1


@pytest.mark.parametrize("separator", ["\n", "\r", "\u2028", "\x85"])
@pytest.mark.parametrize("tokenizer", ["python", pytest.param("java", marks=pytest.mark.java)])
def test_line_separators_in_captions_shift_nothing(tokenizer: Any, separator: str) -> None:
    broken = {
        image: [text.replace(" ", separator, 2) + separator for text in texts] for image, texts in REFERENCES.items()
    }
    found = score(CANDIDATES, broken, WITHOUT_JAVA, tokenizer)
    assert found.per_image == score(CANDIDATES, REFERENCES, WITHOUT_JAVA, tokenizer).per_image


def test_without_java_meteor_is_null_with_its_reason_and_the_others_are_there(no_java: None) -> None:
    found = score(CANDIDATES, REFERENCES)
    assert found.overall["METEOR"] is None
    assert found.reasons == {"METEOR": "needs Java, and there is no 'java' on the PATH"}
    assert found.overall["CIDEr"] == pytest.approx(5)
    assert "METEOR" not in found.per_image["1"]
    assert found.notes == [
        "captions were tokenized by our own tokenizer, not Java's (needs Java, and there is no 'java' on the PATH)"
    ]


def test_a_java_that_does_not_run_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "java"  # as on a Mac without Java
    path.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = score(CANDIDATES, REFERENCES, ["METEOR"])
    assert found.overall == {"METEOR": None}
    assert found.reasons["METEOR"] == f"needs Java, and {path} -version does not run"


def test_asking_for_javas_tokenizer_without_java_fails(no_java: None) -> None:
    with pytest.raises(JobFailed, match="tokenizer 'java' cannot run: needs Java"):
        score(CANDIDATES, REFERENCES, WITHOUT_JAVA, "java")


def test_a_meteor_that_hangs_is_stopped(fake_java: Any) -> None:
    fake_java("exec /bin/sleep 60")
    found = score(CANDIDATES, REFERENCES, ["METEOR", "ROUGE_L"], "python", timeout=0.5)
    assert found.overall == {"METEOR": None, "ROUGE_L": 1}
    assert found.reasons == {"METEOR": "METEOR was stopped after 0.5 s"}


def test_a_meteor_that_crashes_gives_its_last_words(fake_java: Any) -> None:
    fake_java("echo warming up >&2; echo 'Error: out of memory' >&2; exit 3")
    found = score(CANDIDATES, REFERENCES, ["METEOR"], "python")
    assert found.reasons == {"METEOR": "METEOR failed: Error: out of memory"}


def test_a_meteor_that_fills_its_error_stream_does_not_block(fake_java: Any) -> None:
    fake_java(
        "/usr/bin/head -c 300000 /dev/zero >&2\n"
        'while read line; do echo 1.0; [ "${line#EVAL}" = "$line" ] || { echo 0.5; echo 0.25; }; done'
    )
    found = score(CANDIDATES, REFERENCES, ["METEOR"], "python", timeout=60)
    assert found.overall == {"METEOR": 0.25}
    assert found.per_image == {"1": {"METEOR": 1.0}, "2": {"METEOR": 0.5}}


def test_a_tokenizer_that_fails_is_replaced_by_our_own(fake_java: Any) -> None:
    fake_java("echo 'cannot allocate' >&2; exit 1")
    found = score(CANDIDATES, REFERENCES, WITHOUT_JAVA)
    assert found.tokenizer == "python"
    assert "the Java program ended with 1: cannot allocate" in found.notes[0]


def test_a_tokenizer_that_loses_lines_is_not_believed(fake_java: Any) -> None:
    fake_java("echo one line")
    with pytest.raises(JobFailed, match="gave 2 lines for 6 captions"):
        score(CANDIDATES, REFERENCES, WITHOUT_JAVA, "java")


def test_a_scorer_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, no_java: None) -> None:
    from pycocoevalcap.rouge.rouge import Rouge

    monkeypatch.setattr(Rouge, "compute_score", lambda *_: 1 / 0)
    found = score(CANDIDATES, REFERENCES, ["ROUGE_L", "CIDEr"])
    assert found.overall == {"ROUGE_L": None, "CIDEr": pytest.approx(5)}
    assert found.reasons == {"ROUGE_L": "failed: ZeroDivisionError: division by zero"}


def test_without_pycocoevalcap_every_metric_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in list(sys.modules):
        if name.startswith("pycocoevalcap"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "pycocoevalcap").is_dir()])
    monkeypatch.setattr(java, "find_spec", lambda _: None)
    found = score(CANDIDATES, REFERENCES, tokenizer="python")
    assert set(found.overall.values()) == {None}
    for reason in found.reasons.values():
        assert re.search(r"needs pycocoevalcap.*: pip install 'git-caption\[metrics\]'|needs Java", reason), reason


def test_spice_is_null_under_a_java_that_is_too_new(fake_java: Any) -> None:
    fake_java("exit 0", 21)
    found = score(CANDIDATES, REFERENCES, ["SPICE"], "python")
    assert found.reasons == {"SPICE": f"needs Java 11 or older, and {java.require()} is Java 21"}


def test_spice_is_null_without_its_models(fake_java: Any) -> None:
    fake_java("exit 0", 8)
    found = score(CANDIDATES, REFERENCES, ["SPICE"], "python")
    assert found.overall == {"SPICE": None}
    assert re.search(r"CoreNLP 3\.6\.0 .*stanford-corenlp-3\.6\.0-models\.jar not found", found.reasons["SPICE"])


def test_spice_scores_are_read_by_image(fake_java: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for part in ("", "-models"):
        (tmp_path / "lib" / f"stanford-corenlp-3.6.0{part}.jar").touch()
    monkeypatch.setattr(java, "jar", lambda name: tmp_path / Path(name).name)
    entries = [{"image_id": n, "scores": {"All": {"pr": 1, "re": 1, "f": f}}} for n, f in ((1, 0.25), (0, 0.75))]
    fake_java(f'while [ "$1" != -out ]; do shift; done; echo \'{json.dumps(entries)}\' > "$2"', 8)
    found = score(CANDIDATES, REFERENCES, ["SPICE"], "python")
    assert found.overall == {"SPICE": 0.5}
    assert found.per_image["1"]["SPICE"]["All"]["f"] == 0.75


@pytest.mark.java
def test_nothing_is_written_where_pycocoevalcap_lies() -> None:
    package = find_spec("pycocoevalcap")
    assert package is not None
    folder = Path(next(iter(package.submodule_search_locations or ())))

    def files() -> set[Path]:
        return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}

    before = files()
    score(CANDIDATES, REFERENCES, WITHOUT_JAVA, "java")
    assert files() == before


@pytest.mark.java
def test_java_reads_and_writes_utf8_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    assert java.tokenize(["Un café à Zürich", "日本語"], timeout=120) == ["un café à zürich", "日本語"]
