"""The names of the GIT tool's models."""

from __future__ import annotations

import pytest

from git_caption.params.infer import SingleImageParams
from git_caption.params.pretrained import GIT_MODELS
from git_caption.params.schema import faults, parse


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("GIT_BASE", "microsoft/git-base"),
        ("GIT_BASE_COCO", "microsoft/git-base-coco"),
        ("GIT_BASE_VQAv2", "microsoft/git-base-vqav2"),
        ("GIT_BASE_TEXTCAPS", "microsoft/git-base-textcaps"),
        ("GIT_BASE_TEXTVQA", "microsoft/git-base-textvqa"),
        ("GIT_BASE_VATEX", "microsoft/git-base-vatex"),
        ("GIT_BASE_MSRVTT_QA", "microsoft/git-base-msrvtt-qa"),
        ("GIT_LARGE", "microsoft/git-large"),
        ("GIT_LARGE_COCO", "microsoft/git-large-coco"),
        ("GIT_LARGE_R_TEXTCAPS", "microsoft/git-large-r-textcaps"),
    ],
)
def test_names_of_the_git_tool_stand_for_repositories(name: str, repository: str) -> None:
    params = parse(SingleImageParams, {"model_name": name, "image_path": "README.md"}, "job", ["README.md"])
    assert params.model.path == GIT_MODELS[name] == repository


def test_a_path_is_itself() -> None:
    given = {"model_path": "someone/captioner", "image_path": "README.md"}
    assert parse(SingleImageParams, given, "job", ["README.md"]).model.path == "someone/captioner"


def test_the_captioner_is_said_once_by_a_known_name() -> None:
    def found(**given: str) -> list[str]:
        return faults(SingleImageParams, {"image_path": "a.jpg", **given}, "job", ["a.jpg"])

    assert found() == [
        "job: missing key 'model_path': checkpoint directory, pretrained captioner, or an old tool's file"
    ]
    assert found(model_name="GIT_BASE", model_path="gpt2") == [
        "job: 'model_path' and 'model_name' exclude each other; give one of them"
    ]
    assert found(model_name="GIT_BASE_VQAV2") == [
        "job: 'model_name': expected a model of the GIT tool, found 'GIT_BASE_VQAV2'; did you mean 'GIT_BASE_VQAv2'?"
    ]
    assert found(model_name="blip")[0].startswith(
        "job: 'model_name': expected a model of the GIT tool, found 'blip'; known names: GIT_BASE, GIT_BASE_COCO, "
    )
