"""Token ids of one domain, once: every later length is an exact token count, never characters divided by 3.68.

Special tokens are added here by policy (`bos`, `eos`), not by the tokenizer's own template, so every domain and every
tokenizer gets the same treatment. Costs 2 bytes a token on disk (4 for vocabularies above 65,536).
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from assets.progress import Progress
from assets.stage import Config, UserError, command, output, read_params
from assets.token_store import FILE, schema
from assets.tokenizer import bos_eos_ids, load_tokenizer

DOCUMENTS_AT_ONCE = 512


class TokenizedCorpusConfig(Config):
    """Which special tokens a document carries."""

    bos: bool = True
    """Begin every document with the tokenizer's begin token."""
    eos: bool = False
    """End every document with its end token."""


def run(name: str) -> None:
    """Make data/tokenized_corpus/NAME."""
    config = read_params("tokenized_corpus", TokenizedCorpusConfig)
    folder = Path("data/tokenizer")
    tokenizer = load_tokenizer(folder)
    bos, eos = bos_eos_ids(folder, tokenizer)
    prefix = _special(bos, config.bos, "bos", folder)
    suffix = _special(eos, config.eos, "eos", folder)
    source = pq.ParquetFile(Path("data/raw_corpus") / name / "documents.parquet")
    with output("tokenized_corpus", name) as out:
        progress = Progress(name, source.metadata.num_rows, "doc")
        described = schema(tokenizer.get_vocab_size())
        documents, tokens = 0, 0
        with pa.OSFile(str(out.folder / FILE), "wb") as file, pa.ipc.new_stream(file, described) as writer:
            for batch in source.iter_batches(batch_size=DOCUMENTS_AT_ONCE):
                encoded = encode(tokenizer, batch["text"].to_pylist(), prefix, suffix)
                writer.write_batch(pa.RecordBatch.from_arrays(
                    [batch["id"], batch["split"], _as_lists(encoded, described.field("input_ids").type)],
                    schema=described))
                documents, tokens = documents + len(encoded), tokens + sum(map(len, encoded))
                progress.add(len(encoded))
        progress.close()
        out.facts = out.metrics = {"documents": documents, "tokens": tokens}


def encode(tokenizer: Tokenizer, texts: list[str], prefix: list[int], suffix: list[int]) -> list[list[int]]:
    """Token ids of each text between `prefix` and `suffix`."""
    return [prefix + encoding.ids + suffix
            for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _special(token: int | None, wanted: bool, name: str, folder: Path) -> list[int]:
    if not wanted:
        return []
    if token is None:
        raise UserError(f"tokenized_corpus.{name} = true, but {folder}/tokenizer_config.json names no {name}_token. "
                        f"Set it to false, or name the token there.")
    return [token]


def _as_lists(encoded: list[list[int]], kind: pa.DataType) -> pa.LargeListArray:
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    values = np.fromiter((token for ids in encoded for token in ids), kind.value_type.to_pandas_dtype(), offsets[-1])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)


if __name__ == "__main__":
    command(run, "domain")
