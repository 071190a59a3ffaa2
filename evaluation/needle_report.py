"""Needle in a haystack for one model, by context length and depth.

- exact_match: share of trials in which greedy decoding gives the whole answer, token by token from
  the first. "To eat a sandwich" is a miss where "eat a sandwich" was expected.
- occurs: share of trials in which the answer stands anywhere in what the model says: the field's
  usual score.
- gain: mean log-probability of the answer's tokens with the needle in the context less without it,
  in nats per token. It misleads on a broken model (large gains at 0 % exact match were seen), so it
  never stands without exact match.
- choice: share of trials in which the answer's first token beats the first token of every other
  value in the context. A model that only narrows the answer to "something I saw" scores low here.
  Of drawn needles.
- word_overlap, rouge_1: of what the model says in `new_tokens` tokens (evaluation/answers.py), as
  published.

Beside them stands the share of answers that are empty, truncated by the limit of tokens, or
repetitive, with a warning above a tenth: a score of 0 from a model that says nothing measures how
it was asked. A model that has a chat template is asked under it (`chat`), and an answer may be
begun for a base model (`answer_prefix`); exact match, gain and choice are then of the answer as it
continues that prompt.

Depth 100 % touches the question: it can be answered by looking at the last words, so it is shown
and never averaged. Cost: one walk along the haystack without the needle, then one for each distinct
place, the last place first, asking at every length on its way (evaluation/walk.py). What is
answered is kept: a killed report goes on after the last place that was finished. An endpoint gets
each prompt in full and only says words: its exact match is the answer standing in them letter by
letter. No prompt is cut: a model reads lengths beyond its context in full, and they are marked; an
endpoint is not asked for them, for a server may cut a prompt without a word, and their scores stay
empty.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from assets.origin import done_by_others, note
from core.errors import UserError
from core.figures import save_figure
from core.progress import Progress
from core.sealed import RECORD, read_json, write_json
from evaluation.answers import FLAWS, flaws, joined, occurs, rouge_1, warning, word_overlap
from evaluation.chat import (
    Asking,
    asking,
    cure,
    may_be_read_as_tokens,
    spoken,
    written,
)
from evaluation.endpoint import Reply, check_read, complete_all
from evaluation.needle import (
    Cell,
    Haystacks,
    Ids,
    Needle,
    cells,
    make_needle,
    prompt,
    sentence_ends,
    statement_at,
)
from evaluation.needle_report_config import TOUCHING, NeedleReportConfig
from evaluation.plots import heatmaps
from evaluation.report import report, warn
from evaluation.subject import Subject
from evaluation.texts import read_texts
from evaluation.walk import Walk, check_room
from training.model import MODEL_SUFFIXES, make_reproducible

SCORES = ("exact_match", "occurs", "gain", "choice", "word_overlap", "rouge_1")
SCRATCH = Path(".training/needle_report")
FORM = 1
"""Of a kept answer: to be raised when a record gets, loses or redefines a field."""
Answered = dict[str, list[dict[str, Any]]]
"""Records by what was asked."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """What is asked of a subject: the needles side by side, and how much room their answers have."""

    config: NeedleReportConfig
    needles: list[Needle]
    ends: Ids
    """Tokens that end a sentence."""
    asking: Asking
    reserve: int
    """Tokens kept free for the answer."""
    cells: list[Cell]
    repeated: str | None
    """A line about haystacks that were repeated to be long enough."""

    @property
    def answers(self) -> Ids:
        """The answers, filled up at the right with zeros: int64[trials, longest]."""
        longest = max(len(needle.answer) for needle in self.needles)
        return np.stack(
            [np.pad(needle.answer, (0, longest - len(needle.answer))) for needle in self.needles]
        )

    def prompts(self, cell: Cell) -> Ids:
        """int64[trials, length - reserve]."""
        return np.stack([prompt(needle, cell, self.reserve, self.ends) for needle in self.needles])

    def points(self, cell: Cell) -> tuple[int, ...]:
        """Where each trial's statement really begins."""
        return tuple(statement_at(needle, cell, self.reserve, self.ends) for needle in self.needles)


