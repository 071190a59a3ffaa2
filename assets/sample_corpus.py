"""Sample corpus: a small language in which long context helps, for experiments on a laptop.

It has seven domains with SlimPajama's names and document lengths, at one sixteenth: 256 tokens here
stand for 4,096 there.

A document has its own *titles*, each a fixed sequence of three names ("Karo Velmi Tusha"). Inside a
document a name occurs in one title only. So the first name of a title decides the next two, and
only an earlier mention in the same document shows which. New titles enter as the document goes on,
and each title so far is equally likely to be next. So the distance to the last mention grows with
the document, and recall helps at every distance up to the document's length.

The cost: this is not real text. About half of the words are names, so recall matters far more than
in books or code. The other words are common English words whose order means little.

Every document is a function of (seed, domain, number), so a corpus of any size can be read in any
order, by any number of workers.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from assets.randomness import generator
from core.params import Config

WORDS_PER_TITLE = 3
CONSONANTS = "bdfgklmnprstvz"
VOWELS = "aeiou"
NAME_COUNT = 768
SHORTEST = 8
"""Words of the shortest document."""
ORDINARY_WORDS = """
    the of and a to in is you that it was for on with as his they at be this from have or by one had
    not but what all were when we there can an your which their said if do will each about how up
    out them then she many some so these would other into has more her two like him see time could
    no make than first been its who now people my made over did down only way find use may water
    long little very after words called just where most know get through back much before go good
    new write our used me man too any day same right look think also around another came come work
    three word must because does part even place well such here take why things help put years
    different away again off went old number great tell men say small every found still between name
    should home big give air line set own under read last never us left end along while might next
    sound below saw something thought both few those always looked show large often together asked
    house world going want school important until form food keep children feet land side without boy
    once animals life enough took sometimes four head above kind began almost live page got earth
    need far hand high year mother light parts country father let night following picture being
    study second eyes soon times story boys since white days ever paper hard near sentence better
    best across during today others however sure means knew try told young miles sun ways thing
    whole hear example heard several change answer room sea against top turned learn point city play
    toward five using himself usually
""".split()  # noqa: SIM905  (a list literal would take 350 lines)


class SampleDomain(Config):
    """The statistics of one domain. Lengths count words; a word is one token of the sample."""

    set_name: str
    """SlimPajama's name of the domain, e.g. RedPajamaArXiv."""
    words: Annotated[int, Field(ge=1)]
    """Words of the whole domain. The last document may exceed it."""
    median_length: Annotated[float, Field(gt=0)]
    """Median document length in words."""
    spread: Annotated[float, Field(ge=0, le=3)]
    """Standard deviation of the logarithm of the length (log-normal)."""
    tail_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the words in a heavy tail: Pareto with exponent 1, so every doubling of the length
    has the same share. Real web pages and source files have such a tail, a log-normal has none."""
    tail_from: Annotated[int, Field(ge=16)] = 256
    """Shortest document of the tail, in words."""
    longest: Annotated[int, Field(ge=16)] = 20_000
    """Words of the longest document."""
    words_per_title: Annotated[int, Field(ge=4)] = 24
    """A new title may enter after this many words."""
    largest_cast: Annotated[int, Field(ge=1, le=NAME_COUNT // WORDS_PER_TITLE)] = 160
    """Titles in one document at most."""


def all_names() -> list[str]:
    """The 768 names, in a fixed order: two syllables, capitalised, e.g. "Karo"."""
    syllables = [consonant + vowel for consonant, vowel in product(CONSONANTS, VOWELS)]
    pairs = [
        (first + second).capitalize()
        for first, second in product(syllables, repeat=2)
        if first != second
    ]
    order = generator("sample corpus", "names").permutation(len(pairs))
    return sorted(pairs[i] for i in order[:NAME_COUNT])


NAMES = all_names()


def records(domain: str, spec: SampleDomain, seed: int) -> Iterator[dict[str, Any]]:
    """Documents of one domain in SlimPajama's schema, until there are `spec.words` words."""
    written, number = 0, 0
    while written < spec.words:
        words = document_words(domain, spec, seed, number)
        yield {"text": as_text(words), "meta": {"redpajama_set_name": spec.set_name}}
        written, number = written + len(words), number + 1


def document_words(domain: str, spec: SampleDomain, seed: int, number: int) -> list[str]:
    """The words of document `number`: sentences of ordinary words around one to three titles."""
    # The order of the draws decides the bytes of the corpus: do not change it.
    draw = generator(seed, domain, number)
    length = document_length(spec, draw)
    names = draw.permutation(NAME_COUNT)[: spec.largest_cast * WORDS_PER_TITLE]
    titles = names.reshape(-1, WORDS_PER_TITLE).tolist()
    # Each domain prefers other words.
    ordinary = _ordinary_words(domain)

    words: list[str] = []
    introduced = 0
    while len(words) < length:
        for _ in range(int(draw.integers(1, 4))):
            # Zipf with 1.3: a few ordinary words are frequent, as in real text.
            ranks = draw.zipf(1.3, int(draw.integers(1, 5))).tolist()
            words.extend([ordinary[rank % len(ordinary)] for rank in ranks])

            # A new title if there is room for one, else one of the titles so far.
            room = min(spec.largest_cast, 1 + len(words) // spec.words_per_title)
            chosen = introduced if introduced < room else int(draw.integers(introduced))
            introduced = max(introduced, chosen + 1)
            words.extend([NAMES[name] for name in titles[chosen]])
        words.append(".")
    return words


@cache
def _ordinary_words(domain: str) -> list[str]:
    """The ordinary words in the domain's own order, the most frequent first."""
    order = generator("sample corpus", "flavour", domain).permutation(len(ORDINARY_WORDS))
    return [ORDINARY_WORDS[place] for place in order]


def document_length(spec: SampleDomain, draw: np.random.Generator) -> int:
    """Length of one document in words: from the log-normal body, or from the Pareto tail."""
    # Both are drawn for every document, so a change of tail_share moves no other draw.
    body = np.exp(draw.normal(np.log(spec.median_length), spec.spread))
    in_tail, along = draw.random(2)
    if in_tail >= _tail_probability(spec):
        return int(np.clip(body, SHORTEST, spec.longest))

    # The inverse of the tail's distribution function.
    shortest, longest = 1 / spec.tail_from, 1 / spec.longest
    return int(1 / (shortest - along * (shortest - longest)))


def _tail_probability(spec: SampleDomain) -> float:
    """The share of documents in the tail, so that `tail_share` of the words are in it."""
    if spec.tail_share == 0:
        return 0.0
    mean_body = spec.median_length * np.exp(spec.spread**2 / 2)
    mean_tail = np.log(spec.longest / spec.tail_from) / (1 / spec.tail_from - 1 / spec.longest)

    # Documents for each word of the domain.
    in_tail = spec.tail_share / mean_tail
    in_body = (1 - spec.tail_share) / mean_body
    return float(in_tail / (in_tail + in_body))


def as_text(words: list[str]) -> str:
    """Words joined by single spaces, full stops too, so every word is one token of the sample."""
    return " ".join(words)
