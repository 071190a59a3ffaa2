"""The base is a complete model folder that can be trained, or refused with its parameter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from transformers import AutoTokenizer
from worlds import VOCABULARY, tiny

from assets.token_store import FILE, schema
from assets.tokenizer import load_tokenizer, train_bpe
from core.errors import UserError
from core.sealed import write_json
from training import base_checkpoint
from training.batches import document_rows
from training.model import load_model, save_model, transformers_tokenizer


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder without a tokenizer, and a graph whose tokenizer has as many tokens as the
    model knows.
    """
    monkeypatch.chdir(tmp_path)
    set_tokenizer(VOCABULARY)
    tiny().save_pretrained("model")
    set_params("model")
    return Path("model")


def set_tokenizer(size: int) -> None:
    """A graph's tokenizer of `size` tokens."""
    Path("data/tokenizer").mkdir(parents=True, exist_ok=True)
    made = json.loads(train_bpe(iter(["word " * 9]), 300).to_str())
    made["model"]["vocab"] = {f"w{number}": number for number in range(size)}
    made |= {"added_tokens": [], "post_processor": None}
    made["model"]["merges"] = []
    Path("data/tokenizer/tokenizer.json").write_text(json.dumps(made))
    Path("data/tokenizer/tokenizer_config.json").write_text("{}")


def set_params(source: str, **section: object) -> None:
    """params.yaml with that base."""
    Path("params.yaml").write_text(
        yaml.safe_dump(
            {
                "base_checkpoint": {"source": source, **section},
                "raw_corpus": {"domains": {"mine": {}}},
            }
        )
    )


def test_a_base_without_a_tokenizer_gets_the_graphs(base: Path) -> None:
    (base / "tokenizer_config.json").write_text('{"part": "of another"}')
    base_checkpoint.run()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (
            Path("data/base_checkpoint", name).read_bytes()
            == Path("data/tokenizer", name).read_bytes()
        )
    assert load_model(Path("data/base_checkpoint")).config.vocab_size == VOCABULARY


def test_an_id_beyond_the_models_embedding_is_refused(
    base: Path,
) -> None:
    set_tokenizer(VOCABULARY + 1)
    with pytest.raises(
        UserError,
        match=f"base_checkpoint.source = model: .*vocab_size = {VOCABULARY}, but .*"
        f"tokenizer.source gives ids up to {VOCABULARY}",
    ):
        base_checkpoint.run()
    set_tokenizer(VOCABULARY)
    base_checkpoint.run()


def test_a_base_with_another_tokenizer_is_refused(base: Path) -> None:
    train_bpe(iter(["word " * 9]), 300).save(str(base / "tokenizer.json"))
    with pytest.raises(
        UserError, match="base_checkpoint.source = model: .*not the tokenizer that made"
    ):
        base_checkpoint.run()