def make_test(subject: Subject, config: NeedleReportConfig) -> Test:
    """The whole test. Raises UserError where a length has no room for a haystack."""
    haystacks, lengths = Haystacks(subject, read_texts(config.haystack)), config.grid.lengths
    asked = asking(subject, config.chat, config.chat_options, "needle_report")
    kind = config.drawn or config.needles
    needles = [
        make_needle(subject, kind, config.frame, haystacks, max(lengths), config.seed, trial, asked)
        for trial in range(config.trials)
    ]
    reserve = max(config.new_tokens, *(len(needle.answer) for needle in needles))
    rooms = [min(needle.room(length, reserve) for needle in needles) for length in lengths]
    if min(rooms) < 1:
        raise UserError(
            f"needle_report.grid.lengths: {min(lengths)} tokens leave no room for a haystack "
            "beside frame, "
            f"statement, question and {reserve} tokens of answer. Leave such lengths out."
        )
    return Test(
        config=config,
        needles=needles,
        ends=sentence_ends(subject),
        asking=asked,
        reserve=reserve,
        cells=cells(config.grid, rooms),
        repeated=haystacks.repeated,
    )


def measure(subject: Subject, config: NeedleReportConfig, folder: Path) -> dict[str, Any]:
    """Write trials.csv, cells.csv, needle.json and heatmap.png; returns the means."""
    make_reproducible(config.seed)
    test = make_test(subject, config)
    kept = _kept(subject, test)
    ask = _ask_endpoint if subject.model is None else _ask_model
    records = pd.DataFrame(list(ask(subject, test, kept)))
    others = done_by_others(_origin(kept))

    columns = [*SCORES, *FLAWS]
    drawn = "greedy" in records and not records.pop("greedy").fillna(True).all()
    trials = records.astype(dict.fromkeys(columns, float))
    trials = trials.sort_values(["length", "depth", "trial"], kind="stable")
    by_cell = trials.groupby(["length", "depth"], as_index=False)[columns].mean()
    trials.round(5).to_csv(folder / "trials.csv", index=False, lineterminator="\n")
    by_cell.round(5).to_csv(folder / "cells.csv", index=False, lineterminator="\n")

    lost = _mean(
        [
            float(cut and not found)
            for cut, found in zip(trials["truncated"], trials["occurs"], strict=True)
            if not np.isnan(cut)
        ]
    )
    shares = {flaw: _mean(trials[flaw].dropna().tolist()) for flaw in FLAWS}
    warned = joined(
        warning(shares, lost, "needle_report.new_tokens", drawn, cure(subject)),
        may_be_read_as_tokens(subject, _contents(subject, test)),
        test.repeated,
    )
    beyond = [length for length in config.grid.lengths if length > subject.context]
    summary = {
        **summarise(trials),
        "chat": test.asking.chat,
        "beyond_context": beyond,
        "warning": warned,
    }
    warn("needle_report", subject.name, warned)
    warn("needle_report", subject.name, _beyond(subject, beyond))
    write_json(folder / "needle.json", summary)
    notes = {subject.name: warned} if warned else {}
    save_figure(
        heatmaps({subject.name: by_cell}, subject.context, subject.base_context, notes),
        folder / "heatmap.png",
    )
    shutil.rmtree(kept.parent, ignore_errors=True)

    inside = [
        score
        for length, score in zip(summary["lengths"], summary["exact_match"], strict=True)
        if length <= subject.base_context and score is not None
    ]
    means = {f"mean_{score}": _mean(summary[score]) for score in SCORES}
    return {
        **means,
        "mean_gain_standard_error": summary["gain_standard_error"],
        "trials": config.trials,
        "within_base_context": _mean(inside),
        **shares,
        "chat": test.asking.chat,
        **({"warning": warned} if warned else {}),
        **({"places_by_other_code": others} if others else {}),
    }


def _contents(subject: Subject, test: Test) -> Iterator[str]:
    """What each trial puts into the frame, as text."""
    for needle in test.needles:
        said = needle.said
        yield "\n".join([subject.decode(needle.haystack.tolist()), said.statement, said.question])


def _beyond(subject: Subject, lengths: list[int]) -> str | None:
    """A line about the lengths that are more than the model's context."""
    if not lengths:
        return None
    done = (
        "read in full, beyond what it was trained to" if subject.endpoint is None else "not asked"
    )
    return f"lengths {', '.join(map(str, lengths))} are beyond its context of {subject.context:,} tokens: {done}"


def _ask_model(subject: Subject, test: Test, kept: Path) -> Iterator[dict[str, Any]]:
    """A record for each trial and cell, `side_by_side` trials together. Raises UserError where
    their cache does not fit.
    """
    assert subject.model is not None
    at_once = min(test.config.side_by_side, len(test.needles))
    check_room(subject.model, max(test.config.grid.lengths), at_once, "needle_report.side_by_side")
    done = _read_kept(kept)
    progress = Progress(subject.name, len(test.needles) * len(test.cells), "cell")
    for first in range(0, len(test.needles), at_once):
        some = replace(test, needles=test.needles[first : first + at_once])
        yield from _walk(subject, some, first, done, kept, progress)
    progress.close()


