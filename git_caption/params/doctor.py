"""Parameters of the job that examines a machine."""

from __future__ import annotations

from dataclasses import dataclass

from git_caption.params.schema import key


@dataclass(frozen=True, kw_only=True)
class DoctorParams:
    """Keys of `doctor`."""

    out_json: str | None = key(
        None, help="JSON to write the same to", kind="output_file", example="inference/doctor.json"
    )
