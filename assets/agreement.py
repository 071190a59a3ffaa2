"""Agreement: whether two tokenizers give the same ids, by encoding texts, not by comparing files.

Files that differ in form may give the same ids: merges are written as pairs or as one text. Files
with the same vocabulary may give different ids: another pre-tokenizer, normaliser, added token or
template is enough. So both tokenizers encode the same texts:

- some texts for each script and style,
- each added token in several contexts,
- each entry of the vocabulary, alone and beside others, which tests the merges,
- if normaliser or pre-tokenizer differ, each text that they name, and each character of Unicode
  that is no letter or has several forms.

A difference might not show in any of these texts. So the `model` sections must be equal too, in the
form that `tokenizers` itself writes.

The cost: about 1.1 texts an entry, in three ways. This takes 0.2 s for 2,000 entries and 5 to 9 s
for 32,000, but only if the files differ. Unicode takes a second more.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from tokenizers import Tokenizer, normalizers

PROBES = (
    "",
    " ",
    "a",
    " a",
    "  a",
    "   a b",
    "a ",
    "a  b   c    d",
    "The cat sat on the mat.",
    "the cat",
    " the cat",
    "THE CAT the Cat",
    "don't we'll I'M they'RE it's",
    "O'donnell's rock'n'roll\n'stop'\n'till l'state d'main I'mean we'veal you'red we'llama",
    "hello, world! (yes?) \"quoted\" 'single' - dash_under",
    "0 1 12 123 1234 12345 1234567890",
    "3.14 1,000,000 -7 +5 1e-9 0x1F 2024-01-31",
    "abc123def 4a5b6",
    "\n",
    "\n\n",
    " \n \n ",
    "line one\nline two\n\n\nline five",
    "a\r\nb\rc",
    "\ta\t\tb",
    "    indented\n\tcode",
    "été naïve façade Ångström",
    "e\u0301te\u0301 A\u030a n\u0303",
    "ﬁ ﬂ … № ² ½ Ⅳ",
    "ＦＵＬＬ width１２",
    "a\u00a0b\u2009c\u3000d\u200be\ufeff",
    "“curly” ‘quotes’ — dash – en",
    "soft\u00adhyphen",
    "中文字符测试。今天天气很好！",
    "日本語のテキスト カタカナ",
    "한국어 문장",
    "Русский текст ТЕКСТ",
    "Ελληνικά ΣΊΣΥΦΟΣ ς",
    "עברית עִבְרִית",
    "العربية ١٢٣",
    "हिन्दी में",
    "ภาษาไทย",
    "Türkçe İıIi",
    "Straße STRASSE ẞ",
    "🙂🙃 👨\u200d👩\u200d👧 🇩🇪",
    "🙂" * 20,
    "def f(x):\n    return x**2 + 1  # note\n\n\nclass A(B):\n\tpass\n",
    "for (int i=0; i<n; ++i) { a[i] += b->c; }",
    '<html><body class="x">&nbsp;</body></html>',
    "https://example.org/a?b=c&d=%20#e",
    "user@example.org",
    "\\frac{a}{b} $x_1^2$ \\alpha",
    '{"key": [1, 2.5, null], "other": "value"}',
    "| a | b |\n|---|---|",
    "a" * 100,
    " " * 40,
    "\n" * 12,
    "=" * 30,
    "word " * 30,
    "antidisestablishmentarianism",
    "CamelCaseWord snake_case_word kebab-case-word",
    "▁ lower block ▁▁",
    "Ġ dotted Ċ",
    "▁the",
    "<0x0A>",
)
"""Texts of each kind in which tokenizers are known to differ."""
WAYS = ((False, False), (True, False), (True, True))
"""Whether special tokens are found in text, and whether the template adds its own."""
TOGETHER = 16
"""Entries of the vocabulary in one text."""
AT_ONCE = 4096
"""Texts encoded in one call."""
COMPOSED = ("\uac00", "\ud7a3")
"""Hangul's 11,172 syllables, which are all composed in the same way."""
NO_CHARACTERS = ("\ud800", "\uf8ff")
"""Surrogates and private use."""
_DECOMPOSED = normalizers.NFKD()
SHOWN = 8
"""Ids in the message, from the first that differs."""
LONGEST_NAME = 60
"""Characters of the text in the message."""


def around(token: str) -> list[str]:
    """Texts that show how an added token is found in text.

    Spaces beside it, letters beside it, and its case may matter.
    """
    return [
        token,
        f"one{token}two {token} {token}\n",
        f"a  {token}  b",
        f"a {token}\n{token} b",
        f"{token}{token}",
        f".{token}.",
        f"{token.lower()} {token.upper()}",
    ]


