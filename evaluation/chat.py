"""How a prompt is put to a model: as plain text, or as the user's turn of the model's own chat template.

An instruct model asked in plain text often ends at once, and an exact-match score of 0 then says nothing about what it
can find. A template is rendered around a mark that stands for the context, so the long part of a prompt is tokenised
apart from it and shared by all prompts. The cost: what a template does to the text inside a message (trimming it, say)
happens to the words around the context and not to the context itself.

The answer continues the prompt. Prompt and answer are tokenised together and cut apart at the last token that both
share, for a tokenizer may merge what stands on the two sides of the seam: "Answer: " and "yes" become "Answer:" and
" yes". The date in a template that asks for one is fixed, so the same inputs give the same prompt on any day.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from assets.stage import UserError
from assets.tokenizer import config_of
from evaluation.subject import Subject
from training.baselines import TEMPLATE

ChatMode = Literal["auto", "always", "never"]
"""auto: in the chat template of a model that has one."""
MARK = "@@needlework@@"
TODAY = datetime(2024, 7, 26)
"""The date that Llama 3's template falls back to."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The words around a context, and how an answer goes on after them."""

    before: str
    after: str
    """Ends where the answer begins; holds the answer's prefix."""
    gap: str
    """What stands between `after` and an answer that brings no space of its own."""

    def joined(self, answer: str) -> str:
        """The answer as it continues `after`."""
        return answer if answer[:1].isspace() else self.gap + answer


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How one report asks one model."""

    chat: bool
    """Whether prompts are put in a chat template, here or by the endpoint."""
    turn: Callable[[str, str, str], Turn]
    """From the words before and after the context, and an answer's prefix."""
    begin: list[int]
    """Ids before the first word."""
    ends: frozenset[int]
    """Ids that end an answer."""


def check_frame(frame: str) -> None:
    """Raise ValueError unless a frame holds the context once and the question after it."""
    if frame.count("{context}") != 1 or "{question}" not in frame.split("{context}")[1]:
        raise ValueError("frame needs {context} once, and {question} after it")


def asking(subject: Subject, mode: ChatMode, options: dict[str, Any], report: str) -> Asking:
    """How `subject` is asked under `mode`. options: variables for the template. report: whose key
    an error names. Raises UserError where the mode can't be had.
    """
    endpoint = subject.endpoint
    if endpoint is not None and endpoint.kind == "chat":
        if mode == "never":
            raise UserError(f"{report}.chat = never, but {endpoint.endpoint} is an endpoint of kind "
                            "chat, which wraps every prompt itself. Set its kind to completions, "
                            f"or {report}.chat to auto.")
        # The server knows its template and begin token. No prefix: it would be the user's words.
        return Asking(chat=True, turn=lambda before, after, _: plain_turn(before, after, ""),
                      begin=[], ends=subject.ends)

    # A completions endpoint is asked in plain text unless `always`: its kind has been chosen.
    wanted = mode == "always" or (mode == "auto" and endpoint is None and has_template(subject.folder))
    if wanted and not has_template(subject.folder):
        raise UserError(f"{report}.chat = always, but {subject.folder} holds no chat template. Put "
                        f"the model's {TEMPLATE} there, or set {report}.chat to auto.")
    if not wanted:
        return Asking(chat=False, turn=plain_turn, begin=subject.begin, ends=subject.ends)
    return Asking(chat=True, turn=partial(chat_turn, subject.folder, options), begin=[],
                  ends=subject.ends | closing(subject, options))


def plain_turn(before: str, after: str, prefix: str) -> Turn:
    """Plain text: the frame, then the answer's prefix."""
    return begun(before, after, _gap(after), prefix)


def chat_turn(folder: Path, options: dict[str, Any], before: str, after: str, prefix: str) -> Turn:
    """The frame as the user's message, then the opening of the model's own, and the prefix in it."""
    message = [{"role": "user", "content": f"{before}{MARK}{after}"}]
    parts = rendered(folder, message, options).split(MARK)
    if len(parts) != 2:
        raise UserError(f"{folder}: its chat template shows a message {len(parts) - 1} times, not once. "
                        "Set chat to never.")
    return begun(parts[0], parts[1], _opening(folder, options, parts[1]), prefix)


def begun(before: str, after: str, gap: str, prefix: str) -> Turn:
    """A turn whose answer is begun with `prefix`; gap: what an answer would have before it."""
    if not prefix.strip():
        return Turn(before=before, after=after, gap=gap)
    if not gap and after[-1:].isspace():
        prefix = prefix.lstrip(" ")
    elif prefix[:1].isspace():
        gap = ""
    after = f"{after}{gap}{prefix}"
    return Turn(before=before, after=after, gap=_gap(after))


