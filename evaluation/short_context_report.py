"""What long context cost at short context: multiple-choice tasks, through EleutherAI's harness
(extra `eval`).

A task is one of the harness's own by name, which asks the Hub; or a local set
(evaluation/multiple_choice.py), asked in MMLU's frame with examples of the same subject first.
RULER's tasks take `lengths` and are here too, for a model whose needle is saturated. Where `file`
is a folder of data/raw_corpus, questions are made: which of four values a short passage gave.
`drop` is how far a model may fall below `against`; the comparison and a check in the UI hold it to
that.

The harness cuts a prompt that is longer than the model's context at its beginning. Such prompts are
counted and a warning names them.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import UserError
from core.sealed import write_json
from evaluation.multiple_choice import Item, Set, read_sets
from evaluation.report import report, warn
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from evaluation.subject import Subject
from evaluation.walk import check_numbers
from training.model import make_reproducible, transformers_tokenizer

Row = tuple[str, str, float, int]
"""Task, subject, score in percent, questions."""
ABOUT = "The following are multiple choice questions (with answers) about {}.\n\n"


def measure(subject: Subject, config: ShortContextReportConfig, folder: Path) -> dict[str, Any]:
    """Write scores.csv and short_context.json; returns each task's score in percent."""
    if subject.model is None:
        write_json(folder / "short_context.json", {})
        pd.DataFrame(columns=["task", "subject", "score", "questions"]).to_csv(
            folder / "scores.csv", index=False
        )
        return {"not_measured": "an endpoint gives no probabilities"}
    make_reproducible(config.seed)
    head = subject.model.get_output_embeddings()
    assert head is not None
    # The harness would take the first of several NaN for the model's choice.
    checked = head.register_forward_hook(lambda _module, _given, scores: check_numbers(scores))
    rows, cut = [], {}
    try:
        for name, task in config.tasks.items():
            found, cut[name] = _run(subject, name, task, config)
            rows += found
            if cut[name]:
                warn(
                    "short_context_report",
                    subject.name,
                    f"{name}: the harness cut {cut[name]:,} prompts that are longer "
                    f"than {_longest(subject, task):,} tokens. Set fewer `shots`, or leave the task "
                    "out.",
                )
    finally:
        checked.remove()
    table = pd.DataFrame(rows, columns=["task", "subject", "score", "questions"]).round(
        {"score": 3}
    )
    table.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
    weighted = table.assign(sum=table["score"] * table["questions"]).groupby("task", sort=False)[
        ["sum", "questions"]
    ]
    sums = weighted.sum()
    summary = {
        str(task): {
            "score": round(float(row["sum"] / row["questions"]), 3),
            "questions": int(row["questions"]),
            **({"cut_prompts": cut[str(task)]} if cut[str(task)] else {}),
        }
        for task, row in sums.iterrows()
    }
    write_json(folder / "short_context.json", summary)
    return {task: values["score"] for task, values in summary.items()}


