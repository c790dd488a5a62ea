"""Prompts: a template with at most one thing to fill in, the question; and their token ids, as plain text or a chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from git_caption.errors import UsageError
from git_caption.params.model import BASE_CAPTION, PromptConfig, placeholders
from git_caption.text.tokenizer import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION = "{question}"
# Some templates tell the model the day, and texts must not depend on the day of the run: it is the one that LLaMA
# 3.1's template takes where it knows none.
DAY = {"%d": "26", "%b": "Jul", "%B": "July", "%m": "07", "%Y": "2024"}
FIXED_DAY = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace({code!r}, {value!r})" for code, value in DAY.items())
    + " }}{% endmacro %}"
)


def render(template: str, question: str | None = None) -> str:
    """The template with `{question}` replaced; other text, braces in the question included, stays as it is.

    Raises:
        UsageError: a question the template has no place for, a place without a question, or another placeholder.
    """
    others = sorted(placeholders(template) - {QUESTION})
    if others:
        raise UsageError(f"prompt template {template!r} has the placeholder {others[0]}, known: {QUESTION}")
    if question is None and QUESTION in template:
        raise UsageError(f"prompt template {template!r} asks for a question and there is none")
    if question is not None and QUESTION not in template:
        raise UsageError(f"prompt template {template!r} has no {QUESTION}: the question {question!r} would be lost")
    return template.replace(QUESTION, question or "")


def with_base_caption(template: str, caption: str) -> str:
    """The template with the base captioner's caption in it, white space in it made single spaces."""
    return template.replace(BASE_CAPTION, " ".join(caption.split()))


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, config: PromptConfig, text: str, special_tokens: bool = True
) -> list[int]:
    """The token ids of a rendered prompt: plain, or as the user's message of a chat, up to where the answer begins.

    In a chat all special tokens are the template's, a begin token among them; what spells one in the text stays text.
    Templates of models that think aloud are told not to.

    Args:
        tokenizer: the language model's.
        config: of the prompts.
        text: rendered.
        special_tokens: whether a plain one is given with those that the tokenizer puts around a text.

    Raises:
        UsageError: the tokenizer has no chat template, or it does not take the messages.
    """
    if not config.chat:
        return encode_prompt(tokenizer, text, special_tokens)
    messages = [{"role": "user", "content": text}]
    if config.system:
        messages.insert(0, {"role": "system", "content": config.system})
    if not tokenizer.chat_template:
        raise UsageError("'chat': the language model's tokenizer has no chat template; leave 'chat' out")
    try:
        ids: Any = tokenizer.apply_chat_template(
            messages,
            chat_template=FIXED_DAY + tokenizer.get_chat_template(),
            add_generation_prompt=True,
            return_dict=False,
            sanitize_control_tokens=True,
            enable_thinking=False,
        )
    except (ValueError, TemplateError) as error:
        raise UsageError(f"'chat': the tokenizer's chat template does not take the messages: {error}") from error
    return [int(token) for token in ids]


def begins_word(config: PromptConfig, text: str) -> bool:
    """Whether what follows a rendered prompt begins a new word: after plain text it does, in a chat it is a turn."""
    return bool(text) and not config.chat
