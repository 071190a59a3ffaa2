"""Contamination: which documents hold a passage of the evaluation texts.

A document is contaminated if it shares a run of `run` letters and digits with an evaluation text
(the idea of 50-character runs: GPT-4 technical report, appendix C). Texts are compared as their
letters and digits alone: decomposed (NFKD), case-folded, without marks. So a copy is found whatever
its spacing, punctuation, markup, capitals, accents and character forms (composed, full-width,
ligature). Two texts that are equal under NFKC and case folding are equal here. Characters are
folded one by one, so the result does not depend on blocks or neighbours.

What counts as a letter:
- A digit counts as a letter.
- A Chinese character or a kana counts as two. It writes a syllable or a word: 25 of them are about
  15 words, and 50 English letters are about 11.
- A Hangul syllable counts as the two or three letters that it consists of.
- Thai, Lao and Khmer have no spaces either, but they write letters. Each counts as one, and vowel
  marks do not count.

The search works on bytes. A run of n letters has at least n bytes in UTF-8, so only a match is
counted in letters. Every byte position of the evaluation texts is indexed (17 bytes each). A
document is searched at every few bytes only, close enough that every run holds a whole window. Each
match of hashes is then compared byte by byte, so there is no false alarm.

The cost: ASCII text is folded by one byte table, a few milliseconds a megabyte. Other characters
need a table of the characters seen so far, up to ten times that for a text without any ASCII
(docs/log.md).
"""

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assets.documents import FIELD_MISSING, Fields, document_files, read_texts
from assets.records import Skipped
from core.errors import UserError

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

SECTION = "raw_corpus.decontamination"
LONGEST_TEXT = 64 << 20
"""Bytes of the longest evaluation text."""

# Hashing.
LANE = 8  # bytes that are hashed at once, as one uint64
TABLE_BITS = 20  # a table of a megabyte stays in the processor's cache
LANE_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)  # odd, so that a multiplication loses no bit
LAST_FACTOR = np.uint64(0xBF58_476D_1CE4_E5B9)

# UTF-8.
LONGEST_CHARACTER = 4  # bytes
NOT_ASCII = 0x80  # the first byte that is not ASCII
LEADING = 0xC0  # from here on a byte begins a character; between the two it continues one

BETWEEN = b"\0"
"""Separates texts. No folded text holds this byte, so no run crosses from one text to the next."""
DROPPED = 1
"""Marks a byte that is not compared. Folding removes it."""
MAPPED = bytes(
    DROPPED if 0 < code < 128 and not chr(code).isalnum() else code
    for code in bytes(range(256)).lower()
)
"""For each byte its lower case, or DROPPED. Bytes that are not ASCII stay."""

