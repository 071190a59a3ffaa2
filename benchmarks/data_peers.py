"""`python -m benchmarks.data_peers group_texts|datatrove ...`: two usual ways from compressed JSON
Lines to token rows.

group_texts: `datasets.map` with the fast `transformers` tokenizer, then `map` with the function
that joins and chops lists, as in the usual training scripts. datatrove: its reader and its document
tokenizer, one task a file; its rows are windows of the file that it writes, so they cost no more.
Both get `--workers` processes with one tokenizer thread each, and batches that suit long documents.
They do only what ours does too. Ours also removes duplicates, decontaminates, splits, mixes, and
hashes what it writes. Prints one line of JSON. datatrove is no dependency of this project:
pip install --no-deps datatrove==0.10.1 loguru humanize
"""

import argparse
import json
import os
import time
from itertools import chain
from pathlib import Path
from typing import Any

# Before the imports below: the libraries read these when they are loaded.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def group_texts(
    files: list[Path],
    tokenizer: Path,
    chunk: int,
    workers: int,
    out: Path,
) -> int:
    """Write rows by `datasets`. Returns how many."""
    import datasets
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(str(tokenizer))

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        encoded = fast(
            batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        return {"input_ids": encoded["input_ids"]}

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = list(chain.from_iterable(batch["input_ids"]))
        # What is left of a batch is dropped, as those scripts do.
        total = len(joined) // chunk * chunk
        rows = [joined[start : start + chunk] for start in range(0, total, chunk)]
        return {"input_ids": rows}

    # One by one: their `meta` differ, and one schema would not fit all.
    parts = []
    for file in files:
        part = datasets.load_dataset(
            "json", data_files=str(file), split="train", cache_dir=str(out / "cache")
        )
        parts.append(part.select_columns("text"))

    texts = datasets.concatenate_datasets(parts)
    tokenized = texts.map(
        tokenize,
        batched=True,
        batch_size=100,
        num_proc=workers,
        remove_columns=["text"],
        writer_batch_size=100,
    )
    rows = tokenized.map(
        group, batched=True, batch_size=1000, num_proc=workers, writer_batch_size=16
    )
    rows.save_to_disk(str(out / "rows"))
    return len(rows)


def datatrove(
    files: list[Path],
    tokenizer: Path,
    chunk: int,
    workers: int,
    out: Path,
) -> int:
    """Write token files by datatrove. Returns how many rows they hold."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    listing = out / "files.txt"
    listing.write_text("\n".join(file.name for file in files))
    pipeline = [
        JsonlReader(str(files[0].parent), paths_file=str(listing), compression="zstd"),
        DocumentTokenizer(
            str(out / "tokens"),
            tokenizer_name_or_path=str(tokenizer / "tokenizer.json"),
            shuffle_documents=False,
            batch_size=100,
        ),
    ]
    LocalPipelineExecutor(
        pipeline=pipeline, tasks=len(files), workers=workers, logging_dir=str(out / "logs")
    ).run()

    size = sum(path.stat().st_size for path in (out / "tokens").glob("*.ds"))
    # Two bytes a token, for a vocabulary below 65,536.
    return size // 2 // chunk


def main() -> None:
    """Run one peer and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=["group_texts", "datatrove"])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--chunk", type=int, default=81_920)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("files", type=Path, nargs="+")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    work = {"group_texts": group_texts, "datatrove": datatrove}[options.peer]
    start = time.monotonic()
    rows = work(
        options.files,
        options.tokenizer,
        options.chunk,
        options.workers,
        options.out,
    )
    print(
        json.dumps(
            {
                "peer": options.peer,
                "rows": rows,
                "seconds": time.monotonic() - start,
            }
        )
    )


if __name__ == "__main__":
    main()
