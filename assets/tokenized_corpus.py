"""Tokenized corpus: the token ids of one domain, so that every later length is an exact count.

Special tokens are added here, as `bos` and `eos` say. The tokenizer's template is not used, and
"</s>" in a text is text. So every domain and every tokenizer gets the same treatment.

The cost: 2 bytes a token on disk, or 4 if the largest id is 65,536 or more. Memory holds one block
of documents. Threads (RAYON_NUM_THREADS) change the speed, not the result.
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
    """Which special tokens a document gets. Other keys are refused."""

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
        # After a difference the loop starts over with the reference, and overwrites the file.
        for fast in _fast_first(TOKENIZER):
            try:
                if fast is not None:
                    check_specials(fast, reference)
                counts = write(source, fast, reference, bos, eos, described, out.folder / FILE)
                out.unused |= set() if fast else {"gigatoken"}
                break
            except IdsDiffer as error:
                print(
                    f"gigatoken gives other ids than tokenizers ({error}): "
                    "starting again with tokenizers",
                    file=sys.stderr,
                )
        out.facts = out.metrics = counts


def _fast_first(folder: Path) -> Iterator[Fast | None]:
    """The fast tokenizer if it can be used, then None, which stands for the reference."""
    if not FAST_IS_HERE:
        print(
            "using tokenizers; gigatoken is several times faster (the extra `fast`)",
            file=sys.stderr,
        )
    else:
        try:
            yield Fast(folder)
        except Exception as error:  # of any type: the reference can do the work
            print(
                f"using tokenizers: gigatoken cannot read this tokenizer ({error})",
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
    """Encode the documents of `source` into `path`. Returns the numbers of documents and tokens.

    fast: None: only the reference is used.
    Raises IdsDiffer if the two give different ids.
    """
    kind = described.field("input_ids").type
    encode = (fast or reference).encode
    progress = Progress("documents", int(read_json(source / RECORD)["documents"]), "doc")
    documents = tokens = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, described) as writer:
        for block in read_documents(source):
            texts = utf8_of(block)
            if fast is not None and texts:
                check_sample(fast, reference, texts, block["id"].to_numpy())

            id_type = kind.value_type.to_pandas_dtype()
            offsets, ids = with_special(encode(texts), bos, eos, id_type)
            lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids), type=kind)
            columns = [block["id"], block["heldout"], lists]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=described))

            documents += len(texts)
            tokens += len(ids)
            progress.add(len(texts))
    progress.close()
    return {"documents": documents, "tokens": tokens}


def with_special(
    each: Sequence[Ids], bos: int | None, eos: int | None, kind: type[np.uint16 | np.uint32]
) -> tuple[NDArray[np.int64], Tokens]:
    """All documents end to end, each with `bos` before it and `eos` after it unless they are None.

    Returns offsets, int64[documents + 1], and the tokens, as `kind`.
    Raises UserError if an id does not fit into `kind`.
    """
    marks = (bos is not None) + (eos is not None)
    offsets = np.cumsum([0, *(len(ids) + marks for ids in each)], dtype=np.int64)

    # 32 bits for now: cast at once, an id that is too large would become another token.
    tokens = np.empty(int(offsets[-1]), np.uint32)
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
            f"token id {largest:,} is larger than any in {TOKENIZER}/tokenizer.json, so it does "
            f"not fit into {np.dtype(kind).itemsize} bytes. Compare that file with the base "
            "model's, then: python -m orchestration.repro tokenizer"
        )
    return offsets, tokens.astype(kind, copy=False)


if __name__ == "__main__":
    command(run, "domain")
