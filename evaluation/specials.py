"""Special tokens in prompts: tokens in the frame and the chat template, text in the content.

A question about HTML may hold "</s>". Read as the token, it ends the user's turn. A tokenizer finds
special tokens either in a whole text or nowhere in it, but a question stands in the middle of a
frame. So the text of a special token in content is marked when the content enters the prompt. The
marks are characters that Unicode reserves for such use, and a chat template keeps them.

A text with marks is encoded by a copy of the tokenizer that finds no special tokens. The meant ones
are replaced by names of our own, which the copy knows as tokens, and get their ids back. The cost
is that copy, a second for a large vocabulary, only for a prompt with marks.
"""

import re
from copy import deepcopy
from functools import cached_property

from tokenizers import AddedToken, Tokenizer

# Before a special token's text that is only text, and before a mark that is part of the content.
MARK = "\ufdd0"
# After a mark: encode the content as text, though no special token is written in it.
PLAIN = "\ufdd1"
# The name of a special token that is meant, by its id.
NAME = "\ufdd2{}\ufdd3"


class Specials:
    """The special tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokens = tokenizer.get_added_tokens_decoder()
        self.ids = {token.content: number for number, token in tokens.items() if token.special}
        self._tokens = {number: token for number, token in tokens.items() if token.special}
        # Where one token's text begins another's, the longer one is found, as by a tokenizer.
        longest_first = sorted(self._tokens.values(), key=lambda token: -len(token.content))
        self._written = re.compile("|".join(map(_pattern, longest_first)) or r"(?!)")

    def in_text(self, text: str) -> list[str]:
        """The texts of special tokens in a text, in order."""
        return self._written.findall(text)

    def as_content(self, text: str) -> str:
        """The text with marks, to be put into a prompt as content."""
        marked = re.sub(f"{MARK}|{self._written.pattern}", lambda found: f"{MARK}{found[0]}", text)
        if marked == text:
            # Nothing to mark, yet the tokenizer treats it differently (ModelUnderTest.as_content).
            marked = f"{text[:1]}{MARK}{PLAIN}{text[1:]}"
        return marked

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt with marked content."""
        meant = re.compile(
            f"{MARK}({MARK}|{PLAIN}|{self._written.pattern})|({self._written.pattern})"
        )
        named = meant.sub(self._named, text)
        ids = self._copy.encode(named, add_special_tokens=False).ids
        return [self._numbers.get(number, number) for number in ids]

    def _named(self, found: re.Match[str]) -> str:
        """The name of a special token that is meant; otherwise the content without its mark."""
        if found[2] is not None:
            return NAME.format(self.ids[found[2]])
        return "" if found[1] == PLAIN else found[1]

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with a token for each name, and without special tokens."""
        copy = deepcopy(self._tokenizer)
        named = []
        for number, token in self._tokens.items():
            # Some special tokens take the spaces around them; their names must do the same.
            name = NAME.format(number)
            named.append(
                AddedToken(
                    name,
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=False,
                )
            )
        copy.add_tokens(named)
        copy.encode_special_tokens = True
        return copy

    @cached_property
    def _numbers(self) -> dict[int, int]:
        """Id of a name in the copy -> id of the special token."""
        vocabulary = self._copy.get_vocab(with_added_tokens=True)
        return {vocabulary[NAME.format(number)]: number for number in self._tokens}


def unmarked(text: str) -> str:
    """A prompt as a reader should see it: without the marks of its content."""
    kept = {MARK + MARK: MARK}
    return re.sub(f"{MARK}[{MARK}{PLAIN}]?", lambda found: kept.get(found[0], ""), text)


def _pattern(token: AddedToken) -> str:
    """A regular expression that finds the token's text as the tokenizer does."""
    text = re.escape(token.content)
    return rf"(?<!\w){text}(?!\w)" if token.single_word else text
