"""The graph's tokenizer: what it is trained on, what it carries of its last use, and its special
tokens."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from assets import tokenizer
from assets.document_store import SCHEMA, document_writer
from assets.tokenizer import BOS, EOS, load_tokenizer, train_bpe
from core.errors import UserError


@pytest.fixture(autouse=True)
def _in_an_empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_domain(name: str, text: str) -> None:
    """data/raw_corpus/NAME with one training document."""
    folder = Path("data/raw_corpus") / name
    folder.mkdir(parents=True)
    with document_writer(folder) as writer:
        writer.write_batch(
            pa.RecordBatch.from_pydict({"id": [1], "text": [text], "heldout": [False]}, SCHEMA)
        )


def set_params(source: str, domains: tuple[str, ...] = (), **special: bool) -> None:
    """params.yaml of a graph with these domains."""
    Path("params.yaml").write_text(
        yaml.safe_dump(
            {
                "tokenizer": {"source": source, "vocab_size": 300},
                "tokenized_corpus": special,
                "raw_corpus": {"domains": {name: {} for name in domains}},
            }
        )
    )


def write_model(**config: Any) -> None:
    """The tokenizer of a base model, with this tokenizer_config.json."""
    Path("model").mkdir()
    train_bpe(iter(["some words of some text"]), 300).save("model/tokenizer.json")
    Path("model/tokenizer_config.json").write_text(json.dumps(config))


def test_a_domain_left_behind_changes_nothing_of_what_is_trained() -> None:
    set_params("data/raw_corpus", ("mine",))
    write_domain("mine", "banana bandana " * 50)
    tokenizer.run()
    alone = Path("data/tokenizer/tokenizer.json").read_bytes()
    write_domain("left", "quartz quorum quota " * 500)
    tokenizer.run()
    assert Path("data/tokenizer/tokenizer.json").read_bytes() == alone
    set_params("data/raw_corpus", ("mine", "left"))
    tokenizer.run()
    assert Path("data/tokenizer/tokenizer.json").read_bytes() != alone


@pytest.mark.parametrize(
    ("config", "special", "said"),
    [
        (
            {"bos_token": None, "eos_token": EOS},
            {"bos": True},
            "tokenized_corpus.bos = true, but .* names no bos_token",
        ),
        (
            {"bos_token": BOS},
            {"eos": True},
            "tokenized_corpus.eos = true, but .* names no eos_token",
        ),
        (
            {"bos_token": {"content": "<begin>"}},
            {"bos": True},
            "names '<begin>' as bos_token, which is no token of",
        ),
        ({}, {}, "tokenized_corpus.bos = true"),
    ],
)
def test_a_special_token_that_the_tokenizer_lacks_is_refused_before_any_corpus_is_read(
    config: dict[str, Any], special: dict[str, bool], said: str
) -> None:
    write_model(**config)
    set_params("model", **special)
    with pytest.raises(UserError, match=said):
        tokenizer.run()
    assert not Path("data/tokenizer").exists()


def test_special_tokens_that_no_document_carries_may_be_missing() -> None:
    write_model(bos_token=None, eos_token={"content": EOS})
    set_params("model", bos=False, eos=True)
    tokenizer.run()
    assert (
        Path("data/tokenizer/tokenizer.json").read_bytes()
        == Path("model/tokenizer.json").read_bytes()
    )


@pytest.mark.parametrize("text", ["{", "[]", '{"bos_token": {}}'])
def test_a_broken_tokenizer_config_is_named(text: str) -> None:
    write_model()
    Path("model/tokenizer_config.json").write_text(text)
    set_params("model")
    with pytest.raises(UserError, match="model/tokenizer_config.json: not a tokenizer_config.json"):
        tokenizer.run()


def test_a_folder_that_is_neither_a_tokenizer_nor_the_corpus_is_named_by_its_key() -> None:
    set_params("nowhere")
    with pytest.raises(UserError, match="tokenizer.source = nowhere: no tokenizer.json there"):
        tokenizer.run()


TEXT = "some words of some text " * 30
USES = {
    "truncation": {"truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0}},
    "from the left": {
        "truncation": {"direction": "Left", "max_length": 8, "strategy": "OnlyFirst", "stride": 2}
    },
    "the second only": {
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "OnlySecond", "stride": 0}
    },
    "of another version": {"truncation": {"max_length": 8, "strategy": {"Unheard": 1}}},
    "padding to the longest": {
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": 64,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": BOS,
        }
    },
    "padding to a length": {
        "padding": {
            "strategy": {"Fixed": 500},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 1,
            "pad_type_id": 0,
            "pad_token": EOS,
        }
    },
    "dropout": {"model": {"dropout": 0.9}},
}


def save_with(use: dict[str, Any]) -> None:
    """Let the model's tokenizer.json carry a use."""
    path = Path("model/tokenizer.json")
    described = json.loads(path.read_text())
    for key, value in use.items():
        inner = isinstance(described[key], dict)
        described[key] = {**described[key], **value} if inner else value
    path.write_text(json.dumps(described))


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_what_a_tokenizer_was_saved_with_changes_no_ids_and_is_said_once_and_left_out(
    use: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(bos_token=BOS, eos_token=EOS)
    texts = [TEXT, "text"]
    wanted = [part.ids for part in load_tokenizer(Path("model")).encode_batch(texts)]
    assert len(wanted[0]) > 100 > len(wanted[1])
    capsys.readouterr()
    save_with(use)
    for _ in range(2):
        opened = load_tokenizer(Path("model").resolve())
        assert [part.ids for part in opened.encode_batch(texts)] == wanted
    assert capsys.readouterr().err.count("model/tokenizer.json: saved with") == 1
    set_params("model")
    tokenizer.run()
    made = json.loads(Path("data/tokenizer/tokenizer.json").read_text())
    assert not made["truncation"] and not made["padding"] and not made["model"].get("dropout")
    saved = json.loads(Path("model/tokenizer.json").read_text())
    assert made["model"]["vocab"] == saved["model"]["vocab"]


def test_a_use_in_the_config_is_left_out_and_the_rest_kept() -> None:
    kept = {
        "bos_token": BOS,
        "eos_token": EOS,
        "model_max_length": 16,
        "padding_side": "left",
        "chat_template": "{{ messages }}",
    }
    write_model(
        **kept, max_length=8, truncation_strategy="longest_first", stride=0, pad_to_multiple_of=8
    )
    set_params("model")
    tokenizer.run()
    assert json.loads(Path("data/tokenizer/tokenizer_config.json").read_text()) == kept


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": []}'])
def test_a_broken_tokenizer_is_named(text: str) -> None:
    write_model()
    Path("model/tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="^model/tokenizer.json: not a tokenizer.json"):
        load_tokenizer(Path("model"))
