"""Whichever tokenizer works, the ids are those of `tokenizers`."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets import tokenized_corpus
from assets.document_store import SCHEMA, document_writer
from assets.encoding import FAST_IS_HERE, Fast, IdsDiffer, Reference, check_sample, check_specials
from assets.token_store import open_tokens
from assets.tokenized_corpus import with_special
from assets.tokenizer import load_tokenizer, train_bpe
from core.errors import UserError
from core.sealed import write_json

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "with",
    "été",
    "and",
    "日本",
    "1234",
    "\n\n\t",
    "<s>",
    "a.b(c)",
]
needs_fast = pytest.mark.skipif(
    not FAST_IS_HERE, reason="gigatoken is not installed (extra `fast`)"
)


def lists(encoder: Fast | Reference, texts: list[str]) -> list[list[int]]:
    """The ids of each text."""
    return [ids.tolist() for ids in encoder.encode([text.encode() for text in texts])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_bpe(iter([" ".join(WORDS) * 20]), 400)
    tokenizer.add_special_tokens(["<|end|>"])  # one that is no entry of the model itself
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@needs_fast
def test_the_fast_tokenizer_gives_the_reference_ids(folder: Path) -> None:
    texts = [
        " ".join(WORDS),
        "",
        "a",
        "naïve façade",
        " leading",
        "trailing ",
        "tabs\t\tand\n\nlines",
        "🙂" * 30,
    ]
    assert lists(Fast(folder), texts) == lists(Reference(load_tokenizer(folder)), texts)


@needs_fast
def test_a_difference_in_the_sample_is_noticed_and_named(folder: Path, tmp_path: Path) -> None:
    train_bpe(iter(["entirely other text " * 9]), 300).save(str(tmp_path / "tokenizer.json"))
    texts, identities = [b"xyz", b"the cat sat", b"xyz"], np.array([100, 64, 300], np.uint64)
    check_sample(Fast(folder), Reference(load_tokenizer(folder)), texts, identities)
    with pytest.raises(IdsDiffer, match="0000000000000040"):
        check_sample(Fast(folder), Reference(load_tokenizer(tmp_path)), texts, identities)


MARKUP = ["</s>", "<s>", "a<s>b</s>c", "<|end|>", "x <|end|></s>\n", "<<s>>", "the </s"]


@pytest.mark.parametrize("encoder", ["reference", pytest.param("fast", marks=needs_fast)])
def test_the_text_of_a_special_token_is_text_like_any_other(folder: Path, encoder: str) -> None:
    tokenizer = load_tokenizer(folder)
    special = {tokenizer.token_to_id(token) for token in ("<s>", "</s>", "<|end|>")}
    assert None not in special and set(tokenizer.encode("".join(MARKUP)).ids) >= special, (
        "as it comes, they are found"
    )
    found = lists(Fast(folder) if encoder == "fast" else Reference(tokenizer), MARKUP)
    assert found == lists(Reference(load_tokenizer(folder)), MARKUP)
    assert [tokenizer.decode(ids).removeprefix(" ") for ids in found] == MARKUP
    assert not special & {token for ids in found for token in ids}


@needs_fast
def test_a_fast_tokenizer_that_finds_special_tokens_in_text_is_noticed(
    folder: Path, tmp_path: Path
) -> None:
    check_specials(Fast(folder), Reference(load_tokenizer(folder)))
    described = json.loads((folder / "tokenizer.json").read_text())
    for token in described["added_tokens"]:
        token["special"] = False  # then it is an entry like any other, which both find
    write_json(tmp_path / "tokenizer.json", described)
    with pytest.raises(IdsDiffer, match="the text '<s>'"):
        check_specials(Fast(tmp_path), Reference(load_tokenizer(folder)))


def test_ids_with_a_hole_keep_their_value(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    assert described["model"]["vocab"]["Ġcat"] < 400
    described["model"]["vocab"]["Ġcat"] = 70_000
    monkeypatch.chdir(tmp_path)
    for made in ("data/tokenizer", "data/raw_corpus/web"):
        Path(made).mkdir(parents=True)
    write_json(Path("data/tokenizer/tokenizer.json"), described)
    write_json(Path("data/tokenizer/tokenizer_config.json"), {})
    Path("params.yaml").write_text("tokenized_corpus: {bos: false}")
    text = "the cat sat on the cat"
    with document_writer(Path("data/raw_corpus/web")) as writer:
        writer.write_batch(
            pa.RecordBatch.from_arrays(
                [
                    pa.array([1], pa.uint64()),
                    pa.array([text], pa.large_string()),
                    pa.array([False]),
                ],
                schema=SCHEMA,
            )
        )
    write_json(Path("data/raw_corpus/web/record.json"), {"documents": 1})
    tokenized_corpus.run("web")
    store = open_tokens(Path("data/tokenized_corpus/web"))
    assert store.document(0).tolist().count(70_000) == 2
    assert load_tokenizer(Path("data/tokenizer")).decode(store.document(0)).strip() == text


def test_an_id_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"token id 65,536 is larger than any in data/tokenizer/tokenizer.json"
    ):
        with_special([np.array([1, 65_536], np.uint32)], None, None, np.uint16)
    assert with_special([np.array([1, 65_535], np.uint32)], None, None, np.uint16)[1].tolist() == [
        1,
        65_535,
    ]


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=5),
    st.sampled_from([None, 100]),
    st.sampled_from([None, 200]),
)
def test_every_document_stands_between_its_special_tokens(
    documents: list[list[int]], bos: int | None, eos: int | None
) -> None:
    begin, end = [bos] if bos is not None else [], [eos] if eos is not None else []
    offsets, tokens = with_special(
        [np.array(ids, np.uint32) for ids in documents], bos, eos, np.uint16
    )
    assert [tokens[start:stop].tolist() for start, stop in pairwise(offsets)] == [
        begin + document + end for document in documents
    ]
    assert tokens.dtype == np.uint16


def write_corpus(texts: list[str]) -> None:
    """data/raw_corpus/web, and parameters."""
    Path("data/raw_corpus/web").mkdir(parents=True)
    with document_writer(Path("data/raw_corpus/web")) as writer:
        writer.write_batch(
            pa.RecordBatch.from_arrays(
                [
                    pa.array(range(len(texts)), pa.uint64()),
                    pa.array(texts, pa.large_string()),
                    pa.array([False] * len(texts)),
                ],
                schema=SCHEMA,
            )
        )
    write_json(Path("data/raw_corpus/web/record.json"), {"documents": len(texts)})
    Path("params.yaml").write_text("tokenized_corpus: {bos: true}")


USED = {
    "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 600},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "</s>",
    },
}
BEGINS_TWICE = {
    "post_processor": {
        "type": "TemplateProcessing",
        "pair": [],
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
}


@pytest.mark.parametrize("here", ["fast", "reference"])
def test_a_corpus_has_the_same_tokens_whatever_its_tokenizer_was_last_used_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    if here == "fast" and not FAST_IS_HERE:
        pytest.skip("gigatoken is not installed (extra `fast`)")
    monkeypatch.setattr(tokenized_corpus, "FAST_IS_HERE", here == "fast")
    described = json.loads((folder / "tokenizer.json").read_text())
    texts = [" ".join(WORDS) * 40, "the cat"]
    stores = {}
    for name, change in {"plain": {}, "used": USED, "begins twice": BEGINS_TWICE}.items():
        (tmp_path / name / "data/tokenizer").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        write_json(Path("data/tokenizer/tokenizer.json"), described | change)
        write_json(
            Path("data/tokenizer/tokenizer_config.json"),
            {"bos_token": "<s>", "model_max_length": 16},
        )
        write_corpus(texts)
        tokenized_corpus.run("web")
        store = open_tokens(Path("data/tokenized_corpus/web"))
        stores[name] = [store.document(number).tolist() for number in range(2)]
        made_with = json.loads(Path("metrics/tokenized_corpus/web.json").read_text())["made_with"]
        assert ("gigatoken" in made_with) == (here == "fast") and "tokenizers" in made_with
    assert stores["plain"] == stores["used"] == stores["begins twice"]
    assert len(stores["plain"][0]) > 600 and [ids[:2].count(0) for ids in stores["plain"]] == [1, 1]


@needs_fast
@pytest.mark.parametrize(
    "flags",
    [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {}],
    ids=str,
)
def test_an_added_token_gets_the_reference_ids_whatever_its_flags(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool]
) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    plain = {
        "id": 400,
        "content": "<mark>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }
    beyond = max(described["model"]["vocab"].values()) + 2
    described["added_tokens"].append(plain | {"id": beyond} | flags)
    (tmp_path / "data/tokenizer").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    write_json(Path("data/tokenizer/tokenizer.json"), described)
    write_json(Path("data/tokenizer/tokenizer_config.json"), {"bos_token": "<s>"})
    texts = ["a <mark> b", "a<mark>b  <mark>", "<mark>\n x<MARK>"]
    write_corpus(texts)
    tokenized_corpus.run("web")
    store = open_tokens(Path("data/tokenized_corpus/web"))
    wanted = lists(Reference(load_tokenizer(Path("data/tokenizer"))), texts)
    assert [store.document(number).tolist()[1:] for number in range(3)] == wanted
