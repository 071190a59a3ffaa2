"""Which special tokens of a prompt are meant: those of the frame and the chat template, none of the
content.

A question about HTML may hold "</s>". Read as the token, it ends the user's turn. A tokenizer finds
special tokens in a whole text or nowhere in it, and a question stands in the middle of a frame. So
the text of a special token in content is marked when the content enters the prompt. The marks are
characters that Unicode keeps for such use, and a chat template lets them through. A text with marks
is encoded by a copy of the tokenizer, which finds no special token: the meant ones stand there
under names of ours, and get their ids back. The cost is that copy, a second for a large vocabulary,
paid only for a prompt with marks.
"""

import re
from copy import deepcopy
from functools import cached_property

from tokenizers import AddedToken, Tokenizer

MARK = "\ufdd0"
"""Before a special token's text that is only text, and before a mark that is part of the content.
"""
PLAIN = "\ufdd1"
"""After a mark: the content is to be encoded as text, though no special token is written in it."""
NAME = "\ufdd2{}\ufdd3"
"""Of a special token that is meant, by its id."""


class Specials:
    """The special tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokens = tokenizer.get_added_tokens_decoder()
        self.ids = {token.content: number for number, token in tokens.items() if token.special}
        self._tokens = {number: token for number, token in tokens.items() if token.special}
        longest_first = sorted(self._tokens.values(), key=lambda token: -len(token.content))
        self._written = re.compile("|".join(map(_pattern, longest_first)) or r"(?!)")

    def in_text(self, text: str) -> list[str]:
        """The special tokens that are written in a text, in order."""
        return self._written.findall(text)

    def as_content(self, text: str) -> str:
        """A content with marks, to be put into a prompt."""
        marked = re.sub(f"{MARK}|{self._written.pattern}", lambda found: f"{MARK}{found[0]}", text)
        if marked == text:
            marked = f"{text[:1]}{MARK}{PLAIN}{text[1:]}"
        return marked

    def encode(self, text: str) -> list[int]:
        """Ids of a prompt in which content is marked."""
        meant = re.compile(
            f"{MARK}({MARK}|{PLAIN}|{self._written.pattern})|({self._written.pattern})"
        )
        named = meant.sub(self._named, text)
        ids = self._copy.encode(named, add_special_tokens=False).ids
        return [self._numbers.get(number, number) for number in ids]

    def _named(self, found: re.Match[str]) -> str:
        """The name of a special token that is meant; else, the content without its mark."""
        if found[2] is not None:
            return NAME.format(self.ids[found[2]])
        return "" if found[1] == PLAIN else found[1]

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with a token for each name, and without special tokens."""
        copy = deepcopy(self._tokenizer)
        copy.add_tokens(
            [
                AddedToken(
                    NAME.format(number), lstrip=token.lstrip, rstrip=token.rstrip, normalized=False
                )
                for number, token in self._tokens.items()
            ]
        )
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """From the ids of the names to those of the special tokens."""
        vocabulary = self._copy.get_vocab(with_added_tokens=True)
        return {vocabulary[NAME.format(number)]: number for number in self._tokens}


def _pattern(token: AddedToken) -> str:
    text = re.escape(token.content)
    return rf"(?<!\w){text}(?!\w)" if token.single_word else text
