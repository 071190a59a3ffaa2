"""Two tokenizers agree if they give every text the same ids, whatever their files look like."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors

from assets.agreement import disagreement
from assets.tokenizer import BOS, train_bpe

ROOT = Path(__file__).parents[2]
TEXTS = [
    "the cat sat on the mat with 1234 naïve façades",
    "def f(x):\n    return x",
    "日本 the mat ",
] * 20


def made() -> Tokenizer:
    """A byte-level BPE with a begin token, and one added token that is an ordinary word."""
    tokenizer = train_bpe(iter(TEXTS), 340)
    tokenizer.add_tokens([AddedToken("<mark>", normalized=False)])
    return tokenizer


def changed(change: Callable[[dict[str, Any]], None]) -> Tokenizer:
    """The same tokenizer with a changed tokenizer.json."""
    described = json.loads(made().to_str())
    change(described)
    return Tokenizer.from_str(json.dumps(described))


def prefix(described: dict[str, Any]) -> None:
    described["pre_tokenizer"]["add_prefix_space"] = False


def metaspace(described: dict[str, Any]) -> None:
    described["pre_tokenizer"] = json.loads(pre_tokenizers.Metaspace().__getstate__())


def digits(described: dict[str, Any]) -> None:
    described["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            described["pre_tokenizer"],
        ],
    }


def no_pattern(described: dict[str, Any]) -> None:
    described["pre_tokenizer"]["use_regex"] = False


def lower_case(described: dict[str, Any]) -> None:
    described["normalizer"] = json.loads(normalizers.Lowercase().__getstate__())


def compatibility(described: dict[str, Any]) -> None:
    described["normalizer"] = json.loads(normalizers.NFKC().__getstate__())


def replaced(pattern: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    """A normaliser that replaces a text, which no ordinary probe has, by "x"."""

    def change(described: dict[str, Any]) -> None:
        described["normalizer"] = {"type": "Replace", "pattern": pattern, "content": "x"}

    return change


def flag(name: str, value: bool = True) -> Callable[[dict[str, Any]], None]:
    def change(described: dict[str, Any]) -> None:
        described["added_tokens"][-1][name] = value

    return change


def begin_twice(described: dict[str, Any]) -> None:
    template = processors.TemplateProcessing(single=f"{BOS} {BOS} $A", special_tokens=[(BOS, 0)])
    described["post_processor"] = json.loads(template.__getstate__())


def two_ids_swapped(described: dict[str, Any]) -> None:
    vocabulary = described["model"]["vocab"]
    one, other = list(vocabulary)[100:102]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def a_merge_less(described: dict[str, Any]) -> None:
    described["model"]["merges"].pop()


def merges_reversed(described: dict[str, Any]) -> None:
    described["model"]["merges"].reverse()


def a_token_more(described: dict[str, Any]) -> None:
    token = described["added_tokens"][-1]
    described["added_tokens"].append({**token, "id": token["id"] + 1, "content": "<more>"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (prefix, "the text "),
        (metaspace, "the text "),
        (digits, "the text .*12"),
        (no_pattern, "the text "),
        (lower_case, "the text "),
        (compatibility, "the text "),
        (replaced({"String": "qzx"}), "the text 'qzx'"),
        (replaced({"Regex": "[\u2074-\u2079]"}), "the text "),
        (replaced({"Regex": "\ua66e"}), "the text .*\ua66e"),
        (flag("lstrip"), "the text .*<mark>"),
        (flag("rstrip"), "the text .*<mark>"),
        (flag("single_word"), "the text .*<mark>"),
        (flag("special"), "the text .*<mark>"),
        (begin_twice, "the text "),
        (two_ids_swapped, "the text "),
        (a_merge_less, "the text "),
        (a_token_more, "the text .*<more>"),
    ],
)
def test_a_tokenizer_with_other_ids_is_found_by_a_text(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    found = disagreement(changed(change), made())
    assert found is not None and re.match(said, found, re.DOTALL), found
    assert re.search(
        r"has the ids (\.\.\. )?\[.*\].* there and .*\[.*\].* here$", found, re.DOTALL
    ), found
    assert disagreement(made(), changed(change)) is not None


def test_words_like_contractions_show_a_missing_pattern() -> None:
    """Only the pattern of GPT-2 splits "'s" from "state". The sample's base has it."""
    described = json.loads((ROOT / "models" / "sample-base" / "tokenizer.json").read_text())
    with_pattern = Tokenizer.from_str(json.dumps(described))
    no_pattern(described)
    found = disagreement(Tokenizer.from_str(json.dumps(described)), with_pattern)
    assert found is not None and "rock'n'roll" in found


def test_merges_in_another_order_count_as_a_difference() -> None:
    assert disagreement(changed(merges_reversed), made()) == "the `model` sections differ in merges"


def test_a_normaliser_that_changes_added_tokens_is_found() -> None:
    def change(described: dict[str, Any]) -> None:
        lower_case(described)
        described["added_tokens"][-1]["normalized"] = True

    plain = changed(lower_case)
    assert "<MARK>" in str(disagreement(changed(change), plain))


def merges_as_texts(described: dict[str, Any]) -> None:
    described["model"]["merges"] = [" ".join(pair) for pair in described["model"]["merges"]]


def used(described: dict[str, Any]) -> None:
    described["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    described["model"]["dropout"] = 0.5


def other_offsets(described: dict[str, Any]) -> None:
    described["pre_tokenizer"]["trim_offsets"] = not described["pre_tokenizer"]["trim_offsets"]


@pytest.mark.parametrize("change", [merges_as_texts, used, other_offsets])
def test_files_that_differ_in_form_alone_agree(change: Callable[[dict[str, Any]], None]) -> None:
    other = changed(change)
    before = other.to_str()
    assert disagreement(other, made()) is None
    assert other.to_str() == before, "what is compared stays as it was"


@pytest.mark.parametrize("change", [begin_twice, flag("special")])
def test_special_tokens_may_differ_if_their_text_is_text(
    change: Callable[[dict[str, Any]], None],
) -> None:
    def special(described: dict[str, Any]) -> None:
        flag("special")(described)
        if change is begin_twice:
            begin_twice(described)

    one, other = changed(special), changed(flag("special"))
    assert disagreement(one, other, as_in_corpus=True) is None
    assert disagreement(changed(prefix), made(), as_in_corpus=True) is not None