def _walk(
    subject: Subject, test: Test, first: int, done: Answered, kept: Path, progress: Progress
) -> Iterator[dict[str, Any]]:
    """The last place first: what stands before a place has then been read for it already."""
    assert subject.model is not None
    walk = Walk(
        subject.model, len(test.needles), max(test.config.grid.lengths), test.config.tokens_at_once
    )
    without = {
        length: walk.ask(test.prompts(Cell(length=length, depth=0, place=None)), test.answers)
        for length in sorted(test.config.grid.lengths)
    }
    ordered = sorted(
        test.cells, key=lambda cell: ([-point for point in test.points(cell)], cell.length)
    )
    for points, group in groupby(ordered, key=test.points):
        key = f"{first}: {' '.join(map(str, points))}"
        if key not in done:
            done[key] = [
                record
                for cell in group
                for record in _judge_cell(subject, test, cell, walk, without[cell.length], first)
            ]
            _keep(kept, key, done[key])
        yield from done[key]
        progress.add(len(done[key]))


def _judge_cell(
    subject: Subject, test: Test, cell: Cell, walk: Walk, without: NDArray[np.float32], first: int
) -> Iterator[dict[str, Any]]:
    prompts = test.prompts(cell)
    log_probs = walk.ask(prompts, test.answers)
    said = walk.say(prompts, test.config.new_tokens)
    for number, needle in enumerate(test.needles):
        shown = needle.guesses[np.isin(needle.rivals, prompts[number])]
        ids = said[number].tolist() if test.config.new_tokens else None
        yield {
            "length": cell.length,
            "depth": cell.depth,
            "trial": first + number,
            **judge(
                log_probs[number],
                without[number],
                needle.answer,
                shown if test.config.drawn else None,
            ),
            **_judge_words(subject, needle, ids, test.asking),
        }


def judge(
    log_probs: NDArray[np.float32], without: NDArray[np.float32], answer: Ids, rivals: Ids | None
) -> dict[str, float | None]:
    """What the probabilities say of one prompt. log_probs, without: float32[at least answer,
    vocabulary].
    """
    at = np.arange(len(answer))
    exact = bool((log_probs[at].argmax(-1) == answer).all())
    choice = None
    others = np.empty(0, np.int64) if rivals is None else rivals[rivals != answer[0]]
    if len(others):  # nothing to choose from is no choice
        choice = float((log_probs[0, answer[0]] > log_probs[0, others]).all())
    gain = float((log_probs[at, answer] - without[at, answer]).mean())
    return {"exact_match": float(exact), "gain": round(gain, 5), "choice": choice}


def _judge_words(
    subject: Subject, needle: Needle, said: list[int] | None, asked: Asking
) -> dict[str, Any]:
    if said is None:
        return {**dict.fromkeys(("occurs", "word_overlap", "rouge_1", *FLAWS)), "said": ""}
    response, cut = spoken(subject, said, asked)
    return _words(response, cut, needle)


def _words(response: str, cut: bool, needle: Needle) -> dict[str, Any]:
    return {
        "occurs": float(occurs(response, [needle.said.answer])),
        "word_overlap": round(word_overlap(response, needle.said.answer), 5),
        "rouge_1": round(rouge_1(response, needle.said.statement), 5),
        **flaws(response, cut),
        "said": response,
    }


def _ask_endpoint(subject: Subject, test: Test, kept: Path) -> Iterator[dict[str, Any]]:
    """As words: exact match is then the answer standing in what was said, letter by letter."""
    assert subject.endpoint is not None
    endpoint, done = subject.endpoint, _read_kept(kept)
    wanted = [
        (cell, trial, f"{trial}: {cell.length} {cell.depth}")
        for cell in test.cells
        for trial in range(len(test.needles))
    ]
    inside = [(cell, trial, key) for cell, trial, key in wanted if cell.length <= endpoint.context]
    if not inside:
        raise UserError(
            f"needle_report.grid.lengths: all are beyond the {endpoint.context} tokens of context "
            "that "
            f"{endpoint.model} is said to have. Add shorter ones, or set its context right."
        )
    progress = Progress(subject.name, len(inside), "cell")
    progress.add(sum(key in done for _, _, key in inside))

    def keep(asked: tuple[Cell, int, str], reply: Reply) -> None:
        cell, trial, key = asked
        check_read(reply, cell.length - test.reserve, endpoint)
        done[key] = [_of_reply(reply, test.needles[trial], cell, trial)]
        _keep(kept, key, done[key])
        progress.add(1)

    def words(cell: Cell, trial: int) -> str | list[int]:
        ids = prompt(test.needles[trial], cell, test.reserve, test.ends)
        return written(subject, ids.tolist(), test.asking)

    prompts = (
        ((cell, trial, key), words(cell, trial)) for cell, trial, key in inside if key not in done
    )
    complete_all(endpoint, prompts, test.reserve, keep)
    progress.close()
    for cell, trial, key in wanted:
        yield from done[key] if key in done else [_not_asked(cell, trial)]