def disagreement(there: Tokenizer, here: Tokenizer, as_in_corpus: bool = False) -> str | None:
    """The first difference as a phrase: a text and its ids in both. None if all ids are equal.

    Neither tokenizer is changed. Special tokens are compared in three ways: recognised in text,
    treated as text, and added by the template.

    as_in_corpus: compare them only as text, as tokenized_corpus does. Special tokens and templates
    may then differ.
    """
    theirs = _without_use(json.loads(there.to_str()))
    ours = _without_use(json.loads(here.to_str()))
    if theirs == ours:
        return None

    # Copies: the comparison changes a setting of the tokenizers.
    there, here = Tokenizer.from_str(json.dumps(theirs)), Tokenizer.from_str(json.dumps(ours))
    texts = _texts(there, here)
    while some := list(islice(texts, AT_ONCE)):
        for way in WAYS[:1] if as_in_corpus else WAYS:
            found = _first_difference(there, here, some, *way)
            if found is not None:
                return found
    found = _first_difference(there, here, list(_texts_of_steps(theirs, ours)), *WAYS[0])
    if found is not None:
        return found

    return _of_entries(
        there.get_vocab(with_added_tokens=not as_in_corpus),
        here.get_vocab(with_added_tokens=not as_in_corpus),
    ) or _of_models(theirs["model"], ours["model"])


def _first_difference(
    there: Tokenizer, here: Tokenizer, texts: list[str], found_in_text: bool, added_around: bool
) -> str | None:
    """The first of the texts whose ids differ, as a phrase, or None."""
    all_theirs = _ids(there, texts, found_in_text, added_around)
    all_ours = _ids(here, texts, found_in_text, added_around)
    for text, theirs, ours in zip(texts, all_theirs, all_ours, strict=True):
        if theirs != ours:
            return _in_words(text, theirs, ours)
    return None


def _without_use(described: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without truncation, padding and dropout."""
    model = described["model"]
    changes = {"model": model | {"dropout": None}} if "dropout" in model else {}
    return described | {"truncation": None, "padding": None} | changes


def _texts(there: Tokenizer, here: Tokenizer) -> Iterator[str]:
    """The texts to compare."""
    yield from PROBES

    added: set[str] = set()
    for tokenizer in (there, here):
        added |= {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in sorted(added):
        yield from around(token)

    entries = sorted(here.get_vocab().values())
    yield from here.decode_batch([[entry] for entry in entries], skip_special_tokens=False)

    # Each text joins entries from all over the vocabulary: frequent ones beside rare ones.
    step = -(-len(entries) // TOGETHER)
    together = [entries[start::step] for start in range(step)]
    yield from here.decode_batch(together, skip_special_tokens=False)


def _texts_of_steps(theirs: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    """Texts that show what the steps before the model do, if these differ."""
    steps = [
        [described.get("normalizer"), described.get("pre_tokenizer")]
        for described in (theirs, ours)
    ]
    if steps[0] == steps[1]:
        return
    # A step may replace, split or prepend a text that no other probe has.
    for text in sorted({text for step in steps for text in _strings(step)}):
        yield from around(text)

    signs = [sign for sign in map(chr, range(sys.maxunicode + 1)) if _may_change(sign)]
    for start in range(0, len(signs), TOGETHER):
        yield " ".join(signs[start : start + TOGETHER])


def _may_change(sign: str) -> bool:
    """Whether a normaliser is likely to change the character, or a pre-tokenizer to split at it."""
    for first, last in (COMPOSED, NO_CHARACTERS):
        if first <= sign <= last:
            return False
    # Controls, marks without width and spaces. Above, most such code points have no meaning yet.
    if not sign.isprintable():
        return sign <= "\uffff"
    if not sign.isalnum() or sign.casefold() != sign:
        return True
    return _DECOMPOSED.normalize_str(sign) != sign


def _strings(described: Any) -> Iterator[str]:
    """Every text in a part of a tokenizer.json."""
    if isinstance(described, str):
        yield described
    elif isinstance(described, dict | list):
        for part in described.values() if isinstance(described, dict) else described:
            yield from _strings(part)


def _ids(
    tokenizer: Tokenizer, texts: Sequence[str], found_in_text: bool, added_around: bool
) -> list[list[int]]:
    """The ids of each text.

    found_in_text: whether the text of a special token becomes that token.
    added_around: whether the template adds its special tokens.
    """
    tokenizer.encode_special_tokens = not found_in_text
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=added_around)
    return [encoding.ids for encoding in encodings]


def _in_words(text: str, theirs: Sequence[int], ours: Sequence[int]) -> str:
    """The ids of both from the first that differs."""
    first = 0
    while first < min(len(theirs), len(ours)) and theirs[first] == ours[first]:
        first += 1
    there, here = _shown_ids(theirs, first), _shown_ids(ours, first)
    name = repr(text) if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]!r} ..."
    return f"the text {name} has the ids {there} there and {here} here"


def _shown_ids(ids: Sequence[int], first: int) -> str:
    """Some ids from the place `first` on. Dots stand for the rest."""
    before = "... " if first else ""
    after = " ..." if len(ids) > first + SHOWN else ""
    return f"{before}{list(ids[first : first + SHOWN])}{after}"


def _of_entries(theirs: dict[str, int], ours: dict[str, int]) -> str | None:
    """The first token with different ids, as a phrase, or None."""
    for token in sorted(theirs.keys() | ours.keys()):
        if theirs.get(token) != ours.get(token):
            there, here = theirs.get(token), ours.get(token)
            return f"the token {token!r} has the id {there} there and {here} here"
    return None


def _of_models(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """The keys in which the `model` sections differ, as a phrase, or None."""
    keys = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    return f"the `model` sections differ in {', '.join(keys)}" if keys else None
