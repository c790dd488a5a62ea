"""The table of jobs."""

from __future__ import annotations

import dataclasses

import pytest

from git_caption.errors import UsageError
from git_caption.jobs.table import JOBS, find


@pytest.mark.parametrize("name", JOBS)
def test_every_row_leads_to_a_function_and_a_frozen_parameter_class(name: str) -> None:
    job = find(name)
    assert callable(job.load_function())
    cls = job.load_params()
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert job.summary
    assert len(job.summary) < 80


def test_the_old_tools_names_are_kept() -> None:
    old = {
        *("test_git_inference_single_image", "test_git_inference_single_tsv", "test_git_inference_coco"),
        *("evaluate_on_coco_caption", "convert_tsv_to_vqa_json", "convert_tsv_to_coco_format"),
    }
    assert old <= set(JOBS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "evaluate_on_coco_captions",
            r"unknown job type '.*captions'; did you mean 'evaluate_on_coco_caption'\? Known: .*prefetch",
        ),
        ("zzz", r"unknown job type 'zzz'\. Known: test_git_inference_single_image, .*, help$"),
        (None, r"unknown job type None\. Known"),
        (["help"], r"unknown job type \['help'\]"),
        ("os.system", r"unknown job type 'os\.system'\."),
        ("__import__('os')", r"unknown job type"),
    ],
)
def test_an_unknown_name_gets_the_nearest_and_all(name: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name)
