"""`python -m benchmarks.data`: the whole data path from compressed JSON Lines to packed rows,
beside two peers.

Ours runs as a user's does, a process for each stage and item, two at a time, each with one
tokenizer thread; so every start of Python is counted. The peers (benchmarks/data_peers.py) get the
same files, cores and tokenizer, in the same run. Then: what a further recipe costs; which part of
the CPU time is reading and tokenising, as the path does them and at the bare speed of the libraries
(zstd, JSON, tokenizer) on one core; memory at 1 and N times the corpus; and whether the bytes are
the same for one worker, for two, and after SIGKILL at random moments. Copies of the corpus differ
in the first words of each document, or they would be duplicates.

--corpus: a folder of *.jsonl.zst, one file a domain. --tokenizer: a folder with tokenizer.json.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml
import zstandard

ROOT = Path(__file__).parents[1]
CHUNK = 81_920
MIB = 1 << 20


@dataclass(kw_only=True)
class Usage:
    """What processes took: CPU seconds by stage, and the highest resident memory of any of them in
    MiB.
    """

    cpu: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)


def project(folder: Path, files: list[Path], tokenizer: Path) -> Path:
    """A folder with a params.yaml in which the stages can run."""
    folder.mkdir(parents=True)
    params = yaml.safe_load((ROOT / "profiles" / "seven-recipes.yaml").read_text())
    params["raw_corpus"] |= {
        "heldout_fraction": 0,
        "domains": {file.name.split(".")[0]: {"source": str(file)} for file in files},
    }
    params["raw_corpus"]["decontamination"]["against"] = str(ROOT / "sources" / "evaluation.jsonl")
    params["tokenizer"]["source"] = str(tokenizer)
    params["mixed_dataset"] |= {
        "weights": "natural",
        "token_budget": 1,
        "recipes": {
            "first": {"cut": 131_072},
            "further": {"cut": 131_072, "keep_ratio": 0.5, "as_far_as_possible": True},
        },
    }
    params["packed_shards"]["chunk_length"] = CHUNK
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def stage(root: Path, usage: Usage, module: str, *items: str) -> None:
    """Run one stage as a process and note what it took."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with (root / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"assets.{module}", *items],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=log,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{module} {' '.join(items)} failed:\n{(root / 'log.txt').read_text()[-2000:]}")
    usage.cpu[module] = usage.cpu.get(module, 0) + used.ru_utime + used.ru_stime
    usage.peak[module] = max(usage.peak.get(module, 0), used.ru_maxrss / 1024)


def documents_to_tokens(root: Path, files: list[Path], workers: int, usage: Usage) -> None:
    """Every domain to token ids, the largest first."""
    stage(root, usage, "token_demand")
    stage(root, usage, "tokenizer")

    def domain(file: Path) -> None:
        for module in ("raw_corpus", "tokenized_corpus"):
            stage(root, usage, module, file.name.split(".")[0])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(domain, sorted(files, key=lambda file: -file.stat().st_size)))


def budget_of_all(root: Path) -> int:
    """Set the token budget to all there is, and return it."""
    total = sum(
        json.loads(path.read_text())["tokens"]
        for path in (root / "metrics/tokenized_corpus").glob("*.json")
    )
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["mixed_dataset"]["token_budget"] = total
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return total


def recipe(root: Path, name: str, usage: Usage) -> tuple[float, float]:
    """Mix and pack one recipe; returns seconds of the index, and of the rows."""
    start = time.monotonic()
    stage(root, usage, "mixed_dataset", name)
    mixed = time.monotonic()
    stage(root, usage, "packed_shards", name)
    return mixed - start, time.monotonic() - mixed


def ours(root: Path, files: list[Path], tokenizer: Path, workers: int) -> dict[str, Any]:
    """The whole path once."""
    project(root, files, tokenizer)
    usage, start = Usage(), time.monotonic()
    documents_to_tokens(root, files, workers, usage)
    tokens = budget_of_all(root)
    recipe(root, "first", usage)
    return {"seconds": time.monotonic() - start, "tokens": tokens, "usage": usage}


def peer(name: str, files: list[Path], tokenizer: Path, workers: int, out: Path) -> float:
    """Seconds of wall clock of one peer, process start included as ours is."""
    start = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.data_peers",
            name,
            "--tokenizer",
            str(tokenizer),
            "--workers",
            str(workers),
            "--out",
            str(out),
            *map(str, files),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    shutil.rmtree(out)
    return time.monotonic() - start


