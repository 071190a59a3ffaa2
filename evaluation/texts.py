"""Texts of the haystack: held-out documents of a domain, or the user's text files.

Text files are found by assets/source_files.py and read by assets/records.py, like documents. So a
hidden file is not a haystack, and a byte order mark is not a part of the text. All texts are held
in memory.
"""

import sys
from pathlib import Path

from assets.document_store import FILE, read_documents, texts_of
from assets.records import read_text
from assets.source_files import DOCUMENTS, TEXTS, shown, source_files
from core.errors import UserError


def read_texts(path: Path, setting: str = "needle_report.haystack") -> list[str]:
    """The held-out documents of a folder of data/raw_corpus, or the texts of text files.

    Text files are the .txt, .txt.gz and .txt.zst files below a folder, or one file of any other
    ending. Empty ones are left out and named on stderr. setting: the key of params.yaml, for
    messages. Raises UserError if there is no text, or one can't be read.
    """
    if (path / FILE).is_file():
        texts = [text for batch in read_documents(path) for text in texts_of(batch, heldout=True)]
        return _not_empty(path, [text for text in texts if text])

    texts = []
    for file in _text_files(path, setting):
        text = read_text(file)
        if text.strip():
            texts.append(text)
        else:
            print(f"ignored: {shown(file)}: empty", file=sys.stderr)
    return _not_empty(path, texts)


def _text_files(path: Path, setting: str) -> list[Path]:
    """The files below a folder, or the file itself. Raises UserError."""
    if path.is_file():
        if path.name.lower().endswith(DOCUMENTS):
            raise UserError(
                f"{shown(path)}: holds records, not a text. Name a .txt file; "
                "or make it a domain, and name data/raw_corpus/DOMAIN."
            )
        return [path]
    return source_files(path, TEXTS, setting).read


def _not_empty(path: Path, texts: list[str]) -> list[str]:
    """The same texts. Raises UserError if there is none."""
    if not texts:
        raise UserError(
            f"{shown(path)}: no text there. Name a folder of .txt files, or "
            "data/raw_corpus/DOMAIN with held-out documents."
        )
    return texts
