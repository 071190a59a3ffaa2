"""Words from a model behind an OpenAI-compatible endpoint, through the `openai` client.

Retries, pauses, timeouts and connections are the client's own; here is only what differs between servers. Newer models
of OpenAI refuse `max_tokens` and a temperature, and many other servers know nothing newer: the first refusal of one of
them changes how this and all further requests are written. Without temperature 0 answers are drawn, not greedy, and the
report says so. A server that silently cuts a long prompt (Ollama does) is caught by the number of tokens that it says
it has read.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from assets.stage import UserError, number_of_environment
from training.baselines import EndpointConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

AT_ONCE = "NEEDLEWORK_REQUESTS"
"""Environment variable: requests at work at the same time."""
TIMEOUT = 600
"""Seconds for one answer."""
RETRIES = 8
"""After a lost connection, 429 or 5xx: about half a minute of pauses, or what the server asks for."""
LEAST_READ = 0.7
"""Share of a prompt's tokens, as counted here, that a server has to report as read. Its tokenizer may count a little
otherwise than ours; one that counts less by a third is not the tokenizer that lengths are meant in."""

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an endpoint said."""

    text: str
    cut: bool
    """Whether it was stopped by the limit of tokens."""
    read: int | None
    """Tokens of the prompt, as the server counts them; None where it does not say."""
    greedy: bool
    """False where the server refused temperature 0."""


def complete(endpoint: EndpointConfig, prompt: str, count: int) -> Reply:
    """What the endpoint says to one prompt, at most `count` tokens. Raises UserError where it does not answer."""
    replies: list[Reply] = []
    complete_all(endpoint, [(0, prompt)], count, lambda _, reply: replies.append(reply))
    return replies[0]


def complete_all(endpoint: EndpointConfig, prompts: Iterable[tuple[Key, str]], count: int,
                 keep: Callable[[Key, Reply], None]) -> None:
    """Ask every prompt, NEEDLEWORK_REQUESTS (8) at once; `keep` gets each reply as it comes.

    Raises UserError at the first prompt that is not answered; what was kept before stays kept.
    """
    at_once = max(int(number_of_environment(AT_ONCE, 8)), 1)
    try:
        asyncio.run(_ask_all(endpoint, iter(prompts), count, keep, at_once))
    except BaseExceptionGroup as group:  # of the tasks below; the first is the reason
        raise group.exceptions[0] from None


async def _ask_all(endpoint: EndpointConfig, prompts: Iterator[tuple[Key, str]], count: int,
                   keep: Callable[[Key, Reply], None], at_once: int) -> None:
    from openai import AsyncOpenAI  # a second to import; only endpoints need it

    key = os.environ.get(endpoint.key_variable) or "none"
    async with AsyncOpenAI(base_url=endpoint.endpoint, api_key=key, timeout=TIMEOUT, max_retries=RETRIES) as client:
        dialect = _Dialect(client=client, endpoint=endpoint, count=count)

        async def work() -> None:
            for number, prompt in prompts:  # shared by all: each takes the next one
                keep(number, await dialect.reply(prompt))

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())


class _Dialect:
    """One server, and how its requests are written, as its refusals have taught."""

    def __init__(self, *, client: "AsyncOpenAI", endpoint: EndpointConfig, count: int) -> None:
        self.client, self.endpoint = client, endpoint
        self.body: dict[str, Any] = {"max_tokens": count, "temperature": 0}
        for name, value in endpoint.options.items():
            self.body[name] = value
            if name == "max_completion_tokens":
                self.body.pop("max_tokens", None)
        self.body = {name: value for name, value in self.body.items() if value is not None}

    async def reply(self, prompt: str) -> Reply:
        """The reply to one prompt. Raises UserError."""
        from openai import APIStatusError, OpenAIError

        while True:
            body = self.body
            try:
                answer = await self._send(prompt, body)
                break
            except APIStatusError as error:
                if self.body is body and not self._learn(error):
                    raise self._refused(f"{error.status_code}: {_first_line(error)}") from None
            except (OpenAIError, ValueError) as error:
                raise self._refused(f"{type(error).__name__}: {_first_line(error)}") from None
        return self._read(answer, greedy=body.get("temperature") == 0)

    async def _send(self, prompt: str, body: dict[str, Any]) -> Any:
        model = self.endpoint.model
        if self.endpoint.kind == "chat":
            return await self.client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": prompt}], extra_body=body)
        return await self.client.completions.create(model=model, prompt=prompt, extra_body=body)

    def _learn(self, error: Any) -> bool:
        """Write requests otherwise after a refusal of what they held; whether there was such a thing."""
        if error.status_code not in (400, 422):
            return False
        said, body = str(error), dict(self.body)
        if "max_tokens" in body and ("max_completion_tokens" in said or error.param == "max_tokens"):
            body["max_completion_tokens"] = body.pop("max_tokens")
        elif "temperature" in body and ("temperature" in said or error.param == "temperature"):
            del body["temperature"]
        changed = body != self.body
        if changed:
            self.body = body
        return changed

    def _read(self, answer: Any, greedy: bool) -> Reply:
        choices = getattr(answer, "choices", None)
        if not choices:
            raise self._refused(f"an answer without choices: {str(answer)[:200]}")
        # Servers leave out what they like, so nothing is taken for granted.
        chat, choice = self.endpoint.kind == "chat", choices[0]
        holder = getattr(choice, "message", None) if chat else choice
        text = getattr(holder, "content" if chat else "text", None)
        return Reply(text=text or "", cut=getattr(choice, "finish_reason", None) == "length", greedy=greedy,
                     read=getattr(getattr(answer, "usage", None), "prompt_tokens", None))

    def _refused(self, problem: str) -> UserError:
        url = f"{self.endpoint.endpoint.rstrip('/')}/{'chat/' if self.endpoint.kind == 'chat' else ''}completions"
        return UserError(f"{url}: {problem}. Set the endpoint, its model and {self.endpoint.key_variable} "
                         "right, and run again: what was answered is kept.")


def check_read(reply: Reply, tokens: int, endpoint: EndpointConfig) -> None:
    """Raises UserError where the server has read much less than the `tokens` of the prompt."""
    if reply.read is not None and reply.read < LEAST_READ * tokens:
        raise UserError(f"{endpoint.endpoint}: it read {reply.read:,} of a prompt's {tokens:,} tokens, so it cuts "
                        f"prompts, or {endpoint.tokenizer} is not its tokenizer. Raise the server's context (Ollama: "
                        "num_ctx), leave longer contexts out, or name its own tokenizer.")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
