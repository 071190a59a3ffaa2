"""Whether two tokenizers give the same ids: decided by encoding texts, not by comparing files.

Files that differ in form may give the same ids: merges are written as pairs or as one text. Files
with the same vocabulary may give different ids: another pre-tokenizer, normaliser, added token or
template is enough. So both tokenizers encode the same texts: some for each script and style, each
added token in several contexts, and each entry of the vocabulary alone and beside others, which
tests the merges. That is about 1.1 texts an entry, three ways: 0.2 s for 2,000 entries and 5 to 9 s
for 32,000. It is paid only where the files differ.

A difference might show in none of these texts. So the `model` sections must be equal too, in the
form that `tokenizers` itself writes.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

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
IN_COMPANY = 16
"""Entries of the vocabulary that stand together in one text."""
AT_ONCE = 4096
"""Texts encoded together."""
SHOWN = 8
"""Ids shown of each, from the first that differs."""


def around(token: str) -> list[str]:
    """Texts that show how an added token is found: whether spaces beside it, letters beside it and
    case matter."""
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
    """A message with the first text for which the ids differ, and the ids of both; None if all are
    equal.

    Neither tokenizer is changed. Special tokens are compared in three ways: recognised in text,
    treated as text, and added by the template. as_in_corpus: only treated as text, as
    tokenized_corpus does; special tokens and templates may then differ.
    """
    described = [_quiet(json.loads(tokenizer.to_str())) for tokenizer in (there, here)]
    if described[0] == described[1]:
        return None
    there, here = (Tokenizer.from_str(json.dumps(part)) for part in described)
    texts = _texts(there, here)
    while some := list(islice(texts, AT_ONCE)):
        for found_in_text, added_around in WAYS[:1] if as_in_corpus else WAYS:
            pairs = zip(
                some,
                _ids(there, some, found_in_text, added_around),
                _ids(here, some, found_in_text, added_around),
                strict=True,
            )
            for text, theirs, ours in pairs:
                if theirs != ours:
                    return _in_words(text, theirs, ours)
    vocabularies = (part.get_vocab(with_added_tokens=not as_in_corpus) for part in (there, here))
    return _of_entries(*vocabularies) or _of_models(*(part["model"] for part in described))


def _quiet(described: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without truncation, padding and dropout."""
    model = described["model"]
    changes = {"model": model | {"dropout": None}} if "dropout" in model else {}
    return described | {"truncation": None, "padding": None} | changes


def _texts(there: Tokenizer, here: Tokenizer) -> Iterator[str]:
    yield from PROBES
    added = {
        token.content
        for part in (there, here)
        for token in part.get_added_tokens_decoder().values()
    }
    for token in sorted(added):
        yield from around(token)
    entries = sorted(here.get_vocab().values())
    yield from here.decode_batch([[entry] for entry in entries], skip_special_tokens=False)
    step = -(-len(entries) // IN_COMPANY)
    together = [entries[start::step] for start in range(step)]
    yield from here.decode_batch(together, skip_special_tokens=False)


def _ids(
    tokenizer: Tokenizer, texts: Sequence[str], found_in_text: bool, added_around: bool
) -> list[list[int]]:
    tokenizer.encode_special_tokens = not found_in_text
    return [
        encoding.ids
        for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=added_around)
    ]


def _in_words(text: str, theirs: Sequence[int], ours: Sequence[int]) -> str:
    first = next(
        (
            place
            for place, (one, other) in enumerate(zip(theirs, ours, strict=False))
            if one != other
        ),
        min(len(theirs), len(ours)),
    )
    there, here = (
        f"{'... ' if first else ''}{list(ids[first : first + SHOWN])}"
        f"{' ...' if len(ids) > first + SHOWN else ''}"
        for ids in (theirs, ours)
    )
    name = repr(text) if len(text) <= 60 else f"{text[:60]!r} ..."
    return f"the text {name} has the ids {there} there and {here} here"


def _of_entries(theirs: dict[str, int], ours: dict[str, int]) -> str | None:
    for token in sorted(theirs.keys() | ours.keys()):
        if theirs.get(token) != ours.get(token):
            there, here = theirs.get(token), ours.get(token)
            return f"the token {token!r} has the id {there} there and {here} here"
    return None


def _of_models(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    keys = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    return f"the `model` sections differ in {', '.join(keys)}" if keys else None
