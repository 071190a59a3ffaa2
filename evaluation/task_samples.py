"""What a task of lm-eval asked and what the model said: samples.jsonl.zst, a line per question.

A score can be checked only where prompt, answer and target stand beside it. Long texts are stored
with their two ends, their length and their hash: a prompt of 128K tokens is half a megabyte, and
both ends say how it was asked. The cost: the middle of such a prompt is not in the file.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from evaluation.answers import FLAWS, flaws
from evaluation.specials import unmarked

FILE = "samples.jsonl.zst"
WHOLE = 4000  # characters of a text that is stored whole
END = 1000  # characters that are stored of each end of a longer one


def kept_text(text: str) -> str | dict[str, Any]:
    """The text, or of a long one: head, tail, characters, sha256 of its UTF-8."""
    if len(text) <= WHOLE:
        return text
    return {
        "head": text[:END],
        "tail": text[-END:],
        "characters": len(text),
        "sha256": sha256(text.encode(errors="surrogatepass")).hexdigest(),
    }


def sample_record(
    task: str,
    subject: str,
    logged: Mapping[str, Any],
    key: str,
    cut: Mapping[str, Any],
    unended: Mapping[str, bool],
) -> dict[str, Any]:
    """One question as a line of the file.

    logged: lm-eval's sample. key: its field with the score. cut: prompt -> what was left of it.
    unended: prompt -> whether the token limit ended its answer.
    """
    requests = [list(request) for request in logged["arguments"]]
    first = requests[0]
    # Of a text whose probability is asked, there is no prompt.
    prompt = str(first[0]) if len(first) > 1 else ""
    record: dict[str, Any] = {
        "task": task,
        "subject": subject,
        "id": logged["doc_id"],
        "prompt": cut.get(prompt, kept_text(unmarked(prompt))),
        "cut": prompt in cut,
    }
    generates = len(first) > 1 and isinstance(first[1], dict)
    if generates:
        said = str(logged["resps"][0][0])
        record["answer"] = kept_text(said)
        record |= flaws(said, unended.get(prompt, False))
        found = logged["filtered_resps"][0]
        if isinstance(found, str) and found != said:
            record["taken"] = kept_text(found)
    else:
        record["answers"] = _choices(requests, logged["resps"], prompt)
    record["target"] = _plain(logged["target"])
    record["score"] = _plain(logged.get(key))
    return record


def _choices(requests: list[list[Any]], replies: Any, prompt: str) -> list[dict[str, Any]]:
    """Each answer that was offered, with its log-probability in nats."""
    found = []
    for request, reply in zip(requests, replies, strict=True):
        given = reply[0]
        answer = {"text": kept_text(str(request[-1]))}
        # Some tasks change the prompt and not the answer.
        if len(request) > 1 and request[0] != prompt:
            answer["prompt"] = kept_text(unmarked(str(request[0])))
        probability, greedy = given if isinstance(given, tuple | list) else (given, None)
        found.append({**answer, "log_prob": round(float(probability), 5), "greedy": greedy})
    return found


def shares(records: list[dict[str, Any]]) -> dict[str, float]:
    """The share of each of FLAWS, and `lost`: truncated without a full score; {} without text."""
    generated = [record for record in records if "answer" in record]
    if not generated:
        return {}
    found = {}
    for flaw in FLAWS:
        found[flaw] = round(sum(record[flaw] for record in generated) / len(generated), 5)
    lost = [record["truncated"] and not _full(record["score"]) for record in generated]
    found["lost"] = round(sum(map(bool, lost)) / len(generated), 5)
    return found


def _full(score: Any) -> bool:
    """Whether an answer has the full score, so that a longer one would not be better."""
    return isinstance(score, int | float) and score >= 1


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; long texts are shortened, numbers rounded."""
    if isinstance(value, str):
        return kept_text(value)
    if isinstance(value, bool | None):
        return value
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 5)
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(part) for part in value]
    return kept_text(str(value))


def write_samples(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write FILE: a JSON object per line, in the order of tasks, subjects and questions."""
    # Escaped, so that no character of a text ends a line or is no UTF-8.
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    (folder / FILE).write_bytes(zstandard.ZstdCompressor(level=6).compress(content))


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The records of FILE."""
    content = zstandard.ZstdDecompressor().decompress((folder / FILE).read_bytes())
    return [json.loads(line) for line in content.splitlines()]
