"""Allowed texts: a closed set of captions or answers, as a trie of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from git_caption.errors import UsageError
from git_caption.text.tokenizer import encode_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AllowedTexts:
    """The texts that may be generated, each ending with the end token.

    Attributes:
        longest: the most tokens a text has, its end token counted.
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, after_prompt: bool) -> None:
        """Spell the texts in tokens, as training does. Raises UsageError for one the tokenizer has no tokens for."""
        self._following: dict[tuple[int, ...], list[int]] = {}
        self._texts: dict[tuple[int, ...], str] = {}
        for text in texts:
            ids = tuple(encode_target(tokenizer, text, after_prompt=after_prompt))
            if len(ids) < 2:  # the end token alone
                raise UsageError(f"allowed_texts: the tokenizer has no tokens for {text!r}; leave that text out")
            for length, token in enumerate(ids):
                following = self._following.setdefault(ids[:length], [])
                if token not in following:
                    following.append(token)
            self._texts.setdefault(ids, text)
        self.longest = max(map(len, self._texts))

    def following(self, ids: Sequence[int]) -> list[int]:
        """The tokens that may come after `ids`; none where these begin no allowed text."""
        return self._following.get(tuple(ids), [])

    def text(self, ids: Sequence[int]) -> str:
        """The text that `ids` spell, letter for letter as it was given."""
        return self._texts[tuple(ids)]


@lru_cache(maxsize=4)
def allowed_texts(texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, *, after_prompt: bool) -> AllowedTexts:
    """The trie of these texts; kept, as every batch of a run has the same."""
    return AllowedTexts(texts, tokenizer, after_prompt=after_prompt)
