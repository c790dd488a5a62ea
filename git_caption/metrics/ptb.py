r"""Penn Treebank tokenization of captions in pure Python.

Gives the words that pycocoevalcap's tokenizer gives (Stanford CoreNLP 3.4.1, `PTBTokenizer -preserveLines -lowerCase`,
then a list of punctuation taken out), so that BLEU, ROUGE-L and CIDEr are the same with or without Java. Documented at
https://nlp.stanford.edu/software/tokenizer.html; the rules below were written from what the tool answers.

At each place the rule that reaches furthest wins, and of two that reach equally far the first. What a pattern matches
is its reach; its group, where it has one, is the token and the rest is what must follow. Characters that no rule knows
(emoji outside the basic plane, joiners) are dropped and part words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


def _characters(ranges: str) -> str:
    """`"2c2-2c5 2ed"` as the inside of a regular expression's character class."""
    return "".join("-".join(rf"\u{point:0>4}" for point in part.split("-")) for part in ranges.split())


# Combining signs the tool takes for letters in words (but not in digits with letters, such as 3D).
_MARKS = _characters(
    "2c2-2c5 2d2-2df 2e5-2eb 2ed 2ef-36f 375 378-379 384-385 3f6 483-487 55a-55f 591-5bd 5bf 5c1-5c2 5c4-5c5 "
    "5c7 615-61a 64b-65e 670 6d6-6e4 6e7-6ed 6fd-6fe 70f 711 730-74c 7a6-7b0 7eb-7f3 900-903 93c 93e-94e "
    "951-955 962-963 981-983 9bc 9be-9c4 9c7-9c8 9cb-9cd 9d7 9e2-9e3 a01-a03 a3c a3e-a4f a81-a83 abc abe-acf "
    "b82 bbe-bc2 bc6-bc8 bca-bcd c01-c03 c3e-c56 d3e-d44 d46-d48 e31 e34-e3a e47-e4e eb1 eb4-ebc ec8-ecd "
    "1885-1886"
)
# Signs that are a token of their own; any other character that no rule knows is dropped.
_SIGNS = _characters(
    "23-26 2a-2b 2f 3c-3e 40 5c 5e-5f 7c 7e a1 a5-a9 ac ae-b1 b4 b6-b8 bf d7 f7 37e 387 589 5be 5c0 5c3 5c6 "
    "5f3-5f4 600-603 606-60c 614 61b 61e-61f 66a 66d 6d4 700-70d 7f6-7f8 964-965 e3f e4f 1fbd 2016-2017 "
    "2020-2023 2030-2038 203b 203e-2042 2044 207a-207e 208a-208e 20a4 2100-2101 2103-2106 2108-2109 2114 "
    "2116-2118 211e-2123 2125 2127 2129 212e 213a-213b 2140-2144 214a-214d 214f 2155-215e 2190-245f 249c-24e9 "
    "2500-2775 2794-2bff 2460-249b 24ea-24ff 2776-2793 3001-3002 3012 30fb ff01-ff0f ff1a-ff20 ff3b-ff40 "
    "ff5b-ff65 ffe0-ffe1 ffe5-ffe6"
)
_SUPERSCRIPTS = _characters("b2-b3 b9 2070 2074-2079 2080-2089")
# What Python's \w counts as a letter and the tool, which knows an older Unicode, does not.
_NOT_LETTERS = (
    _SUPERSCRIPTS
    + r"\U00010000-\U0010ffff"
    + _characters(
        "bc-be 37f 528-52f 560 588 5ef 860-86a 870-887 889-88e 8a1 8ad-8c9 978 980 9f4-9f9 9fc af9 b72-b77 "
        "bf0-bf2 c34 c5a c5d c78-c7e c80 cdd d04 d54-d56 d58-d5f d70-d78 de6-def e86 e89 e8c e8e-e93 e98 ea0 "
        "ea8-ea9 eac f2a-f33 1369-137c 13f5 13f8-13fd 16ee-16f8 170d 171f 17f0-17f9 1878 191d-191e 19b0-19c0 "
        "19c8-19c9 19da 1b4c 1c80-1c88 1c90-1cba 1cbd-1cbf 1cf2-1cf3 1cfa 2150-2182 2185-2189 2460-249b "
        "24ea-24ff 2776-2793 2c2f 2c5f 2cfd 3007 3021-3029 3038-303a 312e-312f 3192-3195 31bb-31bf 3220-3229 "
        "3248-324f 3251-325f 3280-3289 32b1-32bf 4db6-4dbf 9fcd-9fff a698-a69d a6e6-a6ef a78f a794-a79f "
        "a7ab-a7ca a7d0-a7d1 a7d3 a7d5-a7d9 a7f2-a7f7 a830-a835 a8fd-a8fe a9e0-a9e4 a9e6-a9fe aa7e-aa7f "
        "ab30-ab5a ab5c-ab69 ab70-abbf"
    )
)
_LETTER = rf"[^\W\d_{_NOT_LETTERS}]"
_START = rf"(?:{_LETTER}|[{_MARKS}\xad])"  # begins a word
_ALNUM = rf"[^\W_{_NOT_LETTERS}]"
_WORD = rf"{_START}(?:{_ALNUM}|[{_MARKS}\xad])*"
_WORD = rf"{_WORD}(?:[.!?]{_WORD})*"  # end.Start and wow!so are one token
_APOSTROPHE = "(?:['\u2019\x92]|&apos;)"
_TICK = "(?:['`\u2018\u2019\u201b\x91\x92]|&apos;)"
_HYPHEN = "[-\u058a\u2010\u2011]"
_AUXILIARY = rf"{_APOSTROPHE}(?i:[msd]|re|ve|ll)"
_ELISION = rf"[dDoOlL]{_TICK}{_ALNUM}{{2,}}"  # d'Artagnan, O'Neil
_HYPHENATED = (
    rf"(?:[A-Za-z0-9][A-Za-z0-9.,]*|{_ELISION})"
    rf"(?:-(?:{_ELISION}|(?:[A-Za-z]\.){{2,}}|[A-Za-z0-9]+))+"
)
_TAG = (
    r"""<(?:[A-Za-z][\w:.-]*(?: +[A-Za-z][\w:.-]*(?:=(?:'[^'\n]*'|"[^"\n]*"))?)* */?|/[A-Za-z][\w:.-]*"""
    r"|[!?][A-Za-z-][^>\n]*)>"
)
_DIGIT = r"(?:(?![\U00010000-\U0010ffff\u0de6-\u0def\ua9f0-\ua9f9])\d)"
_NUMBER = rf"(?:{_DIGIT}*(?:[.:,\xad\u066b\u066c]{_DIGIT}+)+|{_DIGIT}+)"
_URL_PATH = r"""/[^\s"<>|(){}]+[^\s"<>|.!?(){},-]"""