def bare_steps(files: list[Path], tokenizer: Path) -> dict[str, float]:
    """Seconds on one core of each step alone, nothing written: what no path through these libraries
    can beat.
    """
    import gigatoken

    seconds = {"zstd": 0.0, "json": 0.0, "tokenizer": 0.0}
    for file in files:
        fast = gigatoken.Tokenizer(str(tokenizer / "tokenizer.json"))
        clock = time.process_time()
        with file.open("rb") as compressed:
            raw = (
                zstandard.ZstdDecompressor()
                .stream_reader(compressed, read_across_frames=True)
                .read()
            )
        seconds["zstd"] += time.process_time() - clock
        clock = time.process_time()
        texts = [orjson.loads(line)["text"] for line in raw.split(b"\n") if line]
        seconds["json"] += time.process_time() - clock
        del raw
        clock = time.process_time()
        for batch in _batches(texts):
            fast.encode_batch(batch, parallel=False)
        seconds["tokenizer"] += time.process_time() - clock
    return seconds


def own_steps(root: Path, names: list[str]) -> dict[str, float]:
    """CPU seconds of reading (decompressing, parsing) and of tokenising as the stages do them, with
    every other thing they do left out. In a process of its own, for it goes into the folder `root`.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_own_steps, root, names).result()


def _own_steps(root: Path, names: list[str]) -> dict[str, float]:
    os.chdir(root)
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    from assets import raw_corpus, tokenized_corpus
    from assets.document_store import read_documents, utf8_of
    from assets.encoding import Fast, Reference, check_sample
    from assets.tokenizer import load_tokenizer
    from core.params import read_params

    config = read_params("raw_corpus", raw_corpus.RawCorpusConfig)
    seconds = {"reading": 0.0, "tokenising": 0.0}
    for name in names:
        tally = raw_corpus.Tally(list_skipped=lambda row: None)
        clock = time.process_time()
        for _ in raw_corpus.located(config, name, config.domains[name], tally):
            pass
        seconds["reading"] += time.process_time() - clock
        clock = time.process_time()
        reference = Reference(load_tokenizer(tokenized_corpus.TOKENIZER))
        fast = Fast(tokenized_corpus.TOKENIZER)
        seconds["tokenising"] += time.process_time() - clock
        for block in read_documents(Path("data/raw_corpus") / name):
            texts = utf8_of(block)
            clock = time.process_time()
            check_sample(fast, reference, texts, block["id"].to_numpy())
            fast.encode(texts)
            seconds["tokenising"] += time.process_time() - clock
    return seconds


def _batches(texts: list[str]) -> Iterator[list[str]]:
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size > 8 * MIB:
            yield held
            held, size = [], 0
    if held:
        yield held


def copies(files: list[Path], times: int, folder: Path) -> list[Path]:
    """Files of `times` as many documents, no two alike. Made in a process of its own: what this one
    holds would count in the peak memory of its children.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(write_copies, files, times, folder).result()


def write_copies(files: list[Path], times: int, folder: Path) -> list[Path]:
    """What `copies` does."""
    folder.mkdir(parents=True)
    made = []
    for file in files:
        made.append(folder / file.name)
        with file.open("rb") as compressed:
            raw = (
                zstandard.ZstdDecompressor()
                .stream_reader(compressed, read_across_frames=True)
                .read()
            )
        lines = [orjson.loads(line) for line in raw.split(b"\n") if line]
        with (
            made[-1].open("wb") as target,
            zstandard.ZstdCompressor().stream_writer(target) as writer,
        ):
            for number in range(times):
                for record in lines:
                    writer.write(
                        orjson.dumps({**record, "text": f"copy {number}. {record['text']}"}) + b"\n"
                    )
    return made


def hashes(root: Path) -> dict[str, str]:
    """Every record, which holds the hash of every file: path -> content."""
    return {
        str(path.relative_to(root)): path.read_text()
        for path in sorted((root / "data").rglob("record.json"))
    }


def killed_and_run_again(
    root: Path, files: list[Path], tokenizer: Path, kills: int
) -> dict[str, str]:
    """The path with SIGKILL at random moments, each stage run again until it ends."""
    project(root, files, tokenizer)
    draw = random.Random(0)
    names = [file.name.split(".")[0] for file in files]
    steps = [
        ("token_demand",),
        ("tokenizer",),
        *(("raw_corpus", name) for name in names),
        *(("tokenized_corpus", name) for name in names),
        ("mixed_dataset", "first"),
        ("packed_shards", "first"),
    ]
    struck = draw.choices(range(len(steps)), k=kills)
    for number, step in enumerate(steps):
        if step[0] == "mixed_dataset":
            budget_of_all(root)
        for _ in range(struck.count(number)):
            process = subprocess.Popen(
                [sys.executable, "-m", f"assets.{step[0]}", *step[1:]],
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(draw.uniform(0.2, 1.5))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        stage(root, Usage(), *step)
    return hashes(root)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT / "../shared/corpus")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "../shared/tokenizer")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--size",
        type=int,
        default=4,
        help="times the corpus in the speed test: copies, which flatter "
        "a tokenizer that remembers words",
    )
    parser.add_argument("--times", type=int, default=8, help="times the corpus in the memory test")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--only", choices=["speed", "memory", "bytes"], help="one part of it")
    options = parser.parse_args()
    files, tokenizer = (
        sorted(options.corpus.resolve().glob("*.jsonl.zst")),
        options.tokenizer.resolve(),
    )
    with tempfile.TemporaryDirectory(prefix="needlework-") as name:
        folder = Path(name)
        if options.only in (None, "speed"):
            sized = copies(files, options.size, folder / "copies") if options.size > 1 else files
            speed(folder, sized, tokenizer, options.workers)
            shutil.rmtree(folder / "copies", ignore_errors=True)
        if options.only in (None, "memory"):
            memory(folder, files, tokenizer, options.workers, options.times)
        if options.only in (None, "bytes"):
            same_bytes(folder, files, tokenizer, options.kills)