def seam(subject: Subject, turn: Turn, answer: str) -> tuple[list[int], list[int]]:
    """Ids of what follows the context up to the answer, and of the answer, cut after the last token
    that the prompt has with the answer and without it.
    """
    alone, whole = subject.encode(turn.after), subject.encode(turn.after + turn.joined(answer))
    shared = 0
    while shared < min(len(alone), len(whole)) and alone[shared] == whole[shared]:
        shared += 1
    return whole[:shared], whole[shared:]


def last_ids(subject: Subject, turn: Turn) -> list[int]:
    """Ids of what follows the context where no answer is at hand; a space at its end is left to the
    answer, whose first token holds it.
    """
    return subject.encode(turn.after.rstrip(" "))


def written(subject: Subject, ids: list[int], how: Asking) -> str:
    """A prompt as text for an endpoint: with the special tokens of a template that was put around it
    here, and without what the server's tokenizer puts before it.
    """
    endpoint = subject.endpoint
    in_template = how.chat and endpoint is not None and endpoint.kind == "completions"
    if not in_template:
        return subject.decode(ids)
    added = subject.added
    return subject.decode(ids[len(added):] if ids[:len(added)] == added else ids, special=True)


def spoken(subject: Subject, said: list[int], asked: Asking) -> tuple[str, bool]:
    """What was said up to a token that ends an answer, and whether the limit ended it instead.

    In plain text a line end after the first words ends an answer too: few base models end a text.
    """
    end = next((place for place, token in enumerate(said) if token in asked.ends), None)
    response = subject.decode(said[:end])
    line_ended = not asked.chat and "\n" in response.lstrip()
    return response, end is None and not line_ended


def _gap(after: str) -> str:
    return "" if not after or after[-1].isspace() else " "


def has_template(folder: Path) -> bool:
    """Whether the model has a chat template. Raises UserError if its file can't be read."""
    if (folder / TEMPLATE).is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(config_of(path).get("chat_template"))


def closing(subject: Subject, options: dict[str, Any]) -> frozenset[int]:
    """The special token with which the template closes the model's turn, where it does."""
    _, found, after = _exchange(subject.folder, options).rpartition(MARK)
    first = subject.tokenizer.encode(after.lstrip(), add_special_tokens=False).ids[:1] if found else []
    special = subject.tokenizer.get_added_tokens_decoder()
    return frozenset(token for token in first if token in special and special[token].special)


def _opening(folder: Path, options: dict[str, Any], after: str) -> str:
    """What the template puts between its prompt for the model and the model's words, if only space."""
    exchange = _exchange(folder, options)
    asked = rendered(folder, [{"role": "user", "content": "?"}], options)
    if MARK in exchange and exchange.startswith(asked):
        between = exchange[len(asked):exchange.index(MARK)]
        if not between.strip():
            return between
    return ""


@cache
def _tokenizer(folder: Path) -> Any:
    from training.model import transformers_tokenizer  # seconds to import, and only templates need it

    return transformers_tokenizer(folder)


def _without_clock() -> str:
    """A line of the template language after which strftime_now gives TODAY."""
    codes = ("%-d", "%-m", "%-I", "%-H", *(f"%{code}" for code in "aAbBdfHIjmMpSUwWxXyYZc"))
    filled = "".join(f" | replace({code!r}, {TODAY.strftime(code)!r})" for code in codes)
    return f"{{% macro strftime_now(form) %}}{{{{ form{filled} }}}}{{% endmacro %}}\n"


def _exchange(folder: Path, options: dict[str, Any]) -> str:
    """A question and an answer in the template; "" where it can't show a finished exchange."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    try:
        return rendered(folder, messages, options, answered=True)
    except UserError:
        return ""


def rendered(folder: Path, messages: list[dict[str, str]], options: dict[str, Any], answered: bool = False) -> str:
    """The messages in the chat template of the model in `folder`, ending where the model goes on.

    Raises UserError where the template refuses them.
    """
    tokenizer = _tokenizer(folder.resolve())
    variables = {"date_string": TODAY.strftime("%d %b %Y"), **options}
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _without_clock() + template
        return str(tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=not answered, **variables))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder}: its chat template refuses the prompt: {str(error).splitlines()[0]}. "
                        "Set chat to never, or chat_options to what it needs.") from None
