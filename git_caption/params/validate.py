"""Parameters of the job that looks a data set through."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.running import RunningParams
from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class ValidateDataParams:
    """Keys of `validate_data`."""

    data: str = key(
        help="what to train on: a file, a folder, tars as shards/{00000..00012}.tar, or a data set on the hub",
        kind="data",
        example="data/shapes",
    )
    split: str | None = key(None, help="split of the data; None: train where there is one, else the only one")
    image_column: str | None = key(None, help="column of a table that names images; None: found by name")
    caption_column: str | None = key(None, help="column of a table that holds captions; None: found by name")
    tokenizer: str | None = key(
        None,
        help="language model or checkpoint whose tokens captions are measured in; None: words",
        kind="model",
        aliases=("language_model",),
    )
    out_json: str | None = key(None, help="JSON to write with what was found", kind="output_file")
    num_workers: int | None = key(
        None, minimum=0, help="processes that decode images; None: the cores less one, at most 4"
    )
    max_errors: int | None = key(
        None, minimum=0, help="the job fails past so many bad rows, once all are reported; None: no bound"
    )

    @property
    def workers(self) -> int:
        """`num_workers`, with None settled for this machine."""
        return RunningParams(num_workers=self.num_workers).workers
