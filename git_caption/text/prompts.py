"""Prompts: a template with at most one thing to fill in, the question."""

from __future__ import annotations

import re

from git_caption.errors import UsageError

QUESTION = "{question}"
PLACEHOLDER = re.compile(r"\{\w*\}")


def render(template: str, question: str | None = None) -> str:
    """The template with `{question}` replaced; other text, braces in the question included, stays as it is.

    Raises:
        UsageError: a question the template has no place for, a place without a question, or another placeholder.
    """
    others = sorted(set(PLACEHOLDER.findall(template)) - {QUESTION})
    if others:
        raise UsageError(f"prompt template {template!r} has the placeholder {others[0]}, known: {QUESTION}")
    if question is None and QUESTION in template:
        raise UsageError(f"prompt template {template!r} asks for a question and there is none")
    if question is not None and QUESTION not in template:
        raise UsageError(f"prompt template {template!r} has no {QUESTION}: the question {question!r} would be lost")
    return template.replace(QUESTION, question or "")
