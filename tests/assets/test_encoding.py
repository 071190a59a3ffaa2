"""Whichever tokenizer works, the ids are those of `tokenizers`."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.encoding import FAST_IS_HERE, Fast, IdsDiffer, Reference, check_sample
from assets.tokenized_corpus import with_special
from assets.tokenizer import load_tokenizer, train_bpe

WORDS = ["the", "cat", "sat", "on", "the", "mat", "with", "été", "and", "日本", "1234", "\n\n\t", "<s>", "a.b(c)"]
needs_fast = pytest.mark.skipif(not FAST_IS_HERE, reason="gigatoken is not installed (extra `fast`)")


def lists(encoder: Fast | Reference, texts: list[str]) -> list[list[int]]:
    """The ids of each text."""
    return [ids.tolist() for ids in encoder.encode([text.encode() for text in texts])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train_bpe(iter([" ".join(WORDS) * 20]), 400).save(str(path / "tokenizer.json"))
    return path


@needs_fast
def test_the_fast_tokenizer_gives_the_reference_ids(folder: Path) -> None:
    texts = [" ".join(WORDS), "", "a", "naïve façade", " leading", "trailing ", "tabs\t\tand\n\nlines", "🙂" * 30]
    assert lists(Fast(folder), texts) == lists(Reference(load_tokenizer(folder)), texts)


@needs_fast
def test_a_difference_in_the_sample_is_noticed_and_named(folder: Path, tmp_path: Path) -> None:
    train_bpe(iter(["entirely other text " * 9]), 300).save(str(tmp_path / "tokenizer.json"))
    texts, identities = [b"xyz", b"the cat sat", b"xyz"], np.array([100, 64, 300], np.uint64)
    check_sample(Fast(folder), Reference(load_tokenizer(folder)), texts, identities)
    with pytest.raises(IdsDiffer, match="0000000000000040"):
        check_sample(Fast(folder), Reference(load_tokenizer(tmp_path)), texts, identities)


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=5), st.sampled_from([None, 100]),
       st.sampled_from([None, 200]))
def test_every_document_stands_between_its_special_tokens(documents: list[list[int]], bos: int | None, eos: int | None
                                                          ) -> None:
    begin, end = [bos] if bos is not None else [], [eos] if eos is not None else []
    offsets, tokens = with_special([np.array(ids, np.uint32) for ids in documents], bos, eos, np.uint16)
    assert [tokens[start:stop].tolist() for start, stop in pairwise(offsets)] == [
        begin + document + end for document in documents]
    assert tokens.dtype == np.uint16
