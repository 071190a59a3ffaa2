"""The model under test as lm-eval's class for transformers models.

Prompts are formed as in our other reports: the tested model's begin token, no end token inside of a
prompt, special tokens in a question as text, and the chat template with a fixed date. What lm-eval
does silently is noted: which prompts it cut at their beginning, and which answers the token limit
ended. The cost: several of its methods are overridden, so a new version of it
must be tried.
"""

from functools import cache
from typing import Any

import torch

from core.errors import UserError
from evaluation.chat import Asking, dialogue
from evaluation.model_under_test import ModelUnderTest
from evaluation.task_samples import kept_text
from training.attention import CACHED
from training.model import transformers_tokenizer

PADDED = 8192  # tokens of a prompt up to which a mask of length x length is small


def harness_model(
    tested: ModelUnderTest,
    batch: int,
    longest: int,
    how: Asking | None = None,
    options: dict[str, Any] | None = None,
) -> Any:
    """The harness's class for a transformers model; its prompts begin as the tested model's do.

    batch: requests in one forward pass. longest: tokens of a prompt that is not cut. how: of
    evaluation/chat.py; None: plain text. options: variables for the chat template.
    The result has attributes `cut`, the number of prompts that were cut, `left`, what was left of
    each of them, and `unended`, whether the token limit ended a prompt's answer.
    """
    # The harness would let the tokenizer add all of its special tokens. Some tokenizers end every
    # text with one, which would stand between a question and its answer. The harness would also
    # find special tokens in a question; here their text is text.
    chat = how is not None and how.chat
    ends = tested.ends if how is None else how.ends
    tokenizer = transformers_tokenizer(tested.folder)
    # Padding needs a token; which one does not matter, as it is masked.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
    return _class()(
        tested,
        chat,
        ends,
        options or {},
        pretrained=tested.model,
        tokenizer=tokenizer,
        batch_size=batch,
        max_length=longest,
        add_bos_token=bool(tested.begin),
    )


