"""The cost of long context at short context: multiple-choice tasks, through lm-eval (extra `eval`).

A task is one of EleutherAI's harness lm-eval by name, which fetches it from the Hub; or a local set
(evaluation/multiple_choice.py), asked in MMLU's frame with examples of the same subject first.
RULER's tasks take `lengths`, for a model whose needle is saturated. If `file` is a folder of
data/raw_corpus, questions are made: which of four values did a short passage give. `drop` is how
far a model may fall below `against`; the check `small_drop` of the comparison compares with it.

The harness cuts a prompt that is longer than the model's context at its beginning. Such prompts are
counted, and a warning names them. The cost of the harness: it takes seconds to start.
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
from evaluation.model_under_test import ModelUnderTest
from evaluation.multiple_choice import Item, Set, read_sets
from evaluation.prefix_cache import check_numbers
from evaluation.report import report, warn
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from training.model import make_reproducible, transformers_tokenizer

Row = tuple[str, str, float, int]  # task, subject, score in percent, questions
COLUMNS = ["task", "subject", "score", "questions"]
ABOUT = "The following are multiple choice questions (with answers) about {}.\n\n"


def measure(
    tested: ModelUnderTest, config: ShortContextReportConfig, folder: Path
) -> dict[str, Any]:
    """Write scores.csv and short_context.json; returns each task's score in percent."""
    if tested.model is None:
        write_json(folder / "short_context.json", {})
        pd.DataFrame(columns=COLUMNS).to_csv(folder / "scores.csv", index=False)
        return {"not_measured": "an endpoint gives no probabilities"}

    make_reproducible(config.seed)
    head = tested.model.get_output_embeddings()
    assert head is not None
    # The harness would take the first of several NaN for the model's choice.
    checked = head.register_forward_hook(lambda _module, _given, scores: check_numbers(scores))
    rows, cut = [], {}
    try:
        for name, task in config.tasks.items():
            found, cut[name] = _run(tested, name, task, config)
            rows += found
            if cut[name]:
                warn(
                    "short_context_report",
                    tested.name,
                    f"{name}: the harness cut {cut[name]:,} prompts that are longer than "
                    f"{_longest(tested, task):,} tokens. "
                    "Set fewer `shots`, or leave the task out.",
                )
    finally:
        checked.remove()

    table = pd.DataFrame(rows, columns=COLUMNS).round({"score": 3})
    table.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
    # A task's score is the mean over its questions, not over its subjects.
    weighted = table.assign(sum=table["score"] * table["questions"])
    sums = weighted.groupby("task", sort=False)[["sum", "questions"]].sum()
    summary: dict[str, dict[str, Any]] = {}
    for key, row in sums.iterrows():
        task_name = str(key)
        summary[task_name] = {
            "score": round(float(row["sum"] / row["questions"]), 3),
            "questions": int(row["questions"]),
        }
        if cut[task_name]:
            summary[task_name]["cut_prompts"] = cut[task_name]
    write_json(folder / "short_context.json", summary)
    return {task: values["score"] for task, values in summary.items()}


def _run(
    tested: ModelUnderTest, name: str, task: Task, config: ShortContextReportConfig
) -> tuple[list[Row], int]:
    """The scores of one task by subject, and the number of prompts that the harness cut.

    Raises UserError if the task can't be run.
    """
    # Local questions are read first, so that a wrong one is reported before the harness starts.
    sets = None if task.file is None else read_sets(task.file, task.count, config.seed)
    if task.shots and sets and not all(examples for examples, _ in sets.values()):
        raise UserError(
            f"short_context_report.tasks.{name}.shots = {task.shots}, but {task.file} has no "
            "examples (MMLU's dev/). Set shots to 0."
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError(
            "short_context_report needs lm-eval: pip install 'needlework[eval]'"
        ) from None

    harness = _harness_model(tested, config.batch, _longest(tested, task))
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    with tempfile.TemporaryDirectory() as scratch:
        ours = Path(scratch) / "tokenizer"  # RULER opens a tokenizer of its own, by name
        harness.tokenizer.save_pretrained(ours)
        lengths = {"tokenizer": str(ours), "max_seq_lengths": list(task.lengths)}
        if sets is None:
            tasks: list[Any] = [task.harness]
            manager = None
        else:
            tasks = _local(name, sets, task.count, Path(scratch))
            # Its own tasks are 14,000 files, which take 17 s to read.
            manager = TaskManager(include_defaults=False)
        try:
            found = simple_evaluate(
                harness,
                tasks=tasks,
                task_manager=manager,
                num_fewshot=task.shots,
                bootstrap_iters=0,
                limit=task.count if task.harness else None,
                log_samples=False,
                metadata=lengths if task.lengths else None,
                **dict.fromkeys(seeds, config.seed),
            )
        except (
            ConnectionError,
            FileNotFoundError,
            LookupError,
            ImportError,
            AssertionError,
        ) as error:
            raise UserError(_why(name, task, error)) from None
    return _rows(name, task, sets or {}, found), harness.cut


def _rows(name: str, task: Task, sets: dict[str, Set], found: dict[str, Any]) -> list[Row]:
    """The rows of scores.csv. found: what the harness returns."""
    # The harness knows a local subject by a name of ours.
    subjects = {_part(name, number): subject for number, subject in enumerate(sorted(sets))}
    rows = []
    for part, scores in sorted(found["results"].items()):
        is_mean_of_others = part in found.get("groups", {}) or part in found.get(
            "group_subtasks", {}
        )
        if is_mean_of_others:
            continue
        asked = int(found["n-samples"][part]["effective"])
        of = subjects.get(part, part.removeprefix(f"{name}_"))
        for suffix, value in _scores(scores, task):
            rows.append((name, f"{of}{suffix}", 100 * value, asked))
    return rows


def _longest(tested: ModelUnderTest, task: Task) -> int:
    """The longest prompt that the harness does not cut, in tokens."""
    return max([tested.context, *task.lengths])


def _harness_model(tested: ModelUnderTest, batch: int, longest: int) -> Any:
    """The harness's class for a transformers model; its prompts begin as the tested model's do.

    batch: requests in one forward pass. longest: tokens of a prompt that is not cut.
    The attribute `cut` of the result counts the prompts that were cut.
    """
    # The harness would let the tokenizer add all of its special tokens. Some tokenizers end every
    # text with one, which would stand between a question and its answer. The harness would also
    # find special tokens in a question; here their text is text.
    from lm_eval.models.huggingface import HFLM

    class HarnessModel(HFLM):  # type: ignore[misc]  # lm_eval is untyped
        cut = 0

        def _loglikelihood_tokens(self, requests: Any, *given: Any, **named: Any) -> Any:
            """As in lm-eval; also counts the prompts that it will cut."""
            # One prompt has a request per choice; it is counted once. The last token of a choice
            # is predicted and never read, hence the 1.
            too_long = set()
            for request in requests:
                if len(request[1]) + len(request[2]) > self.max_length + 1:
                    too_long.add(request[0][0])
            self.cut += len(too_long)
            return super()._loglikelihood_tokens(requests, *given, **named)

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            left_truncate_len: int | None = None,
            **_: Any,
        ) -> list[int]:
            """Ids of a text, with the begin token and without special tokens in it."""
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
            """Ids and attention mask of several texts: int64[texts, longest] each."""
            rows = [self.tok_encode(text) for text in strings]
            if left_truncate_len:
                self.cut += sum(len(row) > left_truncate_len for row in rows)
                rows = [row[-left_truncate_len:] for row in rows]
            self.tokenizer.padding_side = padding_side
            batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
            return batch["input_ids"], batch["attention_mask"]

    begin = tested.begin
    tokenizer = transformers_tokenizer(tested.folder)
    # Padding needs a token; which one does not matter, as it is masked.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return HarnessModel(
        pretrained=tested.model,
        tokenizer=tokenizer,
        batch_size=batch,
        max_length=longest,
        add_bos_token=bool(tested.begin),
    )


