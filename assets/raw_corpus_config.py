"""What params.yaml may say about the raw corpus (assets/raw_corpus.py)."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from assets.tally import Limits
from core.params import Config


class Domain(Config):
    """One domain of the corpus."""

    source: Path
    """A file or folder of documents, or a YAML file that describes a Hub dataset or a sample
    domain."""
    only: str | None = None
    """The value of `domain_field` that selects this domain. None: SlimPajama's name of the domain,
    or else the domain's own name. Numbers and booleans are compared as text: 3 selects 3 and "3".
    """

    @field_validator("only", mode="before")
    @classmethod
    def _as_text(cls, only: object) -> object:
        # bool first: True is an int in Python.
        if isinstance(only, bool):
            return "true" if only else "false"
        return str(only) if isinstance(only, int) else only


class Decontamination(Config):
    """Which training texts are too similar to the texts that the model will be tested on."""

    against: Path | None = None
    """A file or folder of evaluation texts, in the same formats as documents. None: no document is
    dropped."""
    text_field: str = "text"
    """The field of their records that holds the text. Dots lead into nested records."""
    run: Annotated[int, Field(ge=15)] | None = 50
    """A document is dropped if it shares this many letters and digits in a row with an evaluation
    text. A Chinese character or a kana counts as two (assets/contamination.py). None: no document
    is dropped. In the graph use this to switch it off: `against` is a dependency there and must
    name a file."""


class RawCorpusConfig(Config):
    """Where documents come from, and which of them are not for training."""

    seed: int = 0
    text_field: str = "text"
    """The field that holds the text. Dots lead into nested records."""
    domain_field: str | None = None
    """The field that names a record's domain, if sources mix domains. SlimPajama has
    meta.redpajama_set_name."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of documents that no recipe may train on. They are selected by their ids."""
    longest: Annotated[int, Field(ge=1)] = 64 << 20
    """Bytes of UTF-8. A longer document is skipped as oversize."""
    limits: Limits = Limits()
    decontamination: Decontamination = Decontamination()
    domains: dict[str, Domain]
