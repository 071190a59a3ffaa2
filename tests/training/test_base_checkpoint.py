"""The base is a whole model folder that can be trained, or it is refused with the key that names it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from worlds import VOCABULARY, tiny

from assets.stage import UserError
from assets.token_store import FILE, schema
from assets.tokenizer import train_bpe
from training import base_checkpoint
from training.batches import document_rows
from training.model import load_model


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder without a tokenizer, and a graph whose tokenizer has as many tokens as the model knows."""
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
    Path("params.yaml").write_text(yaml.safe_dump({"base_checkpoint": {"source": source, **section},
                                                   "raw_corpus": {"domains": {"mine": {}}}}))


def test_a_base_without_a_tokenizer_gets_the_graphs(base: Path) -> None:
    (base / "tokenizer_config.json").write_text('{"part": "of another"}')
    base_checkpoint.run()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert Path("data/base_checkpoint", name).read_bytes() == Path("data/tokenizer", name).read_bytes()
    assert load_model(Path("data/base_checkpoint")).config.vocab_size == VOCABULARY


def test_a_tokenizer_with_an_id_beyond_the_models_rows_is_refused_and_the_last_id_is_not(base: Path) -> None:
    set_tokenizer(VOCABULARY + 1)
    with pytest.raises(UserError, match=f"base_checkpoint.source = model: .*vocab_size = {VOCABULARY}, but .*"
                                        f"tokenizer.source gives ids up to {VOCABULARY}"):
        base_checkpoint.run()
    set_tokenizer(VOCABULARY)
    base_checkpoint.run()


def test_a_base_with_another_tokenizer_is_refused(base: Path) -> None:
    train_bpe(iter(["word " * 9]), 300).save(str(base / "tokenizer.json"))
    with pytest.raises(UserError, match="base_checkpoint.source = model: .*not the tokenizer that made"):
        base_checkpoint.run()


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


@pytest.mark.parametrize(("harm", "said"), [
    (cut_short, "broken or cut short"),
    (of_another("intermediate_size", 96), r"not of one model: .*is \[48, 32\] there and \[96, 32\] by config.json"),
    (of_another("num_hidden_layers", 3), r"not of one model: model.layers.2.* is not there"),
    (lambda model: (model / "model.safetensors").unlink(), "no file named model.safetensors"),
    (lambda model: (model / "config.json").write_text("{"), "transformers cannot read it"),
    (lambda model: (model / "config.json").unlink(), "no config.json there. Name a transformers folder"),
    (lambda model: model.rename("elsewhere"), "no such folder"),
])
def test_a_folder_that_is_no_whole_model_is_told_by_the_users_key_and_leaves_nothing(
        base: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(base)
    with pytest.raises(UserError, match=f"(?s)^base_checkpoint.source = model: .*{said}") as told:
        base_checkpoint.run()
    assert "partial" not in str(told.value)
    assert not Path("data/base_checkpoint").exists()


def test_a_base_that_is_to_be_pretrained_needs_acts(base: Path) -> None:
    set_params("data/tokenized_corpus")
    with pytest.raises(UserError, match="base_checkpoint.acts is empty"):
        base_checkpoint.run()


def test_a_domain_left_behind_gives_no_rows_to_pretrain_on(tmp_path: Path) -> None:
    for number, name in enumerate(("mine", "left")):
        (tmp_path / name).mkdir()
        described = schema(VOCABULARY)
        batch = pa.RecordBatch.from_pydict({"id": [1, 2], "heldout": [False, False],
                                            "input_ids": [[number] * 20, [number] * 20]}, described)
        with pa.OSFile(str(tmp_path / name / FILE), "wb") as file, pa.ipc.new_stream(file, described) as writer:
            writer.write_batch(batch)
    assert set(np.unique(document_rows(tmp_path, ["mine"], 8, 0))) == {0}
    assert set(np.unique(document_rows(tmp_path, ["mine", "left"], 8, 0))) == {0, 1}
