"""How text is generated: the keys every inference job takes, and what they come to for one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from git_caption.errors import UsageError
from git_caption.params.schema import key

Task = Literal["caption", "answer"]

DEFAULT_BEAMS = 3
MAX_LENGTH_PENALTY = 20  # of the longest texts its power is still a number
MIN_TEMPERATURE = 0.001  # below it logits divided by it may pass all numbers
UNNEEDED = (
    "max_new_tokens",
    "min_new_tokens",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "stop",
)  # by allowed texts
DEFAULT_NEW_TOKENS: dict[Task, int] = {"caption": 40, "answer": 10}


@dataclass(frozen=True)
class DecodingParams:
    """What was asked for. None takes the checkpoint's value, then the default."""

    num_beams: int | None = key(None, minimum=1, help="beams of beam search; 3 unless sampling")
    max_new_tokens: int | None = key(None, minimum=1, help="longest text, in tokens; 40 for captions, 10 for answers")
    min_new_tokens: int | None = key(None, minimum=0, help="shortest text, in tokens; 0")
    temperature: float | None = key(None, minimum=0, help="0 is greedy with 1 beam; above 0 samples")
    top_p: float | None = key(
        None, above=0, maximum=1, help="sample among the likeliest tokens of this total probability"
    )
    top_k: int | None = key(None, minimum=0, help="sample among the k likeliest tokens; 0 is all of them")
    repetition_penalty: float | None = key(None, above=0, help="above 1 makes generated tokens less likely to recur; 1")
    no_repeat_ngram_size: int | None = key(None, minimum=0, help="no run of so many tokens twice in a text; 0 is off")
    length_penalty: float | None = key(
        None,
        minimum=-MAX_LENGTH_PENALTY,
        maximum=MAX_LENGTH_PENALTY,
        help="above 0 favours long beams, below 0 short ones; 1",
    )
    num_captions: int | None = key(None, minimum=1, help="texts for each image or question, the best first; 1")
    stop: tuple[str, ...] | None = key(None, help="texts at which generation ends; they are cut off")
    allowed_texts: str | None = key(
        None,
        kind="input_file",
        help="file of texts, one a line: every caption or answer is one of them; then length_penalty is 0 unless asked "
        "for, so that the likeliest text wins",
    )
    seed: int | None = key(None, minimum=0, maximum=2**63 - 1, help="seed of sampling; 0")
    with_scores: bool | None = key(None, help="also write logprob and mean_logprob; False")

    def check(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Contradictions within what was asked for, as (keys concerned, message)."""
        samplers = _samplers(self)
        if self.num_beams is not None and self.num_beams > 1 and (samplers or self.temperature == 0):
            named = "temperature 0 (greedy)" if self.temperature == 0 else f"{samplers[0]} (sampling)"
            yield (
                ("num_beams", "temperature", "top_p", "top_k"),
                f"num_beams {self.num_beams} and {named} exclude each other; leave one out, or set num_beams to 1",
            )
        if self.temperature == 0 and samplers:
            yield (
                ("temperature", "top_p", "top_k"),
                f"temperature 0 is greedy and {samplers[0]} samples; leave one of them out",
            )
        if self.temperature is not None and 0 < self.temperature < MIN_TEMPERATURE:
            yield (
                ("temperature",),
                f"temperature {self.temperature:g} is too low to divide by; 0 takes the likeliest token always, "
                f"{MIN_TEMPERATURE:g} almost always",
            )
        if self.allowed_texts is not None:
            for name in UNNEEDED:
                if getattr(self, name) is not None:
                    yield (
                        ("allowed_texts", name),
                        f"{name} and allowed_texts exclude each other, as the file says what texts there are; "
                        f"leave {name} out",
                    )
        if self.stop is not None and "" in self.stop:
            yield ("stop",), "stop holds an empty text, which would end every caption at once; remove it"


@dataclass(frozen=True)
class Decoding:
    """What one run does: every value settled. Off is 1.0 for top_p and the penalties, 0 for top_k and n-gram size."""

    num_beams: int = DEFAULT_BEAMS
    max_new_tokens: int = 40
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0
    num_captions: int = 1
    stop: tuple[str, ...] = ()
    allowed_texts: tuple[str, ...] = ()
    seed: int = 0
    with_scores: bool = False


def resolve(params: DecodingParams, checkpoint: DecodingParams, task: Task) -> Decoding:
    """Settle every value: what was asked for, over the checkpoint's defaults, over the general ones.

    What was asked for also decides the way of searching: beams asked for set the checkpoint's sampling aside, and
    sampling or greedy search asked for sets its beams aside.

    Raises:
        UsageError: the values contradict each other; the message names each with its value and where it is from.
    """
    for _, message in params.check():
        raise UsageError(message)
    for _, message in checkpoint.check():
        raise UsageError(f"decoding defaults of the checkpoint: {message}")

    def settled(name: str, default: Any) -> Any:
        asked = getattr(params, name)
        if asked is not None:
            return asked
        stored = None if allowed and name in UNNEEDED else getattr(checkpoint, name)
        return default if stored is None else stored

    allowed: tuple[str, ...] = ()
    if (path := settled("allowed_texts", None)) is not None:
        allowed = read_texts(path)
    temperature, top_p, top_k, do_sample, greedy = _search(params, checkpoint)
    one_beam = greedy or do_sample
    decoding = Decoding(
        num_beams=1 if one_beam else settled("num_beams", DEFAULT_BEAMS),
        max_new_tokens=settled("max_new_tokens", DEFAULT_NEW_TOKENS[task]),
        min_new_tokens=settled("min_new_tokens", 0),
        do_sample=do_sample,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=settled("repetition_penalty", 1.0),
        no_repeat_ngram_size=settled("no_repeat_ngram_size", 0),
        length_penalty=settled("length_penalty", 0.0 if allowed else 1.0),
        num_captions=settled("num_captions", 1),
        stop=settled("stop", ()),
        allowed_texts=allowed,
        seed=settled("seed", 0),
        with_scores=settled("with_scores", False),
    )

    def named(name: str) -> str:
        origin = "" if getattr(params, name) is not None else " (not asked for)"
        return f"{name} {getattr(decoding, name)}{origin}"

    if decoding.min_new_tokens > decoding.max_new_tokens:
        raise UsageError(f"{named('min_new_tokens')} is more than {named('max_new_tokens')}; raise the latter")
    if allowed and not do_sample and decoding.num_captions > len(allowed):
        raise UsageError(f"{named('num_captions')} is more than the {len(allowed)} allowed texts; ask for fewer")
    if not do_sample and decoding.num_captions > decoding.num_beams:
        raise UsageError(
            f"{named('num_captions')} is more than {named('num_beams')}; beam search gives at most one text a beam: "
            f"set num_beams to {decoding.num_captions} or more, or sample with a temperature above 0"
        )
    return decoding


def read_texts(path: str) -> tuple[str, ...]:
    """The texts of a file, one a line; white space around them, empty lines and repetitions are left out.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, or holds no text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            texts = dict.fromkeys(line.strip() for line in file)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"not UTF-8 ({error})"
        raise UsageError(f"allowed_texts {path!r} cannot be read: {reason}") from error
    texts.pop("", None)
    if not texts:
        raise UsageError(f"allowed_texts {path!r} holds no text, expected one a line")
    return tuple(texts)


def _samplers(params: DecodingParams) -> list[str]:
    """The keys that ask for sampling, each with its value."""
    found = []
    if params.temperature:
        found.append(f"temperature {params.temperature}")
    if params.top_p is not None:
        found.append(f"top_p {params.top_p}")
    if params.top_k:
        found.append(f"top_k {params.top_k}")
    return found


def _search(params: DecodingParams, checkpoint: DecodingParams) -> tuple[float, float, int, bool, bool]:
    """(temperature, top_p, top_k, do_sample, greedy): who decides the way of searching, and what it comes to."""
    if params.temperature == 0:
        return 0.0, 1.0, 0, False, True
    beams_asked = params.num_beams is not None and params.num_beams > 1
    stored = DecodingParams() if beams_asked else checkpoint
    if not _samplers(params):
        if stored.temperature == 0:
            return 0.0, 1.0, 0, False, True
        if not _samplers(stored):
            return 0.0, 1.0, 0, False, False
    temperature = params.temperature or stored.temperature or 1.0
    top_p = params.top_p if params.top_p is not None else stored.top_p
    top_k = params.top_k if params.top_k is not None else stored.top_k
    return temperature, 1.0 if top_p is None else top_p, top_k or 0, True, False