def set_texts_tokenizer(folder: Path, **changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer of 300 tokens in `folder`, with these parts changed; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    made = json.loads(train_bpe(iter(["word <s> " * 9]), 300).to_str()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(made))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return made


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that brings the graph's tokenizer, and has more rows than that has tokens, as many
    models do."""
    monkeypatch.chdir(tmp_path)
    tiny(vocabulary=320).save_pretrained("model")
    set_texts_tokenizer(Path("model"))
    set_texts_tokenizer(Path("data/tokenizer"))
    set_params("model")
    return Path("model")


def test_a_base_with_the_graphs_tokenizer_in_any_form_is_copied(
    read: Path,
) -> None:
    described = json.loads((read / "tokenizer.json").read_text())
    described["model"]["merges"] = [" ".join(pair) for pair in described["model"]["merges"]]
    (read / "tokenizer.json").write_text(json.dumps(described))
    base_checkpoint.run()


def test_another_pre_tokenizer_is_refused_by_its_ids(
    read: Path,
) -> None:
    described = set_texts_tokenizer(read)
    described["pre_tokenizer"]["add_prefix_space"] = False
    (read / "tokenizer.json").write_text(json.dumps(described))
    said = (
        r"^base_checkpoint.source = model: model/tokenizer.json is not the tokenizer that made "
        r".*: the text 'a' has the ids \[\d+\] there and \[\d+, \d+\] here. "
        r"Set tokenizer.source to model."
    )
    with pytest.raises(UserError, match=said):
        base_checkpoint.run()
    assert not Path("data/base_checkpoint").exists()


@pytest.mark.parametrize(
    ("key", "name"), [("bos_token", "</s>"), ("eos_token", "<s>"), ("eos_token", None)]
)
def test_a_base_with_other_begin_or_end_tokens_is_refused(
    read: Path, key: str, name: str | None
) -> None:
    named = {"bos_token": "<s>", "eos_token": "</s>", key: name}
    (read / "tokenizer_config.json").write_text(json.dumps(named))
    said = f"tokenizer_config.json there names the id .* as {key}, and here "
    with pytest.raises(UserError, match=said):
        base_checkpoint.run()


def test_a_base_carries_nothing_of_the_last_use_of_its_tokenizer(read: Path) -> None:
    set_texts_tokenizer(
        read,
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    )
    base_checkpoint.run()
    assert json.loads(Path("data/base_checkpoint/tokenizer.json").read_text())["truncation"] is None


def test_a_base_without_a_tokenizer_is_said_to_be_taken_on_trust(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base_checkpoint.run()
    assert (
        "it brings no tokenizer, so its ids cannot be compared with those"
        in capsys.readouterr().err
    )


def test_a_tokenizer_in_an_older_form_is_compared_too(read: Path) -> None:
    described = json.loads((read / "tokenizer.json").read_text())
    (read / "tokenizer.json").unlink()
    (read / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
    merges = [" ".join(pair) for pair in described["model"]["merges"]]
    (read / "merges.txt").write_text("\n".join(merges) + "\n")
    write_json(
        read / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"}
    )
    said = "model/vocab.json is not the tokenizer .*the text .* remove model/vocab.json"
    with pytest.raises(UserError, match=said):
        base_checkpoint.run()


def test_a_saved_tokenizer_allows_the_models_whole_context(read: Path) -> None:
    write_json(
        read / "tokenizer_config.json",
        {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 16},
    )
    model = tiny(vocabulary=320)
    model.config.max_position_embeddings = 64
    save_model(dict(model.named_parameters()), model.config, read, Path("saved"))
    assert json.loads(Path("saved/tokenizer_config.json").read_text())["model_max_length"] == 64


def test_transformers_tokenizer_gives_our_ids_and_one_bos(read: Path) -> None:
    begins_twice = {
        "type": "TemplateProcessing",
        "pair": [],
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    set_texts_tokenizer(
        read,
        post_processor=begins_twice,
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    )
    (read / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "model_max_length": 4,
                "max_length": 4,
                "padding_side": "left",
            }
        )
    )
    opened, text = transformers_tokenizer(read), "word of words " * 40
    plain = load_tokenizer(read).encode(text, add_special_tokens=False).ids
    assert opened(text).input_ids == [0, *plain]
    assert opened.encode(text, add_special_tokens=False) == plain
    opened.save_pretrained("saved")
    again = AutoTokenizer.from_pretrained("saved", local_files_only=True)
    assert again(text).input_ids == [0, *plain], "as anyone opens what it saves"
    assert len(plain) > 100 and opened.model_max_length > 10**9 and opened.eos_token == "</s>"


def cut_short(model: Path) -> None:
    """As after an interrupted download."""
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def of_another(key: str, value: int) -> Callable[[Path], None]:
    """A config.json that is not of these weights."""

    def change(model: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        assert config[key] != value
        (model / "config.json").write_text(json.dumps({**config, key: value}))

    return change


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_short, "broken or cut short"),
        (
            of_another("intermediate_size", 96),
            r"not of one model: .*is \[48, 32\] there and \[96, 32\] by config.json",
        ),
        (of_another("num_hidden_layers", 3), r"not of one model: model.layers.2.* is not there"),
        (lambda model: (model / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda model: (model / "config.json").write_text("{"), "transformers cannot read it"),
        (
            lambda model: (model / "config.json").unlink(),
            "no config.json there. Name a transformers folder",
        ),
        (lambda model: model.rename("elsewhere"), "no such folder"),
    ],
)
def test_an_incomplete_model_is_reported_and_leaves_nothing(
    base: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(base)
    with pytest.raises(UserError, match=f"(?s)^base_checkpoint.source = model: .*{said}") as raised:
        base_checkpoint.run()
    assert "partial" not in str(raised.value)
    assert not Path("data/base_checkpoint").exists()


def test_a_base_that_is_to_be_pretrained_needs_acts(base: Path) -> None:
    set_params("data/tokenized_corpus")
    with pytest.raises(UserError, match="base_checkpoint.acts is empty"):
        base_checkpoint.run()


def test_a_domain_left_behind_gives_no_rows_to_pretrain_on(tmp_path: Path) -> None:
    for number, name in enumerate(("mine", "left")):
        (tmp_path / name).mkdir()
        described = schema(VOCABULARY)
        batch = pa.RecordBatch.from_pydict(
            {"id": [1, 2], "heldout": [False, False], "input_ids": [[number] * 20, [number] * 20]},
            described,
        )
        with (
            pa.OSFile(str(tmp_path / name / FILE), "wb") as file,
            pa.ipc.new_stream(file, described) as writer,
        ):
            writer.write_batch(batch)
    assert set(np.unique(document_rows(tmp_path, ["mine"], 8, 0))) == {0}
    assert set(np.unique(document_rows(tmp_path, ["mine", "left"], 8, 0))) == {0, 1}
