"""A world to train in: a Llama of 12,000 parameters, twelve rows of two documents each, and its
parameters.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from training.model import make_reproducible

LENGTH, VOCABULARY = 32, 40
SOURCE = pa.struct([("source", pa.string()), ("start", pa.int32()), ("end", pa.int32())])


def tiny(seed: int = 0, feed_forward: int = 48, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """Two layers, four heads that share two keys and values."""
    make_reproducible(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=feed_forward,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
            tie_word_embeddings=True,
        )
    )


def write_rows(folder: Path, count: int = 12) -> None:
    """Rows of LENGTH ids in two shards; each row holds one document up to a third of it, and
    another.
    """
    folder.mkdir(parents=True)
    kind = pa.list_(pa.uint16(), LENGTH)
    schema = pa.schema([("input_ids", kind), ("source", pa.list_(SOURCE))])
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (count, LENGTH)).astype(np.uint16)
    for number, part in enumerate(np.array_split(ids, 2)):
        spans = [
            [
                {"source": "c4", "start": 0, "end": 10},
                {"source": "book", "start": 10, "end": LENGTH},
            ]
        ] * len(part)
        with (
            pa.OSFile(str(folder / f"train-{number:05d}.arrow"), "wb") as file,
            pa.ipc.new_stream(file, schema) as writer,
        ):
            writer.write_batch(
                pa.RecordBatch.from_arrays(
                    [
                        pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), type=kind),
                        pa.array(spans, pa.list_(SOURCE)),
                    ],
                    schema=schema,
                )
            )
    (folder / "record.json").write_text(f'{{"rows": {count}}}')


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the world in a folder of its own and go there; the arguments override parts of the
    `checkpoint` section.
    """

    def make(**overrides: Any) -> Path:
        root = tmp_path / f"project{len(list(tmp_path.iterdir()))}"
        base = root / "data/base_checkpoint"
        base.mkdir(parents=True)
        tiny().save_pretrained(base)
        (base / "record.json").write_text('{"base_context": 16}')
        write_rows(root / "data/packed_shards/rows")
        optimizer = {
            "learning_rate": 1e-2,
            "batch_tokens": 4 * LENGTH,
            "micro_batch_tokens": 2 * LENGTH,
            **overrides.pop("optimizer", {}),
        }
        section = {
            "seed": 0,
            "tokens": 6 * 4 * LENGTH,
            "context": LENGTH,
            "precision": "fp32",
            "optimizer": optimizer,
            "models": {
                "model": {
                    "source": "data/packed_shards/rows",
                    "rope": {"base": 50000},
                    "snapshots": [2 * 4 * LENGTH],
                }
            },
            **overrides,
        }
        (root / "params.yaml").write_text(yaml.safe_dump({"checkpoint": section}))
        monkeypatch.chdir(root)
        return root

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As in the stages."""
    torch.set_num_threads(1)
