"""Demand: what a domain must supply. token_demand writes it and raw_corpus reads it.

It is a module of its own, so that a change in the computation of demands does not make the raw
corpus stale.
"""

from core.params import Config


class Demand(Config):
    """When to stop reading a domain. Tokens are estimated from bytes: there is no tokenizer yet."""

    tokens: float | None
    """Tokens of training documents. None: read every source to its end."""
    long_tokens: float
    """Tokens of training documents longer than `long_over`."""
    long_over: int
    bytes_per_token: float

    def met(self, supply: float, long_supply: float) -> bool:
        """Whether this many tokens, and this many in long documents, are enough."""
        return self.tokens is not None and supply >= self.tokens and long_supply >= self.long_tokens
