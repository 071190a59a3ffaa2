"""`python -m benchmarks.data`: the whole data path from compressed JSON Lines to packed rows,
beside two peers.

Ours runs as a user runs it: a process for each stage and item, two at a time, each with one
tokenizer thread. So every start of Python is counted. The peers (benchmarks/data_peers.py) get the
same files, cores and tokenizer, in the same run. Then it measures:

- what a further recipe costs;
- which part of the CPU time is reading and tokenising, as the path does them, and by the libraries
  alone (zstd, JSON, tokenizer) on one core;
- memory at 1 and N times the corpus;
- whether the bytes are the same for one worker, for two, and after SIGKILL at random moments.

Copies of the corpus differ in the first words of each document, or they would be duplicates.

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
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml
import zstandard

ROOT = Path(__file__).parents[1]
CHUNK = 81_920  # the paper's row for a 7B
MIB = 1 << 20


@dataclass(kw_only=True)
class Usage:
    """CPU seconds by stage, and the highest resident memory of any of its processes in MiB."""

    cpu: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)


def project(folder: Path, files: list[Path], tokenizer: Path) -> Path:
    """A folder with a params.yaml in which the stages can run."""
    folder.mkdir(parents=True)
    params = yaml.safe_load((ROOT / "profiles" / "seven-recipes.yaml").read_text())

    domains = {domain_of(file): {"source": str(file)} for file in files}
    # Nothing is held out: the peers hold nothing out.
    params["raw_corpus"] |= {"heldout_fraction": 0, "domains": domains}
    params["raw_corpus"]["decontamination"]["against"] = str(ROOT / "sources" / "evaluation.jsonl")
    params["tokenizer"]["source"] = str(tokenizer)

    params["mixed_dataset"] |= {
        "weights": "natural",
        # Replaced by budget_of_all once the tokens are counted.
        "token_budget": 1,
        "recipes": {
            "first": {"cut": 131_072},
            "further": {
                "cut": 131_072,
                "keep_ratio": 0.5,
                "as_far_as_possible": True,
            },
        },
    }
    params["packed_shards"]["chunk_length"] = CHUNK
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return folder


def domain_of(file: Path) -> str:
    """The domain that a file of the corpus holds: its name without the endings."""
    return file.name.split(".")[0]


def stage(root: Path, usage: Usage, module: str, *items: str) -> None:
    """Run one stage as a process and add what it took to `usage`."""
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
        # wait4 gives the usage of this one child; getrusage would add up all of them.
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)

    if process.returncode:
        sys.exit(f"{module} {' '.join(items)} failed:\n{(root / 'log.txt').read_text()[-2000:]}")
    usage.cpu[module] = usage.cpu.get(module, 0) + used.ru_utime + used.ru_stime
    # Linux gives KiB.
    usage.peak[module] = max(usage.peak.get(module, 0), used.ru_maxrss / 1024)


def documents_to_tokens(root: Path, files: list[Path], workers: int, usage: Usage) -> None:
    """Make the token ids of every domain."""
    stage(root, usage, "token_demand")
    stage(root, usage, "tokenizer")

    def domain(file: Path) -> None:
        for module in ("raw_corpus", "tokenized_corpus"):
            stage(root, usage, module, domain_of(file))

    # The largest first, so that no worker ends long after the others.
    largest_first = sorted(files, key=lambda file: -file.stat().st_size)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(domain, largest_first))


def budget_of_all(root: Path) -> int:
    """Set the token budget to the tokens of the whole corpus, and return it."""
    total = 0
    for path in (root / "metrics/tokenized_corpus").glob("*.json"):
        total += json.loads(path.read_text())["tokens"]

    params = yaml.safe_load((root / "params.yaml").read_text())
    params["mixed_dataset"]["token_budget"] = total
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return total


def recipe(root: Path, name: str, usage: Usage) -> tuple[float, float]:
    """Mix and pack one recipe. Returns the seconds of the index, and of the rows."""
    start = time.monotonic()
    stage(root, usage, "mixed_dataset", name)
    mixed = time.monotonic()
    stage(root, usage, "packed_shards", name)
    return mixed - start, time.monotonic() - mixed


def ours(root: Path, files: list[Path], tokenizer: Path, workers: int) -> dict[str, Any]:
    """The whole path once: seconds, tokens and usage."""
    project(root, files, tokenizer)

    usage, start = Usage(), time.monotonic()
    documents_to_tokens(root, files, workers, usage)
    tokens = budget_of_all(root)
    recipe(root, "first", usage)
    return {
        "seconds": time.monotonic() - start,
        "tokens": tokens,
        "usage": usage,
    }


def peer(
    name: str,
    files: list[Path],
    tokenizer: Path,
    workers: int,
    out: Path,
) -> float:
    """Seconds of wall clock of one peer, with the start of its process, as for ours."""
    command = [sys.executable, "-m", "benchmarks.data_peers", name]
    command += ["--tokenizer", str(tokenizer)]
    command += ["--workers", str(workers)]
    command += ["--out", str(out)]
    command += [str(file) for file in files]

    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
    shutil.rmtree(out)
    return time.monotonic() - start


def bare_steps(files: list[Path], tokenizer: Path) -> dict[str, float]:
    """CPU seconds of each step alone on one core, with nothing written.

    No path through these libraries can be faster.
    """
    # Imported here: only this part needs it, and it is an extra.
    import gigatoken

    seconds = {
        "zstd": 0.0,
        "json": 0.0,
        "tokenizer": 0.0,
    }
    for file in files:
        # One for each file, as a stage opens one for each domain: it caches words.
        fast = gigatoken.Tokenizer(str(tokenizer / "tokenizer.json"))

        clock = time.process_time()
        raw = _unpacked(file)
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


def _unpacked(file: Path) -> bytes:
    """The bytes of a .zst file, of all its frames."""
    with file.open("rb") as compressed:
        reader = zstandard.ZstdDecompressor().stream_reader(compressed, read_across_frames=True)
        return reader.read()


def own_steps(root: Path, names: list[str]) -> dict[str, float]:
    """CPU seconds of reading (decompressing, parsing) and of tokenising, as the stages do them.

    All else that they do is left out.
    """
    # In a process of its own, because it changes to the folder `root`.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_own_steps, root, names).result()


def _own_steps(root: Path, names: list[str]) -> dict[str, float]:
    os.chdir(root)
    # Before the imports: the libraries read these when they are loaded.
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
    """Texts of some 8 MiB at a time, or the ids of all of them would be in memory at once."""
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
    """Files of `times` as many documents, no two alike."""
    # In a process of its own: what this one holds would count in the peak of its children.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(write_copies, files, times, folder).result()


def write_copies(files: list[Path], times: int, folder: Path) -> list[Path]:
    """What `copies` does."""
    folder.mkdir(parents=True)
    made = []
    for file in files:
        made.append(folder / file.name)
        records = [orjson.loads(line) for line in _unpacked(file).split(b"\n") if line]
        compressor = zstandard.ZstdCompressor()
        with made[-1].open("wb") as target, compressor.stream_writer(target) as writer:
            for number in range(times):
                for record in records:
                    copy = {**record, "text": f"copy {number}. {record['text']}"}
                    writer.write(orjson.dumps(copy) + b"\n")
    return made


def hashes(root: Path) -> dict[str, str]:
    """Every record, which holds the hash of every file: path -> content."""
    found = {}
    for path in sorted((root / "data").rglob("record.json")):
        found[str(path.relative_to(root))] = path.read_text()
    return found


def killed_and_run_again(
    root: Path, files: list[Path], tokenizer: Path, kills: int
) -> dict[str, str]:
    """The path with SIGKILL at random moments, each stage run again until it ends."""
    project(root, files, tokenizer)
    names = [domain_of(file) for file in files]
    steps: list[tuple[str, ...]] = [("token_demand",), ("tokenizer",)]
    steps += [("raw_corpus", name) for name in names]
    steps += [("tokenized_corpus", name) for name in names]
    steps += [("mixed_dataset", "first"), ("packed_shards", "first")]

    draw = random.Random(0)
    killed = draw.choices(range(len(steps)), k=kills)
    for number, step in enumerate(steps):
        if step[0] == "mixed_dataset":
            budget_of_all(root)
        for _ in range(killed.count(number)):
            # Python starts in 0.2 s, and the longest stage of one domain takes some seconds.
            kill_after(root, step, draw.uniform(0.2, 1.5))
        stage(root, Usage(), *step)
    return hashes(root)


def kill_after(root: Path, step: tuple[str, ...], seconds: float) -> None:
    """Start a stage and kill it after some seconds, if it has not ended."""
    module, *items = step
    process = subprocess.Popen(
        [sys.executable, "-m", f"assets.{module}", *items],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


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
        help="times the corpus in the speed test; copies favour a tokenizer that caches words",
    )
    parser.add_argument(
        "--times",
        type=int,
        default=8,
        help="times the corpus in the memory test",
    )
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--only", choices=["speed", "memory", "bytes"], help="one part of it")
    options = parser.parse_args()

    files = sorted(options.corpus.resolve().glob("*.jsonl.zst"))
    tokenizer = options.tokenizer.resolve()
    with tempfile.TemporaryDirectory(prefix="needlework-") as name:
        folder = Path(name)
        if options.only in (None, "speed"):
            sized = copies(files, options.size, folder / "copies") if options.size > 1 else files
            speed(folder, sized, tokenizer, options.workers)
            shutil.rmtree(folder / "copies", ignore_errors=True)
        if options.only in (None, "memory"):
            memory(
                folder,
                files,
                tokenizer,
                options.workers,
                options.times,
            )
        if options.only in (None, "bytes"):
            same_bytes(folder, files, tokenizer, options.kills)


def speed(folder: Path, files: list[Path], tokenizer: Path, workers: int) -> None:
    """Ours, the peers, a further recipe, and where the time goes."""
    run = ours(folder / "ours", files, tokenizer, workers)
    usage: Usage = run["usage"]
    # The better of two: other work on the machine comes and goes.
    index, rows = min(recipe(folder / "ours", "further", Usage()) for _ in range(2))
    bare = bare_steps(files, tokenizer)
    own = own_steps(folder / "ours", [domain_of(file) for file in files])
    shutil.rmtree(folder / "ours")

    others = {}
    for name in ("datatrove", "group_texts"):
        others[name] = peer(
            name,
            files,
            tokenizer,
            workers,
            folder / name,
        )

    tokens, whole = run["tokens"], run["seconds"]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(
        f"{tokens:,} tokens from {megabytes:.0f} MB of .jsonl.zst to rows of {CHUNK:,}, "
        f"{workers} workers, wall clock"
    )
    print(_rate_line("ours", whole, tokens))
    for name, seconds in others.items():
        times = seconds / whole
        print(f"{_rate_line(name, seconds, tokens)}   ours is {times:.1f} times as fast")
    print(
        f"a further recipe: its index {index:.1f} s ({index / whole:.1%} of the first), "
        f"its rows {rows:.1f} s ({rows / whole:.1%})"
    )

    cpu = sum(usage.cpu.values())
    print(f"\nCPU seconds by stage: {_list(usage.cpu)}; {cpu:.1f}")
    for title, steps in (("as the path does them", own), ("bare, by the libraries alone", bare)):
        together = sum(steps.values())
        share = together / cpu
        print(f"{title}: {_list(steps)}; together {together:.1f} = {share:.0%} of the path's CPU")


def _rate_line(name: str, seconds: float, tokens: int) -> str:
    rate = tokens / seconds / 1e6
    return f"{name:16}{seconds:8.1f} s{rate:8.2f} M tokens/s"


def _list(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())


def memory(
    folder: Path,
    files: list[Path],
    tokenizer: Path,
    workers: int,
    times: int,
) -> None:
    """Peak resident memory by stage, at 1 and `times` times the corpus."""
    print("\npeak resident memory, MiB, any process of the stage")
    peaks = {}
    for number in (1, times):
        larger = copies(files, number, folder / f"copies{number}")
        run = ours(folder / f"ours{number}", larger, tokenizer, workers)
        peaks[number] = run["usage"].peak
        shutil.rmtree(folder / f"ours{number}")
        shutil.rmtree(folder / f"copies{number}")
        tokens, seconds = run["tokens"], run["seconds"]
        rate = tokens / seconds / 1e6
        print(f"  {number} x: {tokens:,} tokens, {seconds:.1f} s, {rate:.2f} M tokens/s")

    for module, low in peaks[1].items():
        print(f"  {module:18}{low:8.0f}{peaks[times][module]:8.0f}")


def same_bytes(folder: Path, files: list[Path], tokenizer: Path, kills: int) -> None:
    """Compare one worker, two workers, and a path with kills."""
    results = []
    for workers in (1, 2):
        root = folder / f"workers{workers}"
        ours(root, files, tokenizer, workers)
        results.append(hashes(root))
        shutil.rmtree(root)

    one, two = results
    killed = killed_and_run_again(folder / "killed", files, tokenizer, kills)
    print(
        f"\nsame bytes: 1 and 2 workers {one == two}, after {kills} SIGKILLs {one == killed} "
        f"({len(one)} artefacts)"
    )


if __name__ == "__main__":
    main()
