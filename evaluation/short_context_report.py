"""Tasks of lm-eval (extra `eval`): what long context cost at short context, and RULER.

A task is one of EleutherAI's harness lm-eval by name, which fetches it from the Hub; or a local set
(evaluation/multiple_choice.py), asked in MMLU's frame with examples of the same subject first. If
`file` is a folder of data/raw_corpus, questions are made: which of four values did a short passage
give. RULER's tasks take `lengths`; each is run by itself, so it is asked the same beside others.

A task's score is its own main metric (evaluation/task_metrics.py), in percent where it is a share.
A score of a group is the mean over its questions. `drop` is how far a model may fall below
`against`; the check `small_drop` of the comparison compares with it, in the metric's direction.

A model with a chat template is asked in it (`chat`), with examples as turns of their own. RULER
begins the answer, for every model. Each prompt, answer and score is kept
(evaluation/task_samples.py). The harness cuts a prompt that is longer than the model's context at
its beginning. Such prompts are counted, and so are empty, truncated and repetitive answers; a
warning names them. The cost of the harness: it takes seconds to start, and half a minute to list
its own tasks.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import UserError
from core.sealed import write_json
from evaluation.answers import joined, warning
from evaluation.chat import Asking, asking
from evaluation.harness_model import harness_model
from evaluation.model_under_test import ModelUnderTest
from evaluation.multiple_choice import Item, Set, read_sets
from evaluation.prefix_cache import check_numbers
from evaluation.report import report, warn
from evaluation.short_context_report_config import ShortContextReportConfig, Task
from evaluation.task_metrics import Metric, scores_of
from evaluation.task_samples import sample_record, shares, write_samples
from training.model import make_reproducible

COLUMNS = ["task", "subject", "score", "questions", "metric", "higher_is_better", "scale"]
ABOUT = "The following are multiple choice questions (with answers) about {}.\n\n"
ROOM = 1024  # tokens of a chat template and an answer's beginning, which RULER does not count


@dataclass(frozen=True, kw_only=True)
class Part:
    """The score of one subject, and of RULER of one length."""

    subject: str
    score: float
    """In percent, or as the task gives it."""
    questions: int
    metric: Metric
    records: list[dict[str, Any]]
    """What was asked and said, one per question (evaluation/task_samples.py)."""
    begun: bool
    """Whether the task begins the answer."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything about one task."""

    parts: list[Part]
    cut: int
    """Prompts that the harness cut at their beginning."""
    chat: bool
    """Whether it was asked in the chat template."""


def measure(
    tested: ModelUnderTest, config: ShortContextReportConfig, folder: Path
) -> dict[str, Any]:
    """Write scores.csv, short_context.json and the samples; returns each task's score."""
    if tested.model is None:
        write_json(folder / "short_context.json", {})
        pd.DataFrame(columns=COLUMNS).to_csv(folder / "scores.csv", index=False)
        return {"not_measured": "an endpoint gives no probabilities"}

    make_reproducible(config.seed)
    head = tested.model.get_output_embeddings()
    assert head is not None
    # The harness would take the first of several NaN for the model's choice.
    checked = head.register_forward_hook(lambda _module, _given, scores: check_numbers(scores))
    found: dict[str, Outcome] = {}
    try:
        for name, task in config.tasks.items():
            found[name] = _run(tested, name, task, config)
    finally:
        checked.remove()

    rows = [_row(name, part) for name, outcome in found.items() for part in outcome.parts]
    table = pd.DataFrame(rows, columns=COLUMNS).round({"score": 3})
    table.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
    if config.keep_samples:
        parts = [part for outcome in found.values() for part in outcome.parts]
        write_samples(folder, [record for part in parts for record in part.records])
    summary = {
        name: _summary(tested, name, config.tasks[name], outcome) for name, outcome in found.items()
    }
    for name, values in summary.items():
        if values["warning"]:
            warn("short_context_report", tested.name, f"{name}: {values['warning']}")
    write_json(folder / "short_context.json", summary)
    return {task: values["score"] for task, values in summary.items()}