def speed(folder: Path, files: list[Path], tokenizer: Path, workers: int) -> None:
    """Ours, the peers, a further recipe, and where the time goes."""
    run = ours(folder / "ours", files, tokenizer, workers)
    usage: Usage = run["usage"]
    index, rows = min(recipe(folder / "ours", "further", Usage()) for _ in range(2))
    bare = bare_steps(files, tokenizer)
    own = own_steps(folder / "ours", [file.name.split(".")[0] for file in files])
    shutil.rmtree(folder / "ours")
    others = {
        name: peer(name, files, tokenizer, workers, folder / name)
        for name in ("datatrove", "group_texts")
    }
    print(
        f"{run['tokens']:,} tokens from {sum(file.stat().st_size for file in files) / 1e6:.0f} MB "
        "of .jsonl.zst to "
        f"rows of {CHUNK:,}, {workers} workers, wall clock"
    )
    print(
        f"{'ours':16}{run['seconds']:8.1f} s{run['tokens'] / run['seconds'] / 1e6:8.2f} M tokens/s"
    )
    for name, seconds in others.items():
        print(
            f"{name:16}{seconds:8.1f} s{run['tokens'] / seconds / 1e6:8.2f} M tokens/s   ours is "
            f"{seconds / run['seconds']:.1f} times as fast"
        )
    print(
        f"a further recipe: its index {index:.1f} s ({index / run['seconds']:.1%} of the first), "
        f"its rows {rows:.1f} s ({rows / run['seconds']:.1%})"
    )
    cpu = sum(usage.cpu.values())
    print(
        "\nCPU seconds by stage: "
        f"{', '.join(f'{name} {value:.1f}' for name, value in usage.cpu.items())}; {cpu:.1f}"
    )
    for title, steps in (("as the path does them", own), ("bare, by the libraries alone", bare)):
        print(
            f"{title}: {', '.join(f'{name} {value:.1f}' for name, value in steps.items())}; "
            "together "
            f"{sum(steps.values()):.1f} = {sum(steps.values()) / cpu:.0%} of the path's CPU"
        )


def memory(folder: Path, files: list[Path], tokenizer: Path, workers: int, times: int) -> None:
    """Peak resident memory by stage, at 1 and `times` times the corpus."""
    print("\npeak resident memory, MiB, any process of the stage")
    peaks = {}
    for number in (1, times):
        larger = copies(files, number, folder / f"copies{number}")
        run = ours(folder / f"ours{number}", larger, tokenizer, workers)
        peaks[number] = run["usage"].peak
        shutil.rmtree(folder / f"ours{number}")
        shutil.rmtree(folder / f"copies{number}")
        print(
            f"  {number} x: {run['tokens']:,} tokens, {run['seconds']:.1f} s, "
            f"{run['tokens'] / run['seconds'] / 1e6:.2f} M tokens/s"
        )
    for module, low in peaks[1].items():
        print(f"  {module:18}{low:8.0f}{peaks[times][module]:8.0f}")


def same_bytes(folder: Path, files: list[Path], tokenizer: Path, kills: int) -> None:
    """One worker, two workers, and a path struck down again and again."""
    results = []
    for workers in (1, 2):
        ours(folder / f"workers{workers}", files, tokenizer, workers)
        results.append(hashes(folder / f"workers{workers}"))
        shutil.rmtree(folder / f"workers{workers}")
    results.append(killed_and_run_again(folder / "killed", files, tokenizer, kills))
    print(
        f"\nsame bytes: 1 and 2 workers {results[0] == results[1]}, after {kills} SIGKILLs "
        f"{results[0] == results[2]} ({len(results[0])} artefacts)"
    )


if __name__ == "__main__":
    main()
