"""What a domain must bring, as token_demand writes it and raw_corpus reads it; apart from both, so
that a change in how needs are worked out does not count as a change in how documents are read.
"""

from core.params import Config


class Demand(Config):
    """Where reading a domain may stop. Tokens are estimated from bytes, for no tokenizer is there
    yet.
    """

    tokens: float | None
    """Tokens of training documents; None reads every source to its end."""
    long_tokens: float
    """Tokens of training documents longer than `long_over`."""
    long_over: int
    bytes_per_token: float

    def met(self, supply: float, long_supply: float) -> bool:
        """Whether so many tokens, and so many in long documents, are enough."""
        return self.tokens is not None and supply >= self.tokens and long_supply >= self.long_tokens