def _row(name: str, part: Part) -> list[Any]:
    """A row of scores.csv."""
    metric = part.metric
    values = [name, part.subject, part.score, part.questions]
    return [*values, metric.name, metric.higher_is_better, metric.scale]


def _summary(tested: ModelUnderTest, name: str, task: Task, outcome: Outcome) -> dict[str, Any]:
    """A task's entry in short_context.json. Raises UserError if its parts have no mean."""
    parts = outcome.parts
    counted = [part for part in parts if part.metric.scale == "percent"] or parts
    names = {(part.metric.name, part.metric.higher_is_better) for part in counted}
    if counted[0].metric.scale != "percent" and len(names) > 1:
        raise UserError(
            f"short_context_report.tasks.{name}: its parts are scored by "
            f"{', '.join(sorted(metric for metric, _ in names))}, which have no mean. "
            "Name each part as a task of its own."
        )

    # A task's score is the mean over its questions, not over its subjects.
    questions = sum(part.questions for part in counted)
    total = sum(round(part.score, 3) * part.questions for part in counted)
    records = [record for part in parts for record in part.records]
    flawed = shares(records)
    lost = flawed.pop("lost", None)
    summary: dict[str, Any] = {
        "score": round(total / questions, 3),
        "questions": questions,
        "metric": ", ".join(sorted({metric for metric, _ in names})),
        "higher_is_better": counted[0].metric.higher_is_better,
        "scale": counted[0].metric.scale,
        "chat": outcome.chat,
        "answer_prefix": all(part.begun for part in parts),
        **flawed,
    }
    if len(counted) < len(parts):
        summary["left_out"] = [part.subject for part in parts if part not in counted]
    if outcome.cut:
        summary["cut_prompts"] = outcome.cut
    summary["warning"] = joined(
        _of_cut(tested, name, task, outcome.cut),
        warning(flawed, lost, f"short_context_report.tasks.{name}.new_tokens", cure="set chat")
        if flawed
        else None,
    )
    return summary


def _of_cut(tested: ModelUnderTest, name: str, task: Task, cut: int) -> str | None:
    """A line about prompts that were cut; None without any."""
    if not cut:
        return None
    longest = max(_longest(tested, length) for length in _lengths(task))
    return (
        f"the harness cut {cut:,} prompts that are longer than {longest:,} tokens. "
        "Set fewer `shots`, or leave the task out."
    )


