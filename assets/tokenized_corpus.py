"""Token ids of one domain, once: every later length is an exact token count, never characters
divided by 3.68.

Special tokens are added here by policy (`bos`, `eos`), not by the tokenizer's own template and not
because a text says "</s>", so every domain and every tokenizer gets the same treatment. Costs 2
bytes a token on disk (4 where the largest id is 65,536 or more). Memory holds one block of
documents. Threads (RAYON_NUM_THREADS) change the speed and nothing else.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.document_store import read_documents, utf8_of
from assets.encoding import (
    FAST_IS_HERE,
    Fast,
    Ids,
    IdsDiffer,
    Reference,
    check_sample,
    check_specials,
)
from assets.token_store import FILE, Tokens, schema
from assets.tokenizer import Special, load_tokenizer, special_ids
from core.command import command
from core.errors import UserError
from core.params import Config, read_params
from core.progress import Progress
from core.sealed import RECORD, output, read_json

TOKENIZER = Path("data/tokenizer")


class TokenizedCorpusConfig(Special):
    """Which special tokens a document carries, and nothing else."""

    model_config = Config.model_config


def run(name: str) -> None:
    """Make data/tokenized_corpus/NAME."""
    config = read_params("tokenized_corpus", TokenizedCorpusConfig)
    tokenizer = load_tokenizer(TOKENIZER)
    bos, eos = special_ids(TOKENIZER, tokenizer, config)
    source = Path("data/raw_corpus") / name
    described = schema(max(tokenizer.get_vocab().values()))
    reference = Reference(tokenizer)
    with output("tokenized_corpus", name) as out:
        for fast in _fast_first(TOKENIZER):
            try:
                if fast is not None:
                    check_specials(fast, reference)
                counts = write(source, fast, reference, bos, eos, described, out.folder / FILE)
                out.unused |= set() if fast else {"gigatoken"}
                break
            except IdsDiffer as error:
                print(
                    f"gigatoken gives other ids than tokenizers ({error}): all again with "
                    "tokenizers",
                    file=sys.stderr,
                )
        out.facts = out.metrics = counts


def _fast_first(folder: Path) -> Iterator[Fast | None]:
    """The fast tokenizer if it can be had, and None for the reference."""
    if not FAST_IS_HERE:
        print(
            "tokenizers at work; gigatoken, several times faster, comes with the extra `fast`",
            file=sys.stderr,
        )
    else:
        try:
            yield Fast(folder)
        except Exception as error:  # whatever it says, the reference can do the work
            print(
                f"tokenizers at work: gigatoken cannot read this tokenizer ({error})",
                file=sys.stderr,
            )
    yield None


def write(
    source: Path,
    fast: Fast | None,
    reference: Reference,
    bos: int | None,
    eos: int | None,
    described: pa.Schema,
    path: Path,
) -> dict[str, int]:
    """Encode the documents of `source` into `path`; returns how many documents and tokens. Raises
    IdsDiffer.
    """
    kind = described.field("input_ids").type
    progress = Progress("documents", int(read_json(source / RECORD)["documents"]), "doc")
    documents = tokens = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, described) as writer:
        for block in read_documents(source):
            texts = utf8_of(block)
            if fast is not None and texts:
                check_sample(fast, reference, texts, block["id"].to_numpy())
            offsets, ids = with_special(
                (fast or reference).encode(texts), bos, eos, kind.value_type.to_pandas_dtype()
            )
            lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids), type=kind)
            writer.write_batch(
                pa.RecordBatch.from_arrays([block["id"], block["heldout"], lists], schema=described)
            )
            documents, tokens = documents + len(texts), tokens + len(ids)
            progress.add(len(texts))
    progress.close()
    return {"documents": documents, "tokens": tokens}


def with_special(
    each: Sequence[Ids], bos: int | None, eos: int | None, kind: type[np.uint16 | np.uint32]
) -> tuple[NDArray[np.int64], Tokens]:
    """All documents end to end, with `bos` before and `eos` after each where they are not None:
    offsets, int64[documents + 1], and the tokens, of that kind. Raises UserError where an id
    doesn't fit it.
    """
    marks = (bos is not None) + (eos is not None)
    offsets = np.cumsum([0, *(len(ids) + marks for ids in each)], dtype=np.int64)
    tokens = np.empty(
        int(offsets[-1]), np.uint32
    )  # of any id: cast at once, a larger one would become another token
    first = int(bos is not None)
    for start, ids in zip(offsets.tolist(), each, strict=False):
        tokens[start + first : start + first + len(ids)] = ids
    if bos is not None:
        tokens[offsets[:-1]] = bos
    if eos is not None:
        tokens[offsets[1:] - 1] = eos
    largest = int(tokens.max(initial=0))
    if largest > np.iinfo(kind).max:
        raise UserError(
            f"token id {largest:,} is larger than any in {TOKENIZER}/tokenizer.json, by which ids "
            "take "
            f"{np.dtype(kind).itemsize} bytes. Check that file against the base model's, then: "
            "python -m orchestration.repro tokenizer"
        )
    return offsets, tokens.astype(kind, copy=False)


if __name__ == "__main__":
    command(run, "domain")
