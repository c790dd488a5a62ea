"""Parameters of the scoring jobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from git_caption.params.schema import key

Metric = Literal["Bleu", "METEOR", "ROUGE_L", "CIDEr", "SPICE"]

BY_FILES = ("res_file", "label_file")
BY_SPLIT = ("data_dir", "data_type", "result_file")


@dataclass(frozen=True, kw_only=True)
class CocoCaptionParams:
    """Keys of `evaluate_on_coco_caption`: `res_file` and `label_file`, or the three that name a split of COCO."""

    res_file: str | None = key(
        None, help="captions: TSV or COCO JSON", kind="input_file", example="inference/example/captions.tsv"
    )
    label_file: str | None = key(
        None, help="references: TSV or COCO JSON", kind="input_file", example="data/shapes/test.caption.tsv"
    )
    data_dir: str | None = key(None, help="folder of COCO with annotations/captions_TYPE.json", kind="input_dir")
    data_type: str | None = key(None, help="split, as val2017")
    result_file: str | None = key(None, help="captions of the split: COCO JSON", kind="input_file")
    outfile: str | None = key(
        None,
        help="JSON to write; None: RES.eval.json beside res_file, or DIR/results/eval_TYPE.json",
        kind="output_file",
    )
    metrics: tuple[Metric, ...] = key(("Bleu", "METEOR", "ROUGE_L", "CIDEr"), help="which to compute")

    @property
    def annotations(self) -> str | None:
        """The annotation file of the split, where the references are named by split."""
        if self.data_dir is None or self.data_type is None:
            return None
        return os.path.join(self.data_dir, "annotations", f"captions_{self.data_type}.json")

    @property
    def references(self) -> str:
        """The file of references, by either name."""
        references = self.label_file or self.annotations
        assert references is not None, "check() has seen that one of the two is given"
        return references

    @property
    def captions(self) -> str:
        """The file of captions, by either name."""
        captions = self.res_file or self.result_file
        assert captions is not None, "check() has seen that one of the two is given"
        return captions

    @property
    def scores_file(self) -> str:
        """The JSON of scores: `outfile`, or where the original tool leaves it."""
        if self.outfile is not None:
            return self.outfile
        if self.res_file is not None:
            return f"{os.path.splitext(self.res_file)[0]}.eval.json"
        return self._in_results(f"eval_{self.data_type}.json")

    @property
    def per_image_file(self) -> str:
        """The JSON of each image's scores."""
        if self.res_file is not None:
            return f"{os.path.splitext(self.scores_file)[0]}.per_image.json"
        return self._in_results(f"evalImgs_{self.data_type}.json")

    @property
    def coco_format_file(self) -> str | None:
        """The captions of a TSV as COCO results; None where they are JSON already."""
        beside, ending = os.path.splitext(self.captions)
        return f"{beside}_coco_format.json" if ending == ".tsv" else None

    @property
    def also_written(self) -> list[str]:
        """What the job writes beside `outfile`."""
        return [path for path in (self.scores_file, self.per_image_file, self.coco_format_file) if path is not None]

    def _in_results(self, name: str) -> str:
        assert self.data_dir is not None, "check() has seen that it is given"
        return os.path.join(self.data_dir, "results", name)

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Neither or both of the two forms, or half of one, as (keys concerned, message)."""
        files = [name for name in BY_FILES if getattr(self, name) is not None]
        split = [name for name in BY_SPLIT if getattr(self, name) is not None]
        if files and split:
            yield (), f"{files[0]!r} and {split[0]!r} belong to two ways of naming the files; give {_both_forms()}"
        elif not files and not split:
            yield BY_FILES + BY_SPLIT, f"missing keys: give {_both_forms()}"
        else:
            given = ", ".join(repr(name) for name in files + split)
            for name in BY_FILES if files else BY_SPLIT:
                if name not in files + split:
                    yield (name,), f"missing key {name!r}, needed with {given}"
        if self.annotations is not None and not os.path.isfile(self.annotations):
            yield ("data_dir", "data_type"), f"'data_type': no such annotation file: {self.annotations!r}"
        if not self.metrics:
            yield ("metrics",), "'metrics': expected at least one metric, found none"


def _both_forms() -> str:
    return " and ".join(map(repr, BY_FILES)) + ", or " + ", ".join(map(repr, BY_SPLIT))
