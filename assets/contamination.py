"""Which documents hold a passage of the evaluation texts.

Texts are compared as their letters and digits alone: decomposed (NFKD), case-folded, without marks.
So spacing, punctuation, markup, capitals, accents and the form of a character (composed,
full-width, ligature) hide no copy. Two texts that are equal under NFKC and case folding are equal
here. The fold of a text is the fold of its characters one by one, so neither blocks nor neighbours
change it.

A document is contaminated when it shares a run of `run` letters with an evaluation text (the idea
of 50-character runs: GPT-4 technical report, appendix C). A digit counts as a letter. A Chinese
character or a kana counts as two: it writes a syllable or a word, and 25 of them are about 15
words, where 50 English letters are about 11. A Hangul syllable counts as the two or three letters
that it is made of. Thai, Lao and Khmer have no spaces either, but write letters: one each, vowel
marks not counted.

The fold is kept as UTF-8. A run of n letters is at least n bytes, so the search goes over bytes and
only a hit is counted in letters. Every byte position of the evaluation texts is indexed (17 bytes
each); a document is searched only every few bytes, and the windows are close enough that every run
holds a whole one. Each hit is then compared byte by byte: no false alarm. The cost: ASCII text is
folded by one byte table, a few milliseconds a megabyte; where other characters stand, by a table of
the characters seen so far, up to ten times that for a text without any ASCII (docs/log.md).
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

LANE = 8
LONGEST_TEXT = 64 << 20
SECTION = "raw_corpus.decontamination"
TABLE_BITS = 20
LONGEST_CHARACTER = 4  # bytes of UTF-8
NOT_ASCII = 0x80  # the first byte that is not ASCII
LEADING = 0xC0  # from here on a byte begins a character; between the two it continues one
BETWEEN = b"\0"  # the one byte that is neither dropped nor part of a text: no run crosses it
DROPPED = 1
MAPPED = bytes(
    DROPPED if 0 < code < 128 and not chr(code).isalnum() else code
    for code in bytes(range(256)).lower()
)
"""Every byte to its lower case, and all that is not compared to one mark. Bytes past ASCII stay."""
NOT_LETTERS = {"\N{ARABIC TATWEEL}", *map(chr, range(0x2B9, 0x300))}
"""Letters by their Unicode category, but a stretched line, apostrophes, primes and tone marks by
their use."""
SAME = {"\N{LATIN SMALL LETTER DOTLESS I}": "i"}  # else Turkish capitals would hide a copy
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
    """The evaluation texts, ready to be found."""

    run: int
    """Letters in common that make a document contaminated."""
    texts: NDArray[np.uint8]
    """All texts, folded, with a zero byte between two."""
    hashes: NDArray[np.uint64]
    """Hashes of all windows of `texts`, ascending."""
    positions: NDArray[np.int64]
    """Where in `texts` each of them starts."""
    table: NDArray[np.bool_]
    """Whether any hash begins with these bits. This rejects nearly every window of a clean document
    at once."""
    evaluation_texts: int
    """How many there are."""
    too_short: int
    """Evaluation texts of fewer letters than `run`: nothing can match them."""

    @property
    def window(self) -> int:
        """Bytes hashed at one place."""
        return LANE * ((self.run + 1) // (2 * LANE))

    @property
    def stride(self) -> int:
        """From window to window: any run of `run` bytes holds a whole one."""
        return self.run - self.window + 1


def read_index(source: Path, text_field: str, run: int) -> Index:
    """The index of every text in `source`: a file or folder as raw_corpus takes them. run: at least
    15.

    Raises UserError, with file and line, for a record without a text, and if every text is too
    short: a text that can't be searched for must not count as not found.
    """
    index = build_index(list(_evaluation_texts(source, text_field)), run)
    if index.too_short == index.evaluation_texts:
        raise UserError(
            f"{source}: of its {index.evaluation_texts:,} evaluation texts none has {run} letters "
            "and "
            f"digits, so no document can share so many. Lower {SECTION}.run, correct "
            f"{SECTION}.text_field, or switch decontamination off with run: null."
        )
    print(
        f"evaluation texts: {index.evaluation_texts:,}, of which {index.too_short:,} hold fewer "
        "than "
        f"{run} letters and digits and can't be searched for",
        file=sys.stderr,
    )
    return index


def _evaluation_texts(source: Path, text_field: str) -> Iterator[str]:
    fields = Fields(text=text_field, section=SECTION)
    for path in document_files(source, f"{SECTION}.against").read:
        for number, text in read_texts(path, fields, LONGEST_TEXT):
            if isinstance(text, Skipped):
                why = text.detail if text.reason == FIELD_MISSING else text.reason
                raise UserError(
                    f"{path}, record {number}: {why}. Documents can't be compared with it: fix the "
                    "record or take it out."
                )
            yield text


def build_index(texts: Sequence[str], run: int) -> Index:
    """Index evaluation texts."""
    if run < 2 * LANE - 1:
        raise ValueError(
            f"run = {run}, but fewer than {2 * LANE - 1} letters in common are no sign of "
            "contamination"
        )
    folded = [fold(text.replace("\0", "").encode("utf-8", "replace")).tobytes() for text in texts]
    joined = np.frombuffer(BETWEEN.join(folded), np.uint8)
    blank = Index(
        run=run,
        texts=joined,
        hashes=np.empty(0, np.uint64),
        positions=np.empty(0, np.int64),
        table=np.zeros(1 << TABLE_BITS, np.bool_),
        evaluation_texts=len(texts),
        too_short=sum(count_letters(text) < run for text in folded),
    )
    hashes = _window_hashes(joined, blank.window, 1)
    order = np.argsort(hashes, kind="stable")
    table = blank.table.copy()
    table[hashes >> np.uint64(64 - TABLE_BITS)] = True
    return replace(blank, hashes=hashes[order], positions=order, table=table)


def fold(text: bytes) -> NDArray[np.uint8]:
    """The letters and digits of a UTF-8 text as they are compared, again as UTF-8. Zero bytes
    stay."""
    if not text.isascii():
        text = _FORMS.replaced(np.frombuffer(text, np.uint8)).tobytes()
    mapped = np.frombuffer(text.translate(MAPPED), np.uint8)
    return mapped.compress(mapped != DROPPED)  # half the time of `translate` with bytes to delete


def fold_character(character: str) -> str:
    """The letters and digits that a character is compared as; "" for a space, a sign or a mark."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(
        SAME.get(part, part) for part in plain if part.isalnum() and part not in NOT_LETTERS
    )


