"""Answers of a model behind an OpenAI-compatible endpoint, through the `openai` client.

The client handles retries, pauses, timeouts and connections. This module handles what differs
between servers. Newer models of OpenAI refuse `max_tokens` and `temperature`; many other servers
accept only these. So the first refusal of such a field changes this and all later requests. Without
temperature 0 answers are sampled, not greedy, and the report warns of it. A server that silently
cuts long prompts (Ollama does) is detected by its own count of prompt tokens.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from core.environment import REQUESTS, number_of
from core.errors import UserError, one_line
from evaluation.answers import without_thoughts
from training.baselines import EndpointConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

TIMEOUT = 600  # seconds for one answer
# After a lost connection, 429 or 5xx: pauses of half a minute in total, or as the server requests.
RETRIES = 8
AS_IDS = (
    " (the prompt was sent as token ids, for its content holds the text of a special token, which "
    "the server would find in a text)"
)
# The share of a prompt's tokens, as counted here, that the server must report. Counts may differ a
# little; a server that counts a third less cuts prompts or has another tokenizer.
LEAST_READ = 0.7
LONGEST = 300  # characters of a server's message

Key = TypeVar("Key")
Prompt = str | list[int]  # a text; or token ids, for an endpoint of kind completions


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer of an endpoint."""

    text: str
    """The answer; empty if the model gave none."""
    cut: bool
    """Whether the token limit ended it."""
    read: int | None
    """Tokens of the prompt by the server's count; None if it reports none."""
    greedy: bool
    """False if the server refused temperature 0."""


def complete(endpoint: EndpointConfig, prompt: Prompt, count: int) -> Reply:
    """The answer to one prompt, of at most `count` tokens.

    Raises UserError if there is none.
    """
    replies: list[Reply] = []
    complete_all(endpoint, [(0, prompt)], count, lambda _, reply: replies.append(reply))
    return replies[0]


def complete_all(
    endpoint: EndpointConfig,
    prompts: Iterable[tuple[Key, Prompt]],
    count: int,
    keep: Callable[[Key, Reply], None],
) -> None:
    """Send every prompt, NEEDLEWORK_REQUESTS (8) at a time; `keep` gets each reply as it arrives.

    Raises UserError at the first prompt that is not answered; replies before it have been kept.
    """
    at_once = max(int(number_of(REQUESTS)), 1)
    try:
        asyncio.run(_ask_all(endpoint, iter(prompts), count, keep, at_once))
    except BaseExceptionGroup as group:  # from the tasks below; the first one is the cause
        raise group.exceptions[0] from None


async def _ask_all(
    endpoint: EndpointConfig,
    prompts: Iterator[tuple[Key, Prompt]],
    count: int,
    keep: Callable[[Key, Reply], None],
    at_once: int,
) -> None:
    """Send all prompts in one event loop, `at_once` at a time."""
    from openai import AsyncOpenAI  # a second to import; only endpoints need it

    key = os.environ.get(endpoint.key_variable) or "none"
    async with AsyncOpenAI(
        base_url=endpoint.endpoint, api_key=key, timeout=TIMEOUT, max_retries=RETRIES
    ) as client:
        dialect = _Dialect(
            client=client,
            endpoint=endpoint,
            count=count,
        )

        async def work() -> None:
            """Send the next prompt until none is left."""
            for number, prompt in prompts:  # one iterator for all tasks: each takes the next prompt
                keep(number, await dialect.reply(prompt))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())


