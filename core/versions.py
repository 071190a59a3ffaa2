"""The versions of the packages that decide an artefact's bytes.

Each stage has a short list: a record of all 150 packages would not show which of them matter. The
cost: the lists are kept by hand. tests/test_architecture.py compares them with the imports of each
stage.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

MADE_WITH = "made_with"
"""In a metrics file: the versions an artefact was made with. In a record: the path of that file."""
PYTHON = "python"
"""Listed where Python itself decides bytes: its tables of Unicode, or its random choices."""

# Every report that runs a model needs these.
ASKED_WITH = ("numpy", "pandas", "pyarrow", "tokenizers", "torch", "transformers")

DECIDED_BY = {
    "token_demand": ("numpy",),
    "raw_corpus": ("numpy", "pyarrow", PYTHON),
    "tokenizer": ("tokenizers",),
    "tokenized_corpus": ("gigatoken", "numpy", "pyarrow", "tokenizers"),
    "length_histograms": ("matplotlib", "numpy", "pandas", "pyarrow"),
    "mixed_dataset": ("numpy", "pandas", "pyarrow"),
    "packed_shards": ("numpy", "pyarrow"),
    "data_report": ("matplotlib", "numpy", "pandas"),
    "base_checkpoint": ("numpy", "pyarrow", "tokenizers", "torch", "torchao", "transformers"),
    "checkpoint": ("numpy", "pyarrow", "torch", "torchao", "transformers"),
    "needle_report": ("matplotlib", PYTHON, *ASKED_WITH),
    "loss_report": ASKED_WITH,
    "book_qa_report": (PYTHON, *ASKED_WITH),
    "short_context_report": ("lm_eval", PYTHON, *ASKED_WITH),
    "comparison": ("matplotlib", "numpy", "pandas", PYTHON),
}
"""By stage, the packages that decide the bytes of its artefacts."""


def package_versions(stage: str) -> dict[str, str]:
    """Package -> version, of those in DECIDED_BY that are installed."""
    found = {}
    for name in DECIDED_BY.get(stage, ()):
        try:
            found[name] = platform.python_version() if name == PYTHON else version(name)
        except PackageNotFoundError:
            continue
    return found