def count_letters(folded: bytes) -> int:
    """The number of letters in a part of a folded text; one that is cut off at an end is not
    counted."""
    codes = np.frombuffer(folded.decode("utf-8", "ignore").encode("utf-32-le"), np.uint32)
    return len(codes) + sum(
        int(((codes >= first) & (codes <= last)).sum()) for first, last in COUNT_TWICE
    )


class _Forms:
    """What each character past ASCII is compared as. Its entry is made when it is first seen."""

    def __init__(self) -> None:
        self._form = np.full(sys.maxunicode + 1, -1, np.int32)  # by code point, the row of `_bytes`
        self._folded: list[bytes] = []
        self._bytes = np.zeros((0, 1), np.uint8)
        self._size = np.zeros(0, np.int32)

    def replaced(self, text: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The text with every character past ASCII replaced by its letters, and the bytes left over
        by DROPPED."""
        high = text >= NOT_ASCII
        high_bytes = text[high]
        first = np.flatnonzero(high_bytes >= LEADING)
        form = self._forms_of(
            np.frombuffer(high_bytes.tobytes().decode().encode("utf-32-le"), np.uint32)
        )
        size, place = self._size[form], np.flatnonzero(high)[first]

        lacking = np.maximum(size - np.diff(first, append=len(high_bytes)), 0)
        if lacking.any():  # few characters but Hangul take more bytes than they had
            room = np.ones(len(text), np.int64)
            room[place] += lacking
            text, high = np.repeat(text, room), np.repeat(high, room)
            place = place + np.cumsum(lacking) - lacking

        out = np.where(high, np.uint8(DROPPED), text)
        for number in range(int(size.max(initial=0))):
            has = size > number
            out[place[has] + number] = self._bytes[form[has], number]
        return out

    def _forms_of(self, codes: NDArray[np.uint32]) -> NDArray[np.int32]:
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
    """Numbers of the documents (UTF-8, without zero bytes) that share a run with an evaluation
    text, ascending."""
    if not len(index.hashes) or not documents:
        return []
    joined = fold(BETWEEN.join(documents))
    hashes = _window_hashes(joined, index.window, index.stride)
    likely = np.flatnonzero(index.table[hashes >> np.uint64(64 - TABLE_BITS)])
    first = np.searchsorted(index.hashes, hashes[likely], side="left")
    last = np.searchsorted(index.hashes, hashes[likely], side="right")
    ends = np.flatnonzero(joined == 0)
    found: set[int] = set()
    for window, low, high in zip(
        likely[last > first], first[last > first], last[last > first], strict=True
    ):
        position = int(window) * index.stride
        number = int(np.searchsorted(ends, position))
        if number not in found and any(
            _common_run(index, joined, position, int(there)) >= index.run
            for there in index.positions[low:high]
        ):
            found.add(number)
    return sorted(found)


def _common_run(index: Index, joined: NDArray[np.uint8], here: int, there: int) -> int:
    """Letters in common around one place of the documents and one of the evaluation texts, counted
    up to `run` a side."""
    reach = LONGEST_CHARACTER * (index.run + 1)
    forward = _common(joined[here : here + reach], index.texts[there : there + reach])
    backward = _common(
        joined[max(here - reach, 0) : here][::-1], index.texts[max(there - reach, 0) : there][::-1]
    )
    return count_letters(joined[here - backward : here + forward].tobytes())


def _common(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> int:
    """Length of the common prefix; a zero byte ends it, for it stands between texts."""
    size = min(len(left), len(right))
    unequal = np.flatnonzero((left[:size] != right[:size]) | (left[:size] == 0))
    return int(unequal[0]) if len(unequal) else size


def _window_hashes(joined: NDArray[np.uint8], window: int, stride: int) -> NDArray[np.uint64]:
    """Hash of the `window` bytes at every `stride`-th place. uint64[places]."""
    places = max((len(joined) - window) // stride + 1, 0)
    if not places:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.as_strided(joined, (places, window), (stride, 1))
    lanes = np.ascontiguousarray(windows).view(np.uint64)
    mixed = np.zeros(places, np.uint64)
    for lane in range(window // LANE):
        mixed = (mixed ^ lanes[:, lane]) * np.uint64(0x9E37_79B9_7F4A_7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed * np.uint64(0xBF58_476D_1CE4_E5B9)