def _run(
    tested: ModelUnderTest, name: str, task: Task, config: ShortContextReportConfig
) -> Outcome:
    """The scores and samples of one task. Raises UserError if it can't be run."""
    # Local questions are read first, so that a wrong one is reported before the harness starts.
    sets = None if task.file is None else read_sets(task.file, task.count, config.seed)
    if task.shots and sets and not all(examples for examples, _ in sets.values()):
        raise UserError(
            f"short_context_report.tasks.{name}.shots = {task.shots}, but {task.file} has no "
            "examples (MMLU's dev/). Set shots to 0."
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise UserError(
            "short_context_report needs lm-eval: pip install 'needlework[eval]'"
        ) from None

    how = asking(tested, task.chat or config.chat, config.chat_options, "short_context_report")
    parts, cut = [], 0
    for length in _lengths(task):
        harness = harness_model(
            tested, task.batch or config.batch, _longest(tested, length), how, config.chat_options
        )
        try:
            found = _evaluate(harness, name, task, sets, length, how, config.seed)
        except (OSError, LookupError, ImportError, AssertionError, ValueError) as error:
            raise UserError(_why(name, task, error)) from None
        parts += _parts(name, task, sets or {}, found, harness)
        cut += harness.cut
    return Outcome(parts=parts, cut=cut, chat=how.chat)


def _evaluate(
    harness: Any,
    name: str,
    task: Task,
    sets: dict[str, Set] | None,
    length: int | None,
    how: Asking,
    seed: int,
) -> dict[str, Any]:
    """What lm-eval finds. length: of RULER's texts, in tokens."""
    from lm_eval import simple_evaluate

    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    with tempfile.TemporaryDirectory() as scratch:
        # RULER opens a tokenizer of its own, by name.
        ours = Path(scratch) / "tokenizer"
        harness.tokenizer.save_pretrained(ours)
        tasks: list[Any] = [task.harness]
        if sets is not None:
            tasks = _local(name, sets, task.count, Path(scratch))
        found: dict[str, Any] = simple_evaluate(
            harness,
            tasks=tasks,
            task_manager=_manager(task, length, str(ours)),
            num_fewshot=task.shots,
            bootstrap_iters=0,
            limit=task.count if task.harness else None,
            log_samples=True,
            apply_chat_template=how.chat,
            fewshot_as_multiturn=True,
            gen_kwargs={"max_gen_toks": task.new_tokens} if task.new_tokens else None,
            **dict.fromkeys(seeds, seed),
        )
    return found


def _manager(task: Task, length: int | None, tokenizer: str) -> Any:
    """lm-eval's list of tasks, as short as the task allows.

    length: of RULER's texts. tokenizer: the folder of the one that measures them.
    """
    import lm_eval.tasks as known

    # Its own tasks are 14,000 files, which take up to a minute to read.
    if task.file is not None or str(task.harness).endswith((".yaml", ".yml")):
        return known.TaskManager(include_defaults=False)
    if length is None:
        return _all_tasks()
    return known.TaskManager(
        include_defaults=False,
        include_path=str(Path(str(known.__file__)).parent / "ruler"),
        metadata={"tokenizer": tokenizer, "max_seq_lengths": [length]},
    )


@cache
def _all_tasks() -> Any:
    """All tasks of lm-eval, read once."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _parts(
    name: str, task: Task, sets: dict[str, Set], found: dict[str, Any], harness: Any
) -> list[Part]:
    """The parts of a task, by subject. found: what lm-eval returns."""
    # The harness knows a local subject by a name of ours.
    subjects = {_part(name, number): subject for number, subject in enumerate(sorted(sets))}
    where = f"short_context_report.tasks.{name}"
    parts = []
    for part, results in sorted(found["results"].items()):
        is_mean_of_others = part in found.get("groups", {}) or part in found.get(
            "group_subtasks", {}
        )
        if is_mean_of_others:
            continue
        of = subjects.get(part, part.removeprefix(f"{name}_"))
        settings = found["configs"].get(part, {})
        listed = settings.get("metric_list") or []
        aggregations = {str(one.get("metric")): one.get("aggregation") for one in listed}
        scores = scores_of(
            where if part == task.harness else f"{where}, {of}",
            results,
            found["higher_is_better"].get(part) or {},
            aggregations,
            task.metric,
            task.scale,
        )
        for score in scores:
            subject = f"{of}{score.suffix}"
            records = []
            for logged in found["samples"][part]:
                # One line per filter; of RULER, the other lengths have a score of -1.
                if logged["filter"] == score.metric.filter and logged.get(score.key) != -1:
                    records.append(
                        sample_record(
                            name, subject, logged, score.key, harness.left, harness.unended
                        )
                    )
            parts.append(
                Part(
                    subject=subject,
                    score=score.value,
                    questions=len(records),
                    metric=score.metric,
                    records=records,
                    begun=settings.get("gen_prefix") is not None,
                )
            )
    return parts


def _lengths(task: Task) -> tuple[int | None, ...]:
    """The lengths to run, each by itself; None for a task without."""
    return task.lengths or (None,)


def _longest(tested: ModelUnderTest, length: int | None) -> int:
    """The longest prompt that the harness does not cut, in tokens. length: of RULER's texts."""
    return max(tested.context, 0 if length is None else length + ROOM)


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