# Abbreviations keep their full stop. These also end a sentence ...
_CLOSING = (
    "(?i:al|ala|apr|ariz|assn|aug|bancorp|bhd|bldg|blvd|bros|calif|co|colo|conn|corp|cos|ct|dak|dec|esq|est|etc|ext|feb|"
    "fla|fri|ga|inc|ind|intl|jan|jr|jul|jun|kan|kans|ky|ltd|mar|md|mich|minn|mo|mon|mont|neb|nev|nov|oct|okla|penn|plc|"
    "ph\\.d|ed\\.d|rd|rt|sept?|seq|sq|sr|sys|tel|tenn|thu|thurs|tues?|univ|va|vt|wed|wisc?|wyo)|[Pp]p?t(?:es?|ys?)|"
    "ARK|Ark|AZ|Az|DEL|Del|ILL|Ill|LA|La|MASS|Mass|MISS|Miss|ORE|Ore|PA|Pa|TEX|Tex|WASH|Wash"
)
# ... these do not ...
_INNER = (
    "(?i:adj|adm|adv|alex|assoc|asst|attys?|ave|brig|capt|cf|cie|cmdr|col|comdr|cpl|dept|det|drs?|elec|ens|ft|gen|govs?|"
    "hon|insp|invt|jos|lieut|lt|maj|messrs|mlle|mme|mr|mrs|ms|msgr|mt|natl|pfc|ph|pres|profs?|pvt|reps?|rev|sens?|sfc|"
    "sgt|spc|ste?|supts?|treas|vs|wm)|[Mm]fg|[Mm]tg"
)
_BEFORE_NUMBER = "(?i:art|ca|figs?|nos?|op|pp|prop)"  # ... and these are abbreviations only before a number.
# A single letter with a full stop is an initial unless one of these words, or a tag, follows.
_OPENER = (
    r"A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|"
    r"Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|"
    r"Yet|You|Mr\.|Ms\."
)
_OPENER = f"{_OPENER}|{_OPENER.upper()}"
_EXTENSION = (
    "(?i:bat|bmp|c|cgi|class|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|"
    "txt|wav|x|xml|zip)"
)