def _of_reply(reply: Reply, needle: Needle, cell: Cell, trial: int) -> dict[str, Any]:
    return {
        "length": cell.length,
        "depth": cell.depth,
        "trial": trial,
        "gain": None,
        "choice": None,
        "exact_match": float(needle.said.answer.strip() in reply.text),
        **_words(reply.text, reply.cut, needle),
        "greedy": reply.greedy,
    }


def _not_asked(cell: Cell, trial: int) -> dict[str, Any]:
    return {
        "length": cell.length,
        "depth": cell.depth,
        "trial": trial,
        **dict.fromkeys((*SCORES, *FLAWS)),
        "said": "",
    }


def _kept(subject: Subject, test: Test) -> Path:
    """Where answers wait until all are there, named by all that decides them but code and packages:
    who is asked, and each id of what is asked."""
    digest = sha256(f"{FORM} {test.config.model_dump_json()} {test.reserve} {test.cells}".encode())
    for needle in test.needles:
        for key, value in sorted(vars(needle).items()):
            digest.update(key.encode())
            array = isinstance(value, np.ndarray)
            digest.update(value.tobytes() if array else repr(value).encode())
    digest.update(test.ends.tobytes())
    asked = test.asking
    digest.update(repr((asked.chat, asked.begin, sorted(asked.ends))).encode())
    digest.update(repr(_identity(subject)).encode())
    return SCRATCH / subject.name.replace("/", "-").strip(".-") / f"{digest.hexdigest()[:16]}.jsonl"


def _identity(subject: Subject) -> list[Any]:
    """What tells the subject from any other: the hashes of its files where it has a record of them,
    else their names, sizes and times; its endpoint; the type of its numbers."""
    record = subject.folder / RECORD
    files: Any = read_json(record).get("files") if record.is_file() else None
    if files is None:
        found = [path for path in sorted(subject.folder.glob("*")) if path.suffix in MODEL_SUFFIXES]
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found]
    return [
        files,
        subject.endpoint.model_dump_json() if subject.endpoint else None,
        str(getattr(subject.model, "dtype", None)),
    ]


def _origin(kept: Path) -> Path:
    """Where it is written down which code and packages answered."""
    return kept.with_suffix(".origin.json")


def _read_kept(path: Path) -> Answered:
    """What was answered before, and a line about it where code or packages have changed since. A
    last line cut off by a kill is taken out of the file."""
    found: Answered = {}
    if path.is_file():
        whole = path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1]
        os.truncate(path, len(whole))
        found = dict(json.loads(line) for line in whole.splitlines())
    changed = note(_origin(path), "needle_report", len(found))
    if changed:
        print(
            f"the answers at {len(found)} places so far were given under {changed}. They are "
            f"kept; to ask all anew, remove {path}",
            file=sys.stderr,
        )
    return found


def _keep(path: Path, key: str, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps([key, records]) + "\n")


def summarise(trials: pd.DataFrame) -> dict[str, Any]:
    """Means over trials and the depths below 100 %, a value for each length (None: not asked), and
    the standard error of the mean gain over all: of its means by trial.
    """
    counted = trials[trials["depth"] < TOUCHING]
    columns = [column for column in (*SCORES, *FLAWS) if column in counted]
    means = counted.groupby("length")[columns].mean().round(5)
    by_trial = counted.groupby("trial")["gain"].mean()
    error = by_trial.std() / len(by_trial) ** 0.5 if len(by_trial) > 1 else np.nan
    return {
        "lengths": [int(length) for length in means.index],
        **{
            column: [None if np.isnan(value) else float(value) for value in means[column]]
            for column in columns
        },
        "gain_standard_error": None if np.isnan(error) else round(float(error), 5),
    }


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return round(float(np.mean(there)), 5) if there else None


if __name__ == "__main__":
    report("needle_report", NeedleReportConfig, measure)