def _run(
    subject: Subject, name: str, task: Task, config: ShortContextReportConfig
) -> tuple[list[Row], int]:
    """Scores by subject, and how many prompts the harness had to cut."""
    # Local questions are read first: a wrong one is told before the harness takes its time to
    # start.
    sets = None if task.file is None else read_sets(task.file, task.count, config.seed)
    if task.shots and sets and not all(examples for examples, _ in sets.values()):
        raise UserError(
            f"short_context_report.tasks.{name}.shots = {task.shots}, but {task.file} has no "
            "examples "
            "(MMLU's dev/). Set shots to 0."
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(
            "short_context_report needs lm-eval: pip install 'needlework[eval]'"
        ) from None
    judge = _judge(subject, config.batch, _longest(subject, task))
    seeds = dict.fromkeys(
        ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"),
        config.seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        ours = Path(scratch) / "tokenizer"  # RULER opens one by itself
        judge.tokenizer.save_pretrained(ours)
        tasks: list[Any] = (
            [task.harness] if sets is None else _local(name, sets, task.count, Path(scratch))
        )
        try:
            found = simple_evaluate(
                judge,
                tasks=tasks,
                # Its own tasks are 14,000 files, which takes 17 s to read.
                task_manager=TaskManager(include_defaults=False) if sets is not None else None,
                num_fewshot=task.shots,
                bootstrap_iters=0,
                limit=task.count if task.harness else None,
                log_samples=False,
                metadata={"tokenizer": str(ours), "max_seq_lengths": list(task.lengths)}
                if task.lengths
                else None,
                **seeds,
            )
        except (
            ConnectionError,
            FileNotFoundError,
            LookupError,
            ImportError,
            AssertionError,
        ) as error:
            raise UserError(_why(name, task, error)) from None

    subjects = dict(
        zip(
            (_part(name, number) for number in range(len(sets or {}))),
            sorted(sets or {}),
            strict=True,
        )
    )
    rows = []
    for part, scores in sorted(found["results"].items()):
        if part in found.get("groups", {}) or part in found.get("group_subtasks", {}):
            continue  # a mean of others
        asked = int(found["n-samples"][part]["effective"])
        of = subjects.get(part, part.removeprefix(f"{name}_"))
        rows += [
            (name, f"{of}{suffix}", 100 * value, asked) for suffix, value in _scores(scores, task)
        ]
    return rows, judge.cut


def _longest(subject: Subject, task: Task) -> int:
    """Tokens of a prompt that the harness does not cut."""
    return max([subject.context, *task.lengths])


def _judge(subject: Subject, batch: int, longest: int) -> Any:
    """The harness's own way to ask a transformers model; `cut` counts the prompts that it had to
    cut.

    A prompt begins as the subject's texts do. The harness would have the tokenizer add all of its
    special tokens, and some tokenizers end every text with one, which would stand between a
    question and its answer. It would find special tokens in a question too; here their text is
    text.
    """
    from lm_eval.models.huggingface import HFLM

    class Judge(HFLM):  # type: ignore[misc]  # lm_eval is untyped
        cut = 0

        def _loglikelihood_tokens(self, requests: Any, *given: Any, **named: Any) -> Any:
            too_long = {
                request[0][0]
                for request in requests
                if len(request[1]) + len(request[2]) > self.max_length + 1
            }
            self.cut += len(too_long)
            return super()._loglikelihood_tokens(requests, *given, **named)

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            left_truncate_len: int | None = None,
            **_: Any,
        ) -> list[int]:
            ids = list(
                self.tokenizer.encode(string, add_special_tokens=False, split_special_tokens=True)
            )
            ids = ids if add_special_tokens is False else begin + ids
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def tok_batch_encode(
            self,
            strings: Any,
            padding_side: str = "left",
            left_truncate_len: int | None = None,
            truncation: bool = False,
        ) -> tuple[Any, Any]:
            rows = [self.tok_encode(text) for text in strings]
            if left_truncate_len:
                self.cut += sum(len(row) > left_truncate_len for row in rows)
                rows = [row[-left_truncate_len:] for row in rows]
            self.tokenizer.padding_side = padding_side
            batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
            return batch["input_ids"], batch["attention_mask"]

    begin = subject.begin
    tokenizer = transformers_tokenizer(subject.folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return Judge(
        pretrained=subject.model,
        tokenizer=tokenizer,
        batch_size=batch,
        max_length=longest,
        add_bos_token=bool(subject.begin),
    )


def _why(name: str, task: Task, error: BaseException) -> str:
    """Why the harness could not run a task; the Hub is named only where it was the reason."""
    lines = str(error).splitlines()
    problem = f"{type(error).__name__}: {lines[0][:200] if lines else 'no reason given'}"
    said = f"short_context_report.tasks.{name}: the harness cannot run {task.harness or task.file}: {problem}."
    if task.harness and _of_hub(error):
        return f"{said} Without the Hub, give a local `file`; with it, set HF_HUB_OFFLINE=0."
    if task.harness and isinstance(error, LookupError):
        return f"{said} Is that its name there? `lm-eval ls tasks` lists them."
    return said


def _of_hub(error: BaseException) -> bool:
    """Whether a failure to reach the Hub, or to find something there, is among an error's causes."""
    return any(
        isinstance(cause, ConnectionError | FileNotFoundError)
        or type(cause).__module__.split(".")[0]
        in ("huggingface_hub", "requests", "httpx", "urllib3")
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _scores(scores: Item, task: Task) -> list[tuple[str, float]]:
    """The one accuracy, or for RULER one a length."""
    if task.lengths:
        return [
            (f" {length}", float(scores[f"{length},none"]))
            for length in task.lengths
            if f"{length},none" in scores
        ]
    for metric in ("acc,none", "exact_match,none", "acc_norm,none"):
        if metric in scores:
            return [("", float(scores[metric]))]
    raise UserError(
        f"short_context_report: {task.harness} has no accuracy, only {', '.join(map(str, scores))}."
    )


def _part(name: str, number: int) -> str:
    """What the harness calls a local task's subject: a subject's own name may hold anything."""
    return f"{name}_{number:04d}"


def _local(name: str, sets: dict[str, Set], count: int | None, scratch: Path) -> list[Item]:
    """Tasks in the harness's own form, one a subject."""
    made = []
    for number, (subject, (examples, questions)) in enumerate(sorted(sets.items())):
        part = _part(name, number)
        about = ABOUT.format(subject.replace("_", " ")) if questions[0].get("lettered") else ""
        files = {}
        for split, items in (("dev", examples), ("test", questions[:count])):
            files[split] = str(scratch / f"{part}_{split}.jsonl")
            lines = [json.dumps({**item, "about": about}) + "\n" for item in items]
            Path(files[split]).write_text("".join(lines))
        examples_too: Item = (
            {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}} if examples else {}
        )
        made.append(
            {
                "task": part,
                "dataset_path": "json",
                "dataset_kwargs": {
                    "data_files": files if examples else {"test": files["test"]},
                    "cache_dir": str(scratch / "cache"),
                },
                "test_split": "test",
                **examples_too,
                # Fields, not text: the harness would read braces in a text as its template
                # language.
                "output_type": "multiple_choice",
                "description": "{{about}}",
                "doc_to_text": "{{question}}",
                "doc_to_choice": "{{shown}}",
                "doc_to_target": "{{answer}}",
                "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
                "metadata": {"version": 1},
            }
        )
    return made


if __name__ == "__main__":
    report("short_context_report", ShortContextReportConfig, measure)