_SPELLINGS = str.maketrans(
    {
        **dict.fromkeys("`\u2018\u201b\u2039\x91", "`"),
        **dict.fromkeys("\u2019\u203a\x92", "'"),
        **dict.fromkeys("\u201c\u00ab\x93", "``"),
        **dict.fromkeys("\u201d\u00bb\x94", "''"),
        **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\xa2": "cents"},
        **dict.fromkeys("\xa4\u20a0\u20ac\x80", "$"),
        **{"\xa3": "#", "\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"},
    }
)
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def _plain(token: str) -> str:
    return token.replace("\xad", "").lower()


def _straight(token: str) -> str:
    return re.sub(_APOSTROPHE, "'", token).lower()


def _joined(token: str) -> str:
    """One token although it holds spaces or brackets: the spaces become no-break spaces."""
    return token.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\xa0").lower()


def _spelled(token: str) -> str:
    return token.translate(_SPELLINGS)


def _entity(token: str) -> str:
    return _ENTITIES.get(token.lower(), "")


def _ampersand(token: str) -> str:
    return token.replace("&amp;", "&").lower()


def _nothing(token: str) -> str:
    """Punctuation, and what the tool cannot tokenize."""
    return ""


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    spell: Callable[[str], str]


_RULES = [
    _Rule(re.compile(pattern), spell)
    for pattern, spell in [
        # markup
        (_TAG, _joined),
        # contractions
        (
            r"(?i:(can(?=not)|gon(?=na)|wan(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|'t(?=is|was))(?:not|na|ta|me|is|was))",
            _plain,
        ),
        (rf"([A-Za-z\xad]*[A-MO-Za-mo-z]\xad*)[nN]{_APOSTROPHE}[tT]", _plain),
        (rf"[nN]{_APOSTROPHE}[tT]", _straight),
        (rf"({_AUXILIARY})[^A-Za-z]", _straight),
        (
            rf"(?i:{_APOSTROPHE}n{_APOSTROPHE}?|{_APOSTROPHE}em|{_APOSTROPHE}til|{_APOSTROPHE}cause|ol{_APOSTROPHE}|"
            rf"dunkin{_APOSTROPHE}|somethin{_APOSTROPHE}|c'mon|[eno]'er|nat'l|s'mores|ev'ry|hallowe'en|o{_TICK}o)|"
            rf"[ldjLDJ]{_APOSTROPHE}|{_APOSTROPHE}[2-9]0s",
            str.lower,
        ),
        (rf"([Yy]{_APOSTROPHE}){_START}", str.lower),
        (rf"({_APOSTROPHE}\d\d)\s", str.lower),
        (rf"({_WORD}){_AUXILIARY}", _plain),
        (rf"{_START}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]{_START}*", _plain),  # Hawai'i
        (rf"{_ELISION}|[A-HJ-XZn]{_TICK}{_START}{{2,}}", _plain),
        # words and abbreviations
        (rf"((?:{_CLOSING})\.)\S?", _plain),
        (_WORD, _plain),
        (rf"{_ALNUM}+", _plain),
        (_HYPHENATED, _plain),
        (rf"{_ALNUM}+(?:{_HYPHEN}{_ALNUM}+)+", _plain),
        (rf"((?:{_WORD}|{_HYPHENATED}|{_ALNUM}+)\.)[,;:]", _plain),
        (rf"{_ALNUM}+(?:_{_ALNUM}+)*(?:{_HYPHEN}{_ALNUM}+(?:_{_ALNUM}+)*)+|{_ALNUM}+(?:_{_ALNUM}+)+", _plain),
        (r"[A-Za-z0-9]+(?:-[A-Za-z]+)*(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+)*){1,2}", _plain),
        (r"(?:[A-Za-z]\.)+", _plain),
        (rf"([A-Za-z])\.\s+(?:{_OPENER}|{_TAG})\s", _plain),
        (rf"(?:{_INNER})\.", _plain),
        (rf"((?:{_BEFORE_NUMBER})\.)\s?\d", _plain),
        # numbers
        (rf"[-+]?{_NUMBER}", _plain),
        (r"(?:\d{1,4}[- \xa0])?\d{1,4}[/\u2044]\d{1,4}", _joined),
        (r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", _plain),
        (
            r"(?:\(\d{2,3}\)[ \xa0]?|\+?(?:\d{2,4}[- \xa0.])?\d{2,4}[- \xa0./])\d{3,4}[- \xa0.]?\d{3,5}|"
            r"(?:\+\d{2,3} )?(?:\d{2,4} )+\d{3,4} \d{3,4}",
            _joined,
        ),
        # addresses and names of the web
        (r"(?i:https?)://[^\s\"<>|(){}]+[^\s\"<>|.!?(){},-]", str.lower),
        (rf"(?:[^\s\"`'<>|.!?(){{}},-_$]+\.)+(?:com|net|org|edu)(?:{_URL_PATH})?", str.lower),
        (rf"(?i:www)\.(?:[^\s\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}(?:{_URL_PATH})?", str.lower),
        (
            r"""(?:&lt;|<)?[A-Za-z0-9][^\s"<>|(){}]*@[^\s"<>|(){}.]+(?:\.[^\s"<>|(){}.]+)*(?:&gt;|>)?""",
            str.lower,
        ),
        (rf"@[A-Za-z_][A-Za-z_0-9]*|\#{_START}+", str.lower),
        (r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?![A-Za-z0-9])", _joined),
        (r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", _joined),
        # names with signs
        (r"[A-Z]+\$|[Cc]\+\+|[CcFf]\#", str.lower),
        (r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", _ampersand),
        (rf"((?:{_ALNUM}+\.)+{_EXTENSION})[\s.?!,]", _plain),
        # punctuation
        (r"&(?i:lt|gt|amp|quot|apos|nbsp|mdash|ndash);", _entity),
        (r"&\#\d+;|&[A-Za-z]acute;", str.lower),
        (r"-{5,}|[!?]+|@+|\#+|_+|\*+|<<?|>>?|(?:\\\*)+", str.lower),
        (r"(')[A-Za-z]\S|''|'|-{1,4}|\.{3,5}|(?:\. ){2,4}\.", _nothing),
        (_AUXILIARY, _straight),
        ("[`\u2018-\u201f\u00ab\u00bb\u2039\u203a\x91-\x94]{1,2}", _spelled),
        (rf"[{_SUPERSCRIPTS}]+", str.lower),
        (r"[()\[\]{}\x80\xa2-\xa4\xbc-\xbe\u20a0\u20ac\u2153\u2154]", _spelled),
        (rf"[{_SIGNS}{_MARKS}]", str.lower),
        (r"[^\s]", _nothing),
    ]
]
# Most of a caption is plain words between spaces, which no rule above reads otherwise, these few left out.
_SIMPLE = re.compile(r" *((?!(?i:cannot|gonna|wanna|gotta|lemme|gimme)\s)[A-Za-z]+(?=\s)|\.(?=\n)|,(?=\s))")


def fold(text: str) -> str:
    r"""`text` on one line: each run of white space, of any kind, is one space, so that nothing can shift lines.

    `str.splitlines` and Java's readers also end lines at \r, U+0085 and U+2028. Lone surrogates become `?`.
    """
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def without_punctuation(tokens: Sequence[str]) -> str:
    """The tokens that are words, joined by single spaces."""
    return " ".join(token for token in tokens if token and token not in PUNCTUATION)


def tokenize(captions: Sequence[str]) -> list[str]:
    """The words of each caption, lower-cased, joined by single spaces, without punctuation.

    Captions are read as the lines of one text, as the tool reads them: in the rare caption that ends in `x.` or `no.`
    the next one's first word decides whether that is an abbreviation.
    """
    lines: list[str] = []
    words: list[str] = []
    text = "".join(f"{fold(caption)}\n" for caption in captions)
    position = 0
    while position < len(text):
        if simple := _SIMPLE.match(text, position):
            word = simple[1].lower()
            position = simple.end()
        elif text[position] == "\n":
            lines.append(without_punctuation(words))
            words = []
            position += 1
            continue
        elif text[position] == " ":
            position += 1
            continue
        else:
            token, word = _longest(text, position)
            position += len(token)
        words.append(word)
    assert len(lines) == len(captions), f"{len(captions)} captions gave {len(lines)} lines"
    return lines


def _longest(text: str, position: int) -> tuple[str, str]:
    """The token at `position` as it stands in `text`, and as it is spelled."""
    reach = position
    for pattern, spell in _RULES:
        match = pattern.match(text, position)
        if match and match.end() > reach:
            best, best_spell, reach = match, spell, match.end()
    token = best.group(best.lastindex) if best.lastindex else best.group()
    return token, best_spell(token)
