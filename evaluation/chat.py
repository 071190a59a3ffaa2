"""Prompts in plain text, or in the user's turn of the model's own chat template.

An instruct model that is asked in plain text often answers nothing. Its exact match of 0 is then no
measure of what it can find. A template is rendered around a mark in place of the context, so the
long part of a prompt is tokenized separately and shared by all prompts. The cost: what a template
does to the text of a message, for example trimming, is done to the words around the context but not
to the context itself.

The answer continues the prompt. A tokenizer may merge characters across the seam: "Answer: " and
"yes" become "Answer:" and " yes". So prompt and answer are tokenized together, and split after the
last token that the prompt has with and without the answer. A template's date is fixed, so the same
inputs give the same prompt on any day.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from assets.tokenizer import config_of
from core.errors import UserError, one_line
from evaluation.answers import without_thoughts
from evaluation.frame import ChatMode
from evaluation.model_under_test import ModelUnderTest
from training.baselines import TEMPLATE, EndpointConfig

MARK = "@@needlework@@"  # stands for the context while a template is rendered
TODAY = datetime(2024, 7, 26)  # the date that Llama 3's template falls back to


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The text around a context, and how an answer continues it."""

    before: str
    """Text before the context, with what a template puts there."""
    after: str
    """Ends where the answer begins; includes the answer's prefix."""
    gap: str
    """Put between `after` and an answer that does not begin with a space."""

    def joined(self, answer: str) -> str:
        """The answer, with the gap if it needs one."""
        return answer if answer[:1].isspace() else self.gap + answer


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How one report forms the prompts for one model."""

    chat: bool
    """Whether prompts are put in a chat template, here or by the endpoint."""
    turn: Callable[[str, str, str], Turn]
    """Makes a turn from the text before and after the context, and an answer's prefix."""
    begin: list[int]
    """Ids before the first token of text."""
    ends: frozenset[int]
    """Ids that end an answer."""


def cure(tested: ModelUnderTest) -> str:
    """What may help against empty and repetitive answers, as a phrase for a warning."""
    if tested.endpoint is not None and tested.endpoint.kind == "chat":
        return "set the endpoint's `options`, for it takes no answer_prefix"
    return "set chat or answer_prefix"


def asking(tested: ModelUnderTest, mode: ChatMode, options: dict[str, Any], report: str) -> Asking:
    """How `tested` is asked under `mode`.

    options: variables for the template. report: the section of params.yaml, for messages.
    Raises UserError if the mode is not possible.
    """
    endpoint = tested.endpoint
    if endpoint is not None and endpoint.kind == "chat":
        return _through_chat_endpoint(tested, endpoint, mode, report)

    # With an endpoint of kind completions the user chose plain text, unless `chat` is always.
    by_itself = mode == "auto" and endpoint is None and has_template(tested.folder)
    if not (by_itself or mode == "always"):
        return Asking(
            chat=False,
            turn=plain_turn,
            begin=tested.begin,
            ends=tested.ends,
        )
    if not has_template(tested.folder):
        raise UserError(
            f"{report}.chat = always, but {tested.folder} holds no chat template. "
            f"Put the model's {TEMPLATE} there, or set {report}.chat to auto."
        )
    return Asking(
        chat=True,
        turn=partial(chat_turn, tested.folder, options),
        begin=[],  # the template writes the begin token
        ends=tested.ends | closing(tested, options),
    )


def _through_chat_endpoint(
    tested: ModelUnderTest, endpoint: EndpointConfig, mode: ChatMode, report: str
) -> Asking:
    """The server applies its own template and begin token. Raises UserError under `never`."""
    if mode == "never":
        raise UserError(
            f"{report}.chat = never, but {endpoint.endpoint} is an endpoint of kind "
            "chat, which wraps every prompt itself. Set its kind to completions, "
            f"or {report}.chat to auto."
        )
    return Asking(
        chat=True,
        # A prefix of the answer would count as the user's text, so it is left out.
        turn=lambda before, after, _: plain_turn(before, after, ""),
        begin=[],
        ends=tested.ends,
    )


