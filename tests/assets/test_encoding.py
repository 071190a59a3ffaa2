"""Whichever tokenizer works, the ids are those of `tokenizers`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.encoding import FAST_IS_HERE, Encoded, Fast, IdsDiffer, Reference, check_sample
from assets.tokenized_corpus import with_special
from assets.tokenizer import load_tokenizer, train_bpe

WORDS = ["the", "cat", "sat", "on", "the", "mat", "with", "été", "and", "日本", "1234", "\n\n\t", "<s>", "a.b(c)"]
needs_fast = pytest.mark.skipif(not FAST_IS_HERE, reason="gigatoken is not installed (extra `fast`)")


def lists(encoded: Encoded) -> list[list[int]]:
    """The ids of each text."""
    offsets, ids = encoded
    return [ids[start:stop].tolist() for start, stop in zip(offsets, offsets[1:], strict=False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train_bpe(iter([" ".join(WORDS) * 20]), 400).save(str(path / "tokenizer.json"))
    return path


@needs_fast
def test_the_fast_tokenizer_gives_the_reference_ids(folder: Path) -> None:
    texts = [" ".join(WORDS), "", "a", "naïve façade", " leading", "trailing ", "tabs\t\tand\n\nlines", "🙂" * 30]
    assert lists(Fast(folder).encode(texts)) == lists(Reference(load_tokenizer(folder)).encode(texts))


@needs_fast
def test_a_difference_in_the_sample_is_noticed_and_named(folder: Path, tmp_path: Path) -> None:
    train_bpe(iter(["entirely other text " * 9]), 300).save(str(tmp_path / "tokenizer.json"))
    texts, identities = ["the cat sat"] * 3, np.array([1, 64, 3], np.uint64)
    check_sample(Fast(folder), Reference(load_tokenizer(folder)), texts, identities)
    with pytest.raises(IdsDiffer, match="0000000000000040"):
        check_sample(Fast(folder), Reference(load_tokenizer(tmp_path)), texts, identities)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=5), st.sampled_from([None, 100]),
       st.sampled_from([None, 200]))
def test_every_document_stands_between_its_special_tokens(documents: list[list[int]], bos: int | None, eos: int | None
                                                          ) -> None:
    offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    ids = np.array([token for document in documents for token in document], np.uint32)
    begin, end = [bos] if bos is not None else [], [eos] if eos is not None else []
    assert lists(with_special((offsets, ids), bos, eos)) == [begin + document + end for document in documents]
