"""What long context cost at short context: multiple-choice tasks, through EleutherAI's harness (extra `eval`).

A task is one of the harness's own by name, which asks the Hub; or a local set: a .jsonl file of questions, or MMLU's
folders of .csv files, dev/ and test/, asked in MMLU's frame with examples of the same subject first. RULER's tasks
take `lengths` and are here too, for a model whose needle is saturated. Where `file` is a folder of data/raw_corpus,
questions are made: which of four values a short passage gave. `drop` is how far a model may fall below `against`; the
comparison and a check in the UI hold it to that.
"""

import csv
import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Self

import pandas as pd
from pydantic import Field, model_validator

from assets.document_store import FILE
from assets.randomness import generator
from assets.sample_corpus import NAMES
from assets.stage import Config, UserError, write_json
from evaluation.subject import Subject, report
from evaluation.texts import read_texts
from training.model import make_reproducible, transformers_tokenizer

LETTERS = "ABCD"
Item = dict[str, Any]
Row = tuple[str, str, float, int]
"""Task, subject, score in percent, questions."""


class Task(Config):
    """One task: of the harness, or local."""

    harness: str | None = None
    """A name the harness knows: mmlu, hellaswag, niah_single_1."""
    file: Path | None = None
    """A .jsonl file of {question, choices, answer, subject}, a folder with dev/ and test/ of MMLU's .csv files, or
    data/raw_corpus/DOMAIN to make questions from held-out documents."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Examples before each question; without it as many as the task itself says (gsm8k: 5; a local one: none)."""
    count: Annotated[int, Field(ge=1)] | None = None
    """The first so many questions of each subject; or how many to make."""
    lengths: tuple[Annotated[int, Field(ge=64)], ...] = ()
    """Context lengths, of RULER's tasks."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.harness is None) == (self.file is None):
            raise ValueError("give either `harness`, a task's name there, or `file`")
        return self


class ShortContextReportConfig(Config):
    """The tasks."""

    seed: int = 0
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    batch: Annotated[int, Field(ge=1)] = 16
    """Requests in one forward pass."""
    against: str | None = None
    """The model of the comparison that others are held against: the base."""
    drop: Annotated[float, Field(ge=0)] = 5.0
    """Points (of 100) that a model may lie below it."""


def measure(subject: Subject, config: ShortContextReportConfig, folder: Path) -> dict[str, Any]:
    """Write scores.csv and short_context.json; returns each task's score in percent."""
    if subject.model is None:
        write_json(folder / "short_context.json", {})
        pd.DataFrame(columns=["task", "subject", "score", "questions"]).to_csv(folder / "scores.csv", index=False)
        return {"not_measured": "an endpoint gives no probabilities"}
    make_reproducible(config.seed)
    rows = [row for name, task in config.tasks.items() for row in _run(subject, name, task, config)]
    table = pd.DataFrame(rows, columns=["task", "subject", "score", "questions"]).round({"score": 3})
    table.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
    weighted = table.assign(sum=table["score"] * table["questions"]).groupby("task", sort=False)[["sum", "questions"]]
    sums = weighted.sum()
    summary = {str(task): {"score": round(float(row["sum"] / row["questions"]), 3), "questions": int(row["questions"])}
               for task, row in sums.iterrows()}
    write_json(folder / "short_context.json", summary)
    return {task: values["score"] for task, values in summary.items()}


