"""The sums of docs/scaling.md: what the document shows is what its program prints."""

from __future__ import annotations

import re
from pathlib import Path

SCALING = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
NAMED = re.compile(r"^\| `(\w+)` \| ([\d.,e-]+) \|", re.MULTILINE)


def test_the_table_is_what_the_program_prints(capsys) -> None:
    text = SCALING.read_text(encoding="utf-8")
    program, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    values: dict[str, object] = {}
    exec(program, values)
    assert capsys.readouterr().out == shown
    given = {name: float(value.replace(",", "")) for name, value in NAMED.findall(text)}
    assert len(given) > 12
    in_ms = {"prepared", "decoded"}
    for name in given.keys() & values.keys():
        assert values[name] == given[name] / (1000 if name in in_ms else 1), name
