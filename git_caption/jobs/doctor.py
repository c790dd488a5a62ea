"""What a machine offers to runs, and what would not work on it, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from git_caption.errors import reason
from git_caption.jobs import machine
from git_caption.jobs.convert import write_json
from git_caption.jobs.machine import Section
from git_caption.params.doctor import DoctorParams

EXAMINATIONS: dict[str, Callable[[], Section]] = {
    "versions": machine.versions,
    "processor": machine.processor,
    "GPUs": machine.gpus,
    "bitsandbytes": machine.bits,
    "Java": machine.java_programs,
    "caches and space": machine.space,
    "launcher": machine.launcher,
}


def doctor(params: DoctorParams) -> None:
    """Print every section, then what would not work. Ends well whatever it finds: a trouble is a finding."""
    sections = {title: _examined(examine) for title, examine in EXAMINATIONS.items()}
    lines = []
    for title, section in sections.items():
        lines += [title, *(f"  {name:<28}{value}" for name, value in section.facts.items()), ""]
    troubles = [f"  {what}: {why}" for section in sections.values() for what, why in section.troubles.items()]
    lines += ["what would not work" if troubles else "all works that was looked at", *troubles]
    print("\n".join(lines), flush=True)  # at once, as each process of a launcher prints its own
    if params.out_json is not None:
        write_json(params.out_json, {title: asdict(section) for title, section in sections.items()})


def _examined(examine: Callable[[], Section]) -> Section:
    """A broken library may raise anything while it is imported; the other sections are told all the same."""
    try:
        return examine()
    except Exception as error:
        return Section({}, {examine.__name__.replace("_", " "): reason(error)})