def _why(name: str, task: Task, error: BaseException) -> str:
    """Why the harness could not run a task. The Hub is named only if it was the reason."""
    first_line = str(error).strip().partition("\n")[0] or "no reason given"
    problem = f"{type(error).__name__}: {first_line[:200]}"
    reason = (
        f"short_context_report.tasks.{name}: "
        f"the harness cannot run {task.harness or task.file}: {problem}."
    )
    if task.harness and _of_hub(error):
        return f"{reason} Without the Hub, give a local `file`; with it, set HF_HUB_OFFLINE=0."
    if task.harness and isinstance(error, LookupError):
        return f"{reason} Is that its name there? `lm-eval ls tasks` lists them."
    return reason


def _of_hub(error: BaseException) -> bool:
    """Whether one of an error's causes is that the Hub, or something there, was not found."""
    packages = ("huggingface_hub", "requests", "httpx", "urllib3")
    for cause in _causes(error):
        if isinstance(cause, ConnectionError | FileNotFoundError):
            return True
        if type(cause).__module__.split(".")[0] in packages:
            return True
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the errors that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _scores(scores: Item, task: Task) -> list[tuple[str, float]]:
    """Suffix of the subject and score, 0 to 1: one accuracy; for RULER, one per length.

    Raises UserError if the harness gave none.
    """
    if task.lengths:
        found = []
        for length in task.lengths:
            if f"{length},none" in scores:
                found.append((f" {length}", float(scores[f"{length},none"])))
        return found

    # lm-eval's names of a score end with the name of a filter, "none" without one.
    for metric in ("acc,none", "exact_match,none", "acc_norm,none"):
        if metric in scores:
            return [("", float(scores[metric]))]
    raise UserError(
        f"short_context_report: {task.harness} has no accuracy, only {', '.join(map(str, scores))}."
    )


def _part(name: str, number: int) -> str:
    """The harness's name for a local subject, whose own name may hold any characters."""
    return f"{name}_{number:04d}"


def _local(name: str, sets: dict[str, Set], count: int | None, scratch: Path) -> list[Item]:
    """Tasks in lm-eval's own form, one per subject. Their questions are written to `scratch`."""
    made = []
    for number, (subject, (examples, questions)) in enumerate(sorted(sets.items())):
        part = _part(name, number)
        about = ABOUT.format(subject.replace("_", " ")) if questions[0].get("lettered") else ""
        files = {}
        for split, items in (("dev", examples), ("test", questions[:count])):
            files[split] = str(scratch / f"{part}_{split}.jsonl")
            lines = [json.dumps({**item, "about": about}) + "\n" for item in items]
            Path(files[split]).write_text("".join(lines))

        # The first examples, as MMLU's authors do, and not drawn ones.
        shots: Item = {}
        if examples:
            shots = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
        made.append(
            {
                "task": part,
                "dataset_path": "json",
                "dataset_kwargs": {
                    "data_files": files if examples else {"test": files["test"]},
                    "cache_dir": str(scratch / "cache"),
                },
                "test_split": "test",
                **shots,
                # Fields and not text: the harness would read braces in a text as a template.
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