def plain_turn(before: str, after: str, prefix: str) -> Turn:
    """Plain text: the frame, then the prefix of the answer.

    before, after: the frame's text around the context.
    """
    return begun(before, after, _gap(after), prefix)


def chat_turn(folder: Path, options: dict[str, Any], before: str, after: str, prefix: str) -> Turn:
    """The frame as the user's message, then the beginning of the model's message, and the prefix.

    Raises UserError if the template shows the message more or less than once.
    """
    message = [{"role": "user", "content": f"{before}{MARK}{after}"}]
    parts = rendered(folder, message, options).split(MARK)
    if len(parts) != 2:
        raise UserError(
            f"{folder}: its chat template shows a message {len(parts) - 1} times, not once. "
            "Set chat to never."
        )
    return begun(parts[0], parts[1], _opening(folder, options, parts[1]), prefix)


def dialogue(
    folder: Path, messages: list[dict[str, str]], options: dict[str, Any], prefix: str
) -> str:
    """Several messages in the template, up to where the model's answer begins.

    prefix: the beginning of that answer, or "". Raises UserError if the template refuses them.
    """
    text = rendered(folder, messages, options)
    opening = _opening(folder, options, text)
    return begun("", text, opening, prefix).after if prefix.strip() else text + opening


def begun(before: str, after: str, gap: str, prefix: str) -> Turn:
    """A turn whose answer begins with `prefix`. gap: the gap before an answer without prefix."""
    if not prefix.strip():
        return Turn(
            before=before,
            after=after,
            gap=gap,
        )

    # One space between text and prefix, whichever of the two brings it.
    if not gap and after[-1:].isspace():
        prefix = prefix.lstrip(" ")
    elif prefix[:1].isspace():
        gap = ""
    after = f"{after}{gap}{prefix}"
    return Turn(
        before=before,
        after=after,
        gap=_gap(after),
    )


def seam(tested: ModelUnderTest, turn: Turn, answer: str) -> tuple[list[int], list[int]]:
    """Ids of the text after the context, and ids of the answer that continues it.

    Joined, they are the ids of the joined text. answer: text, whose special tokens are text.
    """
    answered = turn.after + turn.joined(tested.as_content(answer))
    alone, whole = tested.encode(turn.after), tested.encode(answered)
    shared = 0
    while shared < min(len(alone), len(whole)) and alone[shared] == whole[shared]:
        shared += 1
    return whole[:shared], whole[shared:]


def last_ids(tested: ModelUnderTest, turn: Turn) -> list[int]:
    """Ids of the text after the context, if the answer is unknown."""
    # A space at the end belongs to the answer's first token.
    return tested.encode(turn.after.rstrip(" "))


def written(tested: ModelUnderTest, ids: list[int], how: Asking) -> str | list[int]:
    """A prompt for an endpoint, as text without the tokens that the server adds in front.

    As ids, if the server would find special tokens in the content.
    """
    endpoint = tested.endpoint
    assert endpoint is not None
    completes = endpoint.kind == "completions"
    front = tested.added if how.chat and completes else how.begin
    bare = ids[len(front) :] if ids[: len(front)] == front else ids
    text = tested.decode(bare, special=True)

    # A server finds every special token that is written in a text, also in a haystack. If these are
    # not exactly the ones that are meant, only ids are unambiguous.
    special = frozenset(tested.specials.ids.values())
    meant = [number for number in bare if number in special]
    found = [tested.specials.ids[token] for token in tested.specials.in_text(text)]
    if completes and found != meant:
        return [*(how.begin or tested.added), *bare]
    return text


