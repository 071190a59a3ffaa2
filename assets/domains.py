"""Domains: SlimPajama's seven domains, and two mixtures of them. Shares count tokens.

Sources: "paper" is LLaMA's mixture, which Fu et al. 2024 quote in section 3. "slimpajama" has
SlimPajama's own shares, from the code that they released.
"""

SET_NAMES = {
    "commoncrawl": "RedPajamaCommonCrawl",
    "c4": "RedPajamaC4",
    "github": "RedPajamaGithub",
    "wikipedia": "RedPajamaWikipedia",
    "book": "RedPajamaBook",
    "arxiv": "RedPajamaArXiv",
    "stackexchange": "RedPajamaStackExchange",
}
"""Our short name of a domain -> its `meta.redpajama_set_name`."""

MIXTURES: dict[str, dict[str, float]] = {
    "paper": {
        "commoncrawl": 0.67,
        "c4": 0.15,
        "github": 0.045,
        "wikipedia": 0.045,
        "book": 0.045,
        "arxiv": 0.025,
        "stackexchange": 0.02,
    },
    "slimpajama": {
        "commoncrawl": 0.53374772,
        "c4": 0.26609933,
        "github": 0.05004782,
        "wikipedia": 0.03402128,
        "book": 0.0414836,
        "arxiv": 0.04290379,
        "stackexchange": 0.03169647,
    },
}
"""Named mixtures: domain -> share of tokens. They sum to 1 up to the rounding of their sources."""
