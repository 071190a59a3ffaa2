"""The stages of the data half, in the order of the graph, in this process and the current folder.

The items are those of params.yaml. This is not in worlds.py, because that takes seconds to import
PyTorch.
"""

from assets import (
    data_report,
    length_histograms,
    mixed_dataset,
    packed_shards,
    raw_corpus,
    token_demand,
    tokenized_corpus,
    tokenizer,
)
from core.params import names_of


def make_corpus() -> None:
    """Every stage before the recipes."""
    token_demand.run()
    for domain in names_of("domain"):
        raw_corpus.run(domain)
    tokenizer.run()
    for domain in names_of("domain"):
        tokenized_corpus.run(domain)
        length_histograms.run(domain)


def make_data_half() -> None:
    """Every stage from files to rows, and the report on them."""
    make_corpus()
    for recipe in names_of("recipe"):
        mixed_dataset.run(recipe)
        packed_shards.run(recipe)
    data_report.run()