def may_be_read_as_tokens(tested: ModelUnderTest, contents: Iterable[str]) -> str | None:
    """A warning if a chat endpoint may find special tokens in the contents; else None."""
    # Only a chat endpoint gets nothing but text.
    if tested.endpoint is None or tested.endpoint.kind != "chat":
        return None
    found = [tokens for text in contents if (tokens := tested.specials.in_text(text))]
    if not found:
        return None
    return (
        f"{len(found)} of its texts hold the text of a special token, as {found[0][0]!r}, which "
        "the endpoint may take for the token. Set its kind to completions, or take it out."
    )


def spoken(tested: ModelUnderTest, generated: list[int], how: Asking) -> tuple[str, bool]:
    """The answer up to a token that ends it, and whether the token limit ended it instead."""
    end = next((place for place, token in enumerate(generated) if token in how.ends), None)
    response = without_thoughts(tested.decode(generated[:end]))
    # Few base models end a text. In plain text a line end after the first word is an end too.
    line_ended = not how.chat and "\n" in response.lstrip()
    return response, end is None and not line_ended


def _gap(after: str) -> str:
    """What separates an answer from the text before it: a space, if there is none yet."""
    return "" if not after or after[-1].isspace() else " "


def has_template(folder: Path) -> bool:
    """Whether the model has a chat template. Raises UserError if its file can't be read."""
    if (folder / TEMPLATE).is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(config_of(path).get("chat_template"))


def closing(tested: ModelUnderTest, options: dict[str, Any]) -> frozenset[int]:
    """The special token with which the template ends the model's turn, if there is one."""
    _, found, after = _exchange(tested.folder, options).rpartition(MARK)
    ids = tested.tokenizer.encode(after.lstrip(), add_special_tokens=False).ids
    first = ids[:1] if found else []
    special = tested.tokenizer.get_added_tokens_decoder()
    return frozenset(token for token in first if token in special and special[token].special)


def _opening(folder: Path, options: dict[str, Any], after: str) -> str:
    """The space that the template puts before the model's answer; "" if it puts other text."""
    # Some templates write "assistant:" for the prompt and "assistant: answer" for the exchange.
    exchange = _exchange(folder, options)
    asked = rendered(folder, [{"role": "user", "content": "?"}], options)
    if MARK in exchange and exchange.startswith(asked):
        between = exchange[len(asked) : exchange.index(MARK)]
        if not between.strip():
            return between
    return ""


@cache
def _tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder` as transformers opens it; opened once."""
    # It takes seconds to import, and only chat templates need it.
    from training.model import transformers_tokenizer

    return transformers_tokenizer(folder)


def _without_clock() -> str:
    """A line for the beginning of a template that makes strftime_now return TODAY."""
    # A macro has no access to Python, so it replaces each code of strftime by its value.
    codes = ("%-d", "%-m", "%-I", "%-H", *(f"%{code}" for code in "aAbBdfHIjmMpSUwWxXyYZc"))
    filled = "".join(f" | replace({code!r}, {TODAY.strftime(code)!r})" for code in codes)
    return f"{{% macro strftime_now(form) %}}{{{{ form{filled} }}}}{{% endmacro %}}\n"


def _exchange(folder: Path, options: dict[str, Any]) -> str:
    """A question and an answer in the template; "" if the template refuses it."""
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": MARK}]
    try:
        return rendered(folder, messages, options, answered=True)
    except UserError:
        return ""


def rendered(
    folder: Path, messages: list[dict[str, str]], options: dict[str, Any], answered: bool = False
) -> str:
    """The messages in the chat template of the model in `folder`.

    The text ends where the model's answer begins; with `answered`, after the last message.
    Raises UserError if the template refuses the messages.
    """
    tokenizer = _tokenizer(folder.resolve())
    variables = {"date_string": TODAY.strftime("%d %b %Y"), **options}
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _without_clock() + template
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=not answered,
                **variables,
            )
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{folder}: its chat template refuses the prompt: {one_line(error)}. "
            "Set chat to never, or chat_options to what it needs."
        ) from None
