"""Ask a model all prompts of a needle report; yields one record per trial and cell.

A local model is asked with a prefix cache (evaluation/prefix_cache.py). First it reads the haystack
without the statement. Then the places of the statement follow, the last one first: what stands
before a place has then been read already. An endpoint gets each prompt in full and returns text
only.

Answers are kept as they come (evaluation/kept_answers.py), so a killed report resumes after the
last place that was finished.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.progress import Progress
from evaluation.answers import FLAWS
from evaluation.chat import written
from evaluation.endpoint import Reply, check_read, complete_all
from evaluation.kept_answers import Answered, keep, read_kept
from evaluation.model_under_test import ModelUnderTest
from evaluation.needle import Cell, Needle, prompt
from evaluation.needle_scores import SCORES, judge, judge_ids, judge_text
from evaluation.needle_trials import Trials
from evaluation.prefix_cache import PrefixCache, check_room

Records = Iterator[dict[str, Any]]
Asked = tuple[Cell, int, str]  # cell, number of the trial, key of the kept answer


def ask_model(tested: ModelUnderTest, trials: Trials, kept: Path) -> Records:
    """Ask a local model, `side_by_side` trials at a time.

    kept: the file of the answers so far. Raises UserError if their caches do not fit.
    """
    assert tested.model is not None
    config = trials.config
    at_once = min(config.side_by_side, len(trials.needles))
    longest = max(config.grid.lengths)
    check_room(tested.model, longest, at_once, "needle_report.side_by_side")
    done = read_kept(kept)

    progress = Progress(tested.name, len(trials.needles) * len(trials.cells), "cell")
    for first in range(0, len(trials.needles), at_once):
        some = replace(trials, needles=trials.needles[first : first + at_once])
        yield from _ask_together(tested, some, first, done, kept, progress)
    progress.close()


def _ask_together(
    tested: ModelUnderTest,
    trials: Trials,
    first: int,
    done: Answered,
    kept: Path,
    progress: Progress,
) -> Records:
    """Ask some trials in one batch. first: the number of the first of them."""
    assert tested.model is not None
    config = trials.config
    longest = max(config.grid.lengths)
    cache = PrefixCache(tested.model, len(trials.needles), longest, config.tokens_at_once)

    without = {}
    for length in sorted(config.grid.lengths):
        haystack_only = Cell(
            length=length,
            depth=0,
            place=None,
        )
        without[length] = cache.score(trials.prompts(haystack_only), trials.answers)

    ordered = sorted(
        trials.cells, key=lambda cell: ([-point for point in trials.points(cell)], cell.length)
    )
    # Cells with the same places are one group: the longer prompt continues the shorter one's.
    for points, group in groupby(ordered, key=trials.points):
        key = f"{first}: {' '.join(map(str, points))}"
        if key not in done:
            records: list[dict[str, Any]] = []
            for cell in group:
                records += _ask_cell(tested, trials, cell, cache, without[cell.length], first)
            done[key] = records
            keep(kept, key, records)
        yield from done[key]
        progress.add(len(done[key]))


def _ask_cell(
    tested: ModelUnderTest,
    trials: Trials,
    cell: Cell,
    cache: PrefixCache,
    without: NDArray[np.float32],
    first: int,
) -> Records:
    """The records of one cell, one per trial.

    without: float32[trials, answer, vocabulary], the answers' log-probabilities without the
    statement.
    """
    prompts = trials.prompts(cell)
    log_probs = cache.score(prompts, trials.answers)
    generated = cache.generate(prompts, trials.config.new_tokens)
    for number, needle in enumerate(trials.needles):
        in_sight = needle.guesses[np.isin(needle.rivals, prompts[number])]
        # Needles that the user gave have no other values to choose from.
        rivals = in_sight if trials.config.drawn else None
        ids = generated[number].tolist() if trials.config.new_tokens else None
        yield {
            "length": cell.length,
            "depth": cell.depth,
            "trial": first + number,
            **judge(log_probs[number], without[number], needle.answer, rivals),
            **judge_ids(tested, needle, ids, trials.asking),
        }


def ask_endpoint(tested: ModelUnderTest, trials: Trials, kept: Path) -> Records:
    """Ask an endpoint. Its exact match is the answer standing in the text, letter by letter.

    Lengths beyond its context are not asked: a server may cut such a prompt silently. Raises
    UserError if no length is within it, or a request fails.
    """
    endpoint = tested.endpoint
    assert endpoint is not None
    done = read_kept(kept)
    wanted = _wanted(trials)
    inside = [asked for asked in wanted if asked[0].length <= endpoint.context]
    if not inside:
        raise UserError(
            f"needle_report.grid.lengths: all are beyond the context of {endpoint.model}, "
            f"{endpoint.context} tokens. Add shorter lengths, or set its context right."
        )

    progress = Progress(tested.name, len(inside), "cell")
    progress.add(sum(key in done for _, _, key in inside))

    def keep_reply(asked: Asked, reply: Reply) -> None:
        """Score a reply and keep it. Raises UserError if the server cut the prompt."""
        cell, trial, key = asked
        check_read(reply, cell.length - trials.reserve, endpoint)
        done[key] = [_record_of_reply(reply, trials.needles[trial], cell, trial)]
        keep(kept, key, done[key])
        progress.add(1)

    def prompts() -> Iterator[tuple[Asked, str | list[int]]]:
        """What is not answered yet, and the prompt."""
        for asked in inside:
            cell, trial, key = asked
            if key not in done:
                ids = prompt(trials.needles[trial], cell, trials.reserve, trials.ends)
                yield asked, written(tested, ids.tolist(), trials.asking)

    complete_all(endpoint, prompts(), trials.reserve, keep_reply)
    progress.close()
    for cell, trial, key in wanted:
        if key in done:
            yield from done[key]
        else:
            yield _not_asked(cell, trial)


def _wanted(trials: Trials) -> list[Asked]:
    """Every cell of every trial, cell by cell."""
    found = []
    for cell in trials.cells:
        for trial in range(len(trials.needles)):
            found.append((cell, trial, f"{trial}: {cell.length} {cell.depth}"))
    return found


def _record_of_reply(reply: Reply, needle: Needle, cell: Cell, trial: int) -> dict[str, Any]:
    """The record of an endpoint's reply; scores that need probabilities are empty."""
    return {
        "length": cell.length,
        "depth": cell.depth,
        "trial": trial,
        "gain": None,
        "choice": None,
        "exact_match": float(needle.said.answer.strip() in reply.text),
        **judge_text(reply.text, reply.cut, needle),
        "greedy": reply.greedy,
    }


def _not_asked(cell: Cell, trial: int) -> dict[str, Any]:
    """The record of a cell beyond an endpoint's context: all scores are empty."""
    return {
        "length": cell.length,
        "depth": cell.depth,
        "trial": trial,
        **dict.fromkeys((*SCORES, *FLAWS)),
        "said": "",
    }