def _run(subject: Subject, name: str, task: Task, config: ShortContextReportConfig) -> list[Row]:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise UserError("short_context_report needs lm-eval: pip install 'needlework[eval]'") from None
    tokenizer = transformers_tokenizer(subject.folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    longest = max([subject.context, *task.lengths])
    judge = HFLM(pretrained=subject.model, tokenizer=tokenizer, batch_size=config.batch, max_length=longest,
                 add_bos_token=bool(subject.begin))
    seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        ours = Path(scratch) / "tokenizer"  # RULER opens one by itself
        tokenizer.save_pretrained(ours)
        tasks: list[Any] = [task.harness] if task.harness else _local(name, task, config.seed, Path(scratch))
        try:
            found = simple_evaluate(judge, tasks=tasks, num_fewshot=task.shots, bootstrap_iters=0,
                                    limit=task.count if task.harness else None, log_samples=False,
                                    metadata={"tokenizer": str(ours), "max_seq_lengths": list(task.lengths)}
                                    if task.lengths else None, **seeds)
        except (ConnectionError, FileNotFoundError, LookupError, ImportError, AssertionError) as error:
            raise UserError(f"short_context_report.tasks.{name}: the harness cannot run {task.harness or task.file}: "
                            f"{str(error).splitlines()[0][:200]}. Without the Hub, give a local `file`.") from None
    rows = []
    for part, scores in sorted(found["results"].items()):
        if part in found.get("groups", {}) or part in found.get("group_subtasks", {}):
            continue  # a mean of others
        asked = int(found["n-samples"][part]["effective"])
        rows += [(name, f"{part.removeprefix(f'{name}_')}{suffix}", 100 * value, asked)
                 for suffix, value in _scores(scores, task)]
    return rows


def _scores(scores: Item, task: Task) -> list[tuple[str, float]]:
    """The one accuracy, or for RULER one a length."""
    if task.lengths:
        return [(f" {length}", float(scores[f"{length},none"])) for length in task.lengths
                if f"{length},none" in scores]
    for metric in ("acc,none", "exact_match,none", "acc_norm,none"):
        if metric in scores:
            return [("", float(scores[metric]))]
    raise UserError(f"short_context_report: {task.harness} has no accuracy, only {', '.join(map(str, scores))}.")


def _local(name: str, task: Task, seed: int, scratch: Path) -> list[Item]:
    """Tasks in the harness's own form, one a subject."""
    assert task.file is not None
    sets = _read_sets(task, seed)
    made = []
    for subject, (examples, questions) in sorted(sets.items()):
        files = {}
        for split, items in (("dev", examples), ("test", questions[:task.count])):
            files[split] = str(scratch / f"{name}_{subject}_{split}.jsonl")
            Path(files[split]).write_text("".join(json.dumps(item) + "\n" for item in items))
        lettered = bool(questions[0].get("lettered"))
        topic = subject.replace("_", " ")
        examples_too: Item = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}} if examples else {}
        about = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
        made.append({
            "task": f"{name}_{subject}", "dataset_path": "json",
            "dataset_kwargs": {"data_files": files if examples else {"test": files["test"]},
                               "cache_dir": str(scratch / "cache")},
            "test_split": "test", **examples_too,
            "output_type": "multiple_choice", "description": about if lettered else "",
            "doc_to_text": "{{question}}", "doc_to_choice": "{{shown}}", "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1}})
    return made


def _read_sets(task: Task, seed: int) -> dict[str, tuple[list[Item], list[Item]]]:
    """Examples and questions by subject. Raises UserError for what is no such set."""
    path = task.file
    assert path is not None
    if (path / FILE).is_file():
        return {"made": ([], made_questions(read_texts(path), task.count or 200, seed))}
    if path.is_dir():
        return _mmlu(path)
    sets: dict[str, tuple[list[Item], list[Item]]] = defaultdict(lambda: ([], []))
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error}. Name a .jsonl file, or a folder with dev/ and test/.") from None
    for number, line in enumerate(lines, 1):
        try:
            item = json.loads(line)
            framed = _framed(item["question"], [str(choice) for choice in item["choices"]], int(item["answer"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: not {{question, choices, answer}}: {error!r}. Mend the line."
                            ) from None
        sets[item.get("subject", "all")][1].append(framed)
    return dict(sets)


def _mmlu(folder: Path) -> dict[str, tuple[list[Item], list[Item]]]:
    """dev/SUBJECT_dev.csv and test/SUBJECT_test.csv with columns question, choice0 to choice3, answer (0 to 3)."""
    sets = {}
    for path in sorted((folder / "test").glob("*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        both = []
        for file in (folder / "dev" / f"{subject}_dev.csv", path):
            try:
                with file.open(newline="") as opened:
                    both.append([_framed(row["question"], [row[f"choice{i}"] for i in range(4)], int(row["answer"]))
                                 for row in csv.DictReader(opened)])
            except (OSError, KeyError, ValueError) as error:
                raise UserError(f"{file}: {error!r}: MMLU's columns are question, choice0 to choice3, answer (0-3)."
                                ) from None
        sets[subject] = (both[0], both[1])
    if not sets:
        raise UserError(f"{folder}: no test/*_test.csv there. Name a folder with MMLU's dev/ and test/.")
    return sets


def _framed(question: str, choices: list[str], answer: int) -> Item:
    """In MMLU's frame: lettered choices, and the letter asked for."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return {"question": "\n".join([question.strip(), *lines, "Answer:"]), "shown": list(LETTERS[:len(choices)]),
            "answer": answer, "lettered": True}


def made_questions(texts: list[str], count: int, seed: int, words: int = 40) -> list[Item]:
    """A short passage that states a value, and four values that a passage of its kind could have stated."""
    items = []
    for number in range(count):
        draw = generator(seed, "short question", number)
        text = texts[int(draw.integers(len(texts)))].split()
        start = int(draw.integers(max(len(text) - words, 1)))
        passage = text[start:start + words]
        absent = [name for name in NAMES if name not in passage]
        key, *values = (absent[i] for i in draw.choice(len(absent), 9, replace=False))
        choices = [" ".join(values[i:i + 2]) for i in range(0, 8, 2)]
        right, place = int(draw.integers(4)), int(draw.integers(len(passage) + 1))
        stated = f"the answer is the name {key} {choices[right]} ."
        items.append({"question": " ".join([*passage[:place], stated, *passage[place:],
                                            f"the answer is the name {key}"]),
                      "shown": choices, "answer": right})
    return items


if __name__ == "__main__":
    report("short_context_report", ShortContextReportConfig, measure)