@cache
def _class() -> Any:
    """The class. Made at its first use, because lm-eval takes seconds to import."""
    from lm_eval.models.huggingface import HFLM

    class HarnessModel(HFLM):  # type: ignore[misc]  # lm_eval is untyped
        def __init__(
            self,
            tested: ModelUnderTest,
            chat: bool,
            ends: frozenset[int],
            options: dict[str, Any],
            **named: Any,
        ) -> None:
            self.tested, self.chat, self.ends, self.options = tested, chat, ends, options
            self.left: dict[str, Any] = {}
            self.unended: dict[str, bool] = {}
            self._asked: list[str] = []
            super().__init__(**named)

        @property
        def cut(self) -> int:
            """The number of prompts that were cut."""
            return len(self.left)

        @property
        def eot_token_id(self) -> int:
            """As in lm-eval; a tokenizer without an end token has another one that stands there."""
            end = self.tokenizer.eos_token_id
            return int(self.tokenizer.pad_token_id if end is None else end)

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            """The messages in our way; without `add_generation_prompt`, the last one goes on."""
            messages = [
                {**message, "content": self.tested.as_content(message["content"])}
                for message in chat_history
            ]
            prefix = "" if add_generation_prompt else messages.pop()["content"]
            try:
                return dialogue(self.tested.folder, messages, self.options, prefix)
            except UserError:
                if messages[0]["role"] != "system":
                    raise
            # Some templates know no system message. The first question then begins with it.
            system, first, *rest = messages
            first = {**first, "content": f"{system['content']}\n\n{first['content']}"}
            return dialogue(self.tested.folder, [first, *rest], self.options, prefix)

        def _encode_pair(self, context: str, continuation: str) -> Any:
            """As in lm-eval; special tokens in an answer are text."""
            if self.chat:
                continuation = self.tested.as_content(continuation)
            return super()._encode_pair(context, continuation)

        def _loglikelihood_tokens(self, requests: Any, *given: Any, **named: Any) -> Any:
            """As in lm-eval; also notes the prompts that it will cut."""
            # One prompt has a request per choice; it is noted once. The last token of a choice is
            # predicted and never read, hence the 1.
            for request in requests:
                asked, context, answer = request
                if asked is not None and len(context) + len(answer) > self.max_length + 1:
                    left = max(self.max_length + 1 - len(answer), 0)
                    self._note(asked[0], context[len(context) - left :])
            return super()._loglikelihood_tokens(requests, *given, **named)

        def tok_encode(
            self,
            string: str,
            add_special_tokens: bool | None = None,
            left_truncate_len: int | None = None,
            **_: Any,
        ) -> list[int]:
            """Ids of a text, with the begin token and without special tokens in it.

            In a chat template: with the template's own special tokens.
            """
            if self.chat:
                ids = self.tested.encode(string)  # the template writes the begin token
            else:
                ids = list(
                    self.tokenizer.encode(
                        string, add_special_tokens=False, split_special_tokens=True
                    )
                )
                ids = ids if add_special_tokens is False else self.tested.begin + ids
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def tok_batch_encode(
            self,
            strings: Any,
            padding_side: str = "left",
            left_truncate_len: int | None = None,
            truncation: bool = False,
        ) -> tuple[Any, Any]:
            """Ids and attention mask of several prompts: int64[prompts, longest] each."""
            # A space at the end of a chat prompt belongs to the answer's first token.
            rows = [self.tok_encode(text.rstrip(" ") if self.chat else text) for text in strings]
            if left_truncate_len:
                for text, row in zip(strings, rows, strict=True):
                    if len(row) > left_truncate_len:
                        self._note(text, row[-left_truncate_len:])
                rows = [row[-left_truncate_len:] for row in rows]
            self._asked = list(strings)
            self.tokenizer.padding_side = padding_side
            batch = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
            return batch["input_ids"], batch["attention_mask"]

        def _model_generate(
            self, context: Any, max_length: int, stop: list[str], **named: Any
        ) -> Any:
            """As in lm-eval; also ends at the template's end token, and notes what did not end."""
            if self.ends:
                named.setdefault("eos_token_id", sorted(self.ends))
            rows = self._generated(context, max_length, stop, **named)
            begin = context.shape[1]
            for text, row in zip(self._asked, rows[:, begin:].tolist(), strict=True):
                said = self.tok_decode(row)
                stopped = any(mark and mark in said for mark in stop)
                ended = stopped or len(row) < max_length - begin or not self.ends.isdisjoint(row)
                self.unended[text] = not ended
            return rows

        def _generated(self, context: Any, max_length: int, stop: list[str], **named: Any) -> Any:
            """As in lm-eval, where prompts of unequal length are padded at the left.

            Our attention for evaluation on a GPU takes no mask, so a prompt would see its padding.
            Short prompts get PyTorch's attention with a mask; long ones go one by one.
            """
            inside = named["attention_mask"].bool()
            ours = self.model.config._attn_implementation == CACHED
            if not ours or bool(inside.all()):
                return super()._model_generate(context, max_length, stop, **named)
            width = context.shape[1]
            if width <= PADDED:
                self.model.set_attn_implementation("sdpa")
                try:
                    return super()._model_generate(context, max_length, stop, **named)
                finally:
                    self.model.set_attn_implementation(CACHED)

            made = []
            for row, real in zip(context, inside, strict=True):
                bare = row[real][None]
                named["attention_mask"] = torch.ones_like(bare)
                room = max_length - width + bare.shape[1]
                said = super()._model_generate(bare, room, stop, **named)[0, bare.shape[1] :]
                fill = row.new_full((max_length - width - len(said),), self.tokenizer.pad_token_id)
                made.append(torch.cat([row, said, fill]))
            return torch.stack(made)

        def _note(self, prompt: str, ids: list[int]) -> None:
            """Note what is left of a prompt that is cut. ids: int64[tokens that are left]."""
            text = self.tested.decode(list(ids), special=True)
            self.left.setdefault(prompt, kept_text(text))

    return HarnessModel
