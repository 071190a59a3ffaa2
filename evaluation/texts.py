"""Texts to ask about: held-out documents of a domain, or files of the user's own."""

from pathlib import Path

from assets.document_store import FILE, read_documents, texts_of
from assets.stage import UserError


def read_texts(path: Path) -> list[str]:
    """Held-out documents where `path` is a folder of data/raw_corpus, else the texts of .txt files: one, or a folder.

    Raises UserError if there is none.
    """
    if (path / FILE).is_file():
        texts = [text for batch in read_documents(path) for text in texts_of(batch, heldout=True)]
    else:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        try:
            texts = [file.read_text() for file in files]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}. Name a UTF-8 .txt file, a folder of them, or data/raw_corpus/DOMAIN."
                            ) from None
    if not any(texts):
        raise UserError(f"{path}: no text there. Name a folder of .txt files, or data/raw_corpus/DOMAIN with held-out "
                        "documents.")
    return [text for text in texts if text]
