"""`python -m benchmarks.data_peers group_texts|datatrove ...`: two usual ways from compressed JSON
Lines to token rows.

group_texts: `datasets.map` with the fast `transformers` tokenizer, then `map` with the function
that joins and chops lists, as language-model training scripts have it. datatrove: its reader and
its document tokenizer, one task a file; its rows are windows of the file that it writes, so they
cost nothing more. Both get `--workers` processes with one tokenizer thread each, batches that suit
long documents, and nothing to do that ours does not do; ours also removes duplicates,
decontaminates, splits, mixes and hashes what it writes. Prints one line of JSON. datatrove is none
of this project's dependencies: pip install --no-deps datatrove==0.10.1 loguru humanize
"""

import argparse
import json
import os
import time
from itertools import chain
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def group_texts(files: list[Path], tokenizer: Path, chunk: int, workers: int, out: Path) -> int:
    """Rows on disk by `datasets`; returns how many."""
    import datasets
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(str(tokenizer))

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {
            "input_ids": fast(
                batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False
            )["input_ids"]
        }

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = list(chain.from_iterable(batch["input_ids"]))
        total = len(joined) // chunk * chunk
        return {"input_ids": [joined[start : start + chunk] for start in range(0, total, chunk)]}

    texts = datasets.concatenate_datasets(
        [
            datasets.load_dataset(
                "json", data_files=str(file), split="train", cache_dir=str(out / "cache")
            ).select_columns("text")
            for file in files
        ]
    )  # one by one, for their `meta` differ
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


def datatrove(files: list[Path], tokenizer: Path, chunk: int, workers: int, out: Path) -> int:
    """Token files by datatrove; returns how many rows they hold."""
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
    rows = work(options.files, options.tokenizer, options.chunk, options.workers, options.out)
    print(json.dumps({"peer": options.peer, "rows": rows, "seconds": time.monotonic() - start}))


if __name__ == "__main__":
    main()