class _Dialect:
    """One server, and the request body that it accepts, as learned from its refusals."""

    def __init__(self, *, client: "AsyncOpenAI", endpoint: EndpointConfig, count: int) -> None:
        self.client, self.endpoint = client, endpoint
        self.body: dict[str, Any] = {"max_tokens": count, "temperature": 0}
        for name, value in endpoint.options.items():
            self.body[name] = value
            if name == "max_completion_tokens":
                self.body.pop("max_tokens", None)
        # An option of null removes a field.
        self.body = {name: value for name, value in self.body.items() if value is not None}

    async def reply(self, prompt: Prompt) -> Reply:
        """The reply to one prompt. Raises UserError."""
        from openai import APIStatusError, OpenAIError

        while True:
            # Another task may learn in the meantime; then this prompt is sent again as well.
            body = self.body
            try:
                answer = await self._send(prompt, body)
                break
            except APIStatusError as error:
                if self.body is body and not self._learn(error):
                    problem = f"{error.status_code}: {_words(error)}"
                    if isinstance(prompt, list):
                        problem += AS_IDS
                    raise self._refused(problem) from None
            except (OpenAIError, ValueError) as error:
                raise self._refused(f"{type(error).__name__}: {_words(error)}") from None
        return self._read(answer, greedy=body.get("temperature") == 0)

    async def _send(self, prompt: Prompt, body: dict[str, Any]) -> Any:
        """The server's answer, as the client's object."""
        model = self.endpoint.model
        if self.endpoint.kind == "chat":
            assert isinstance(prompt, str)
            return await self.client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], extra_body=body
            )
        return await self.client.completions.create(
            model=model,
            prompt=prompt,
            extra_body=body,
        )

    def _learn(self, error: Any) -> bool:
        """Change the body after a refusal of one of its fields. Returns whether it was changed."""
        if error.status_code not in (400, 422):
            return False
        # Servers name the refused field in the message, in `param`, or in both.
        message, field, body = str(error), error.param, dict(self.body)
        if "max_tokens" in body and ("max_completion_tokens" in message or field == "max_tokens"):
            body["max_completion_tokens"] = body.pop("max_tokens")
        elif "temperature" in body and ("temperature" in message or field == "temperature"):
            del body["temperature"]
        else:
            return False
        self.body = body
        return True

    def _read(self, answer: Any, greedy: bool) -> Reply:
        """The reply in the client's object. Raises UserError if it has no choice."""
        choices = getattr(answer, "choices", None)
        if not choices:
            raise self._refused(f"an answer without choices: {str(answer)[:200]}")
        # Servers leave out any of these fields.
        chat, choice = self.endpoint.kind == "chat", choices[0]
        holder = getattr(choice, "message", None) if chat else choice
        content = getattr(holder, "content" if chat else "text", None)
        return Reply(
            text=without_thoughts(_text_of(content)),
            cut=getattr(choice, "finish_reason", None) == "length",
            greedy=greedy,
            read=getattr(getattr(answer, "usage", None), "prompt_tokens", None),
        )

    def _refused(self, problem: str) -> UserError:
        """An error that names the URL, the problem and the remedy."""
        path = "chat/completions" if self.endpoint.kind == "chat" else "completions"
        url = f"{self.endpoint.endpoint.rstrip('/')}/{path}"
        return UserError(
            f"{url}: {problem}. Set the endpoint, its model and {self.endpoint.key_variable} "
            "right, and run again: what was answered is kept."
        )


def _text_of(content: Any) -> str:
    """The text of an answer. Some servers give a list of parts, of which thoughts are others."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text", "")) for part in parts)
    return content or ""


def check_read(reply: Reply, tokens: int, endpoint: EndpointConfig) -> None:
    """Raise UserError if the server has read much less than the `tokens` of the prompt."""
    if reply.read is not None and reply.read < LEAST_READ * tokens:
        raise UserError(
            f"{endpoint.endpoint}: it read {reply.read:,} of a prompt's {tokens:,} tokens, so it "
            f"cuts prompts, or {endpoint.tokenizer} is not its tokenizer. "
            "Raise the server's context (Ollama: num_ctx), leave out longer contexts, "
            "or name its own tokenizer."
        )


def _words(error: Exception) -> str:
    """The error's text on one line, of a length to read."""
    return one_line(error)[:LONGEST]
