"""A config.json that is read as JSON has the values that transformers reads in it."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig

from core.errors import UserError
from training.config_json import Dimensions, PlainLlama, plain_llama, read_dimensions
from training.flops import shape_of
from training.job import shape_at
from training.model import read_config

ROOT = Path(__file__).parents[2]
SMALLEST = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def model(folder: Path, **changes: Any) -> Path:
    """A folder with the smallest plain config.json and `changes`; ... leaves a key out."""
    values = {key: value for key, value in {**SMALLEST, **changes}.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
        {"num_key_value_heads": None, "head_dim": None},
        {"rope_theta": 500000.0, "rope_scaling": None, "torch_dtype": "bfloat16"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}},
        {"bos_token_id": 1, "eos_token_id": 2, "architectures": ["LlamaForCausalLM"]},
        {"_name_or_path": "meta-llama/Llama-2-7b-hf", "torch_dtype": "float16"},
        {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"a": "b"}},
    ],
)
def test_a_plain_llama_has_the_shape_that_transformers_reads(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain = plain_llama(model(tmp_path, **changes))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert plain is not None
    assert shape_of(plain) == shape_of(theirs)
    assert plain.vocab_size == theirs.get_text_config().vocab_size


def test_what_save_pretrained_writes_of_a_llama_is_plain(tmp_path: Path) -> None:
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, num_hidden_layers=2)
    config.save_pretrained(tmp_path)
    plain = plain_llama(tmp_path)
    assert plain is not None and shape_of(plain) == shape_of(read_config(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "qwen3"},
        {"vocab_size": ...},
        {"tie_word_embeddings": ...},
        {"vocab_size": "300"},
        {"vocab_size": True},
        {"vocab_size": 0},
        {"hidden_size": 66},
        {"num_hidden_layers": 2.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
        {"text_config": {"vocab_size": 500}},
        {"auto_map": {"AutoConfig": "mine.Config"}},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_what_is_not_plain_is_left_to_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert plain_llama(model(tmp_path, **changes)) is None


@pytest.mark.parametrize(
    "key", [field.alias or name for name, field in PlainLlama.model_fields.items()]
)
def test_transformers_reads_the_same_from_every_plain_key(tmp_path: Path, key: str) -> None:
    for value in (None, True, 0, 1, -1, 4, 1.0, 1e400, "x", "", [], [1], ["x"], {}, {"x": 1}):
        plain = plain_llama(model(tmp_path, **{key: value}))
        if plain is not None:
            theirs = read_config(tmp_path)
            assert (shape_of(plain), plain.vocab_size) == (shape_of(theirs), theirs.vocab_size)


def test_a_value_of_a_wrong_type_is_a_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json: transformers cannot read it: .*rms_norm_eps"):
        read_config(model(tmp_path, rms_norm_eps=1))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "llama"}', "\ufeff{}"])
def test_a_file_that_is_no_config_is_left_to_transformers(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert plain_llama(tmp_path) is None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "models").glob("*.json")), ids=lambda path: path.stem
)
def test_figures_have_the_shape_that_transformers_reads(path: Path) -> None:
    assert read_dimensions(path, Dimensions) is not None
    assert shape_at(path.with_suffix("")) == shape_of(LlamaConfig.from_json_file(path))