NOT_LETTERS = {
    "\N{ARABIC TATWEEL}",
    "\N{HANGUL CHOSEONG FILLER}",
    "\N{HANGUL JUNGSEONG FILLER}",
    "\N{LATIN CAPITAL LETTER SALTILLO}",
    "\N{LATIN SMALL LETTER SALTILLO}",
    *map(chr, range(0x2B9, 0x300)),
}
"""Letters by their Unicode category that are not used as letters: a stretched line, invisible
fillers, apostrophes, primes and tone marks."""
SAME = {"\N{LATIN SMALL LETTER DOTLESS I}": "i"}
"""Without this, Turkish capitals would hide a copy: I is the capital of both."""
COUNT_TWICE = (
    (0x3005, 0x3007),
    (0x3041, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0x20000, 0x3FFFF),
)
"""Code points, first and last, of Chinese characters and kana."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """The evaluation texts, ready for the search."""

    run: int
    """Letters in common that make a document contaminated."""
    texts: Bytes
    """All texts, folded, with BETWEEN between them."""
    hashes: Hashes
    """Hashes of all windows of `texts`, ascending."""
    positions: Positions
    """The position in `texts` of each of them."""
    table: NDArray[np.bool_]
    """For each value of the first TABLE_BITS bits: whether a hash begins with them. It rejects
    nearly every window of a clean document at once."""
    evaluation_texts: int
    """The number of texts."""
    too_short: int
    """Texts with fewer letters than `run`. Nothing can match them."""

    @property
    def window(self) -> int:
        """Bytes that are hashed at one position: about half a run, in whole lanes."""
        return LANE * ((self.run + 1) // (2 * LANE))

    @property
    def stride(self) -> int:
        """Bytes from window to window of a document: any run of `run` bytes holds a whole one."""
        return self.run - self.window + 1


def read_index(source: Path, text_field: str, run: int) -> Index:
    """The index of every text in `source`, a file or folder in the formats of documents.

    run: letters, at least 15.
    Raises UserError, with file and line, for a record without a text, and if every text is too
    short: a text that cannot be searched for must not count as not found.
    """
    index = build_index(list(_evaluation_texts(source, text_field)), run)
    if index.too_short == index.evaluation_texts:
        raise UserError(
            f"{source}: of its {index.evaluation_texts:,} evaluation texts none has {run} letters "
            f"and digits, so no document can share so many. Lower {SECTION}.run, correct "
            f"{SECTION}.text_field, or switch decontamination off with run: null."
        )
    print(
        f"evaluation texts: {index.evaluation_texts:,}, of which {index.too_short:,} hold fewer "
        f"than {run} letters and digits and can't be searched for",
        file=sys.stderr,
    )
    return index


def _evaluation_texts(source: Path, text_field: str) -> Iterator[str]:
    """Every text of a source. Raises UserError for a record without one."""
    fields = Fields(text=text_field, section=SECTION)
    for path in document_files(source, f"{SECTION}.against").read:
        for number, text in read_texts(path, fields, LONGEST_TEXT):
            if isinstance(text, Skipped):
                why = text.detail if text.reason == FIELD_MISSING else text.reason
                raise UserError(
                    f"{path}, record {number}: {why}. Documents can't be compared with it: "
                    "fix the record or remove it."
                )
            yield text


def build_index(texts: Sequence[str], run: int) -> Index:
    """Index evaluation texts: fold them, and sort the hashes of all their windows.

    texts: may hold lone surrogates and zero bytes.
    run: letters in common that make a document contaminated, at least 15. With fewer, a window of
    one lane would not fit into every run.
    """
    if run < 2 * LANE - 1:
        raise ValueError(
            f"run = {run}, but fewer than {2 * LANE - 1} letters in common "
            "are no sign of contamination"
        )
    folded = []
    for text in texts:
        encoded = text.replace("\0", "").encode("utf-8", "replace")
        folded.append(fold(encoded).tobytes())
    joined = np.frombuffer(BETWEEN.join(folded), np.uint8)

    empty = Index(
        run=run,
        texts=joined,
        hashes=np.empty(0, np.uint64),
        positions=np.empty(0, np.int64),
        table=np.zeros(1 << TABLE_BITS, np.bool_),
        evaluation_texts=len(texts),
        too_short=sum(count_letters(text) < run for text in folded),
    )
    hashes = _window_hashes(joined, empty.window, 1)
    order = np.argsort(hashes, kind="stable")
    table = empty.table.copy()
    table[_first_bits(hashes)] = True
    return replace(empty, hashes=hashes[order], positions=order, table=table)


def fold(text: bytes) -> Bytes:
    """The letters and digits of a UTF-8 text in the form that is compared, as UTF-8.

    Zero bytes stay.
    """
    if not text.isascii():
        text = _FORMS.replaced(np.frombuffer(text, np.uint8)).tobytes()
    mapped = np.frombuffer(text.translate(MAPPED), np.uint8)
    return mapped.compress(mapped != DROPPED)  # half the time of `translate` with bytes to delete


def fold_character(character: str) -> str:
    """The letters and digits that stand for a character. "" for a space, punctuation or a mark."""
    # Decomposed twice: casefold may give a character that decomposes again.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    letters = [part for part in plain if part.isalnum() and part not in NOT_LETTERS]
    return "".join(SAME.get(part, part) for part in letters)


def count_letters(folded: bytes) -> int:
    """The number of letters in a part of a folded text, without one that is cut at an end."""
    codes = np.frombuffer(folded.decode("utf-8", "ignore").encode("utf-32-le"), np.uint32)
    count = len(codes)
    for first, last in COUNT_TWICE:
        count += int(((codes >= first) & (codes <= last)).sum())
    return count


class _Forms:
    """The folded form of each character that is not ASCII. It is made when it is first seen."""

    def __init__(self) -> None:
        self._folded: list[bytes] = []
        # The same forms as arrays: padded to the longest, and the bytes of each.
        self._bytes = np.zeros((0, 1), np.uint8)
        self._size = np.zeros(0, np.int32)
        # For each code point the row of its form, or -1 if it was not seen yet.
        self._form = np.full(sys.maxunicode + 1, -1, np.int32)

    def replaced(self, text: Bytes) -> Bytes:
        """The text with every character that is not ASCII replaced by its folded form.

        Bytes that a form does not need become DROPPED.
        """
        high = text >= NOT_ASCII
        high_bytes = text[high]
        first = np.flatnonzero(high_bytes >= LEADING)  # the first byte of each character
        codes = np.frombuffer(high_bytes.tobytes().decode().encode("utf-32-le"), np.uint32)
        form = self._forms_of(codes)
        size = self._size[form]
        place = np.flatnonzero(high)[first]

        # Few characters but Hangul need more bytes than they had. Make room for those.
        lacking = np.maximum(size - np.diff(first, append=len(high_bytes)), 0)
        if lacking.any():
            room = np.ones(len(text), np.int64)
            room[place] += lacking
            text, high = np.repeat(text, room), np.repeat(high, room)
            place = place + np.cumsum(lacking) - lacking

        # One step for each byte of a form: a loop over characters would be far slower.
        out = np.where(high, np.uint8(DROPPED), text)
        for number in range(int(size.max(initial=0))):
            has = size > number
            out[place[has] + number] = self._bytes[form[has], number]
        return out

    def _forms_of(self, codes: NDArray[np.uint32]) -> NDArray[np.int32]:
        """The row of `_bytes` of each code point. New ones are added."""
        form = self._form[codes]
        unknown = np.unique(codes[form < 0]).tolist()
        if not unknown:
            return form

        self._form[unknown] = np.arange(len(self._folded), len(self._folded) + len(unknown))
        self._folded += [fold_character(chr(code)).encode() for code in unknown]
        self._size = np.array([len(folded) for folded in self._folded], np.int32)
        widest = max(int(self._size.max()), 1)
        padded = b"".join(folded.ljust(widest, b"\0") for folded in self._folded)
        self._bytes = np.frombuffer(padded, np.uint8).reshape(-1, widest)
        return self._form[codes]


_FORMS = _Forms()


def contaminated(index: Index, documents: Sequence[bytes]) -> list[int]:
    """Numbers of the documents that share a run with an evaluation text, ascending.

    documents: UTF-8 without zero bytes.
    """
    if not len(index.hashes) or not documents:
        return []
    joined = fold(BETWEEN.join(documents))
    hashes = _window_hashes(joined, index.window, index.stride)

    # Windows that the table does not reject, and the range of equal hashes of the index.
    likely = np.flatnonzero(index.table[_first_bits(hashes)])
    first = np.searchsorted(index.hashes, hashes[likely], side="left")
    last = np.searchsorted(index.hashes, hashes[likely], side="right")
    equal = last > first

    # The separators show which document a position is in.
    ends = np.flatnonzero(joined == 0)
    found: set[int] = set()
    for window, low, high in zip(likely[equal], first[equal], last[equal], strict=True):
        position = int(window) * index.stride
        number = int(np.searchsorted(ends, position))
        if number not in found and _shares_run(index, joined, position, index.positions[low:high]):
            found.add(number)
    return sorted(found)


def _shares_run(index: Index, joined: Bytes, position: int, candidates: Positions) -> bool:
    """Whether the documents at `position` share a run with one of these positions of the texts.

    joined: the folded documents. candidates: positions with the same hash.
    """
    return any(
        _common_run(index, joined, position, int(candidate)) >= index.run
        for candidate in candidates
    )


def _common_run(index: Index, joined: Bytes, here: int, there: int) -> int:
    """Letters in common around a position of the documents and one of the evaluation texts.

    At most about `run` letters on each side are compared: more would not change the answer.
    """
    reach = LONGEST_CHARACTER * (index.run + 1)
    forward = _common(joined[here : here + reach], index.texts[there : there + reach])
    before_here = joined[max(here - reach, 0) : here][::-1]
    before_there = index.texts[max(there - reach, 0) : there][::-1]
    backward = _common(before_here, before_there)
    return count_letters(joined[here - backward : here + forward].tobytes())


def _common(left: Bytes, right: Bytes) -> int:
    """Length of the common prefix. A zero byte ends it, because it separates texts."""
    size = min(len(left), len(right))
    unequal = np.flatnonzero((left[:size] != right[:size]) | (left[:size] == 0))
    return int(unequal[0]) if len(unequal) else size


def _first_bits(hashes: Hashes) -> Hashes:
    """The first TABLE_BITS bits of each hash: its place in the table."""
    return hashes >> np.uint64(64 - TABLE_BITS)


def _window_hashes(joined: Bytes, window: int, stride: int) -> Hashes:
    """The hash of `window` bytes at every `stride`-th position. uint64[positions]."""
    count = max((len(joined) - window) // stride + 1, 0)
    if not count:
        return np.empty(0, np.uint64)

    # A view of overlapping windows. The copy makes each one contiguous, as lanes of 8 bytes.
    windows = np.lib.stride_tricks.as_strided(joined, (count, window), (stride, 1))
    lanes = np.ascontiguousarray(windows).view(np.uint64)
    mixed = np.zeros(count, np.uint64)
    for lane in range(window // LANE):
        mixed = (mixed ^ lanes[:, lane]) * LANE_FACTOR
        mixed ^= mixed >> np.uint64(29)
    return mixed * LAST_FACTOR
