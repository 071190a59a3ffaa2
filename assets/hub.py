"""Hub: a dataset of the Hugging Face Hub as a source of documents, at a pinned revision.

Files are fetched one by one, when they are needed. So reading may stop after any file: 5B tokens do
not need a download of 627B. Files go through the Hub's own cache. Seven domains that read the same
file download it once, and an interrupted download continues.

The cost is the disk space of the cache (HF_HOME). Nothing is deleted from it here.

The Hub's library is slow to import: a third of the time of a small stage, and most sources are
local. It loads its parts when they are first used, so importing the package alone costs nothing.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import huggingface_hub
from pydantic import Field, field_validator

from assets.source_files import DOCUMENTS, print_ignored, why_ignored_below
from core.errors import UserError
from core.params import Config

COMMIT_DIGITS = 40
EXAMPLES = 8
"""Paths in the message that no file matches."""


class HubSource(Config):
    """Which files of which commit of which dataset."""

    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """The dataset's id, owner/name."""
    revision: str
    """The full commit, 40 hexadecimal digits."""
    files: str
    """A pattern for paths. * matches anything, including slashes: "train/chunk1/*.jsonl.zst"."""
    follow: str | None = None
    """A branch. assets/hub_branch.py sets `revision` to its newest commit. Only `revision` is
    read."""

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str) -> str:
        # A short commit or a tag would do for the Hub, but it may come to mean another commit.
        if len(revision) != COMMIT_DIGITS or not set(revision) <= set("0123456789abcdef"):
            raise ValueError(
                "not a full commit of 40 hexadecimal digits. A branch moves, so the run could not "
                "be repeated: take the commit from the dataset's page, Files, History"
            )
        return revision


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """The files that match a dataset's pattern, each sorted."""

    read: list[str]
    ignored: dict[str, str]
    """Files that match and are not read, and why (assets/source_files.py)."""


def hub_files(source: HubSource) -> list[str]:
    """Paths of the files that match and hold documents, sorted. Raises UserError if none does."""
    return list_hub(source).read


def list_hub(source: HubSource) -> HubFiles:
    """The files that match, read and ignored. Raises UserError if none holds documents."""
    try:
        hub = huggingface_hub.HfApi()
        listed = hub.list_repo_files(source.hub, revision=source.revision, repo_type="dataset")
    except Exception as error:
        raise explained(f"{source.hub} at {source.revision[:8]}", error) from None

    paths = sorted(listed)
    read: list[str] = []
    ignored: dict[str, str] = {}
    for path in paths:
        if not fnmatchcase(path, source.files):
            continue
        why = why_ignored_below(path, DOCUMENTS)
        if why is None:
            read.append(path)
        else:
            ignored[path] = why

    print_ignored({f"{source.hub}/{path}": why for path, why in ignored.items()}, source.hub)
    if not read:
        more = ", ..." if len(paths) > EXAMPLES else ""
        raise UserError(
            f"{source.hub} at {source.revision[:8]}: no file matches {source.files!r} and ends "
            f"with one of {', '.join(DOCUMENTS)}. Change `files`. "
            f"There are: {', '.join(paths[:EXAMPLES])}{more}."
        )
    return HubFiles(read=read, ignored=ignored)


def fetch(source: HubSource, path: str) -> Path:
    """The local path of one file, which is downloaded unless it is in the cache."""
    try:
        local = huggingface_hub.hf_hub_download(
            source.hub, path, revision=source.revision, repo_type="dataset"
        )
        return Path(local)
    except Exception as error:
        raise explained(f"{source.hub} at {source.revision[:8]}", error) from None


def explained(where: str, error: Exception) -> Exception:
    """A UserError that says what to do. An error that is not the Hub's is returned unchanged.

    where: the dataset and the revision.
    """
    from huggingface_hub import constants, errors

    # The narrow classes come first: the later ones are their bases.
    if constants.HF_HUB_OFFLINE and isinstance(
        error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
    ):
        return UserError(
            f"{where}: HF_HUB_OFFLINE=1 forbids fetching it. Run with HF_HUB_OFFLINE=0."
        )
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{where}: it needs permission. "
            "Ask for access on its page, then put your token into HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{where}: no such dataset, or it is private. "
            "Check `hub`, or put your token into HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where}: no such revision. Take the commit from the dataset's page.")
    # The bases of HfHubHTTPError are OSError, and what the library's HTTP client raises if no
    # server answers (requests or httpx, by version).
    if isinstance(error, (errors.EntryNotFoundError, *errors.HfHubHTTPError.__bases__)):
        return UserError(
            f"{where}: could not be fetched ({type(error).__name__}: {error}). Run again: "
            "the cache keeps what is fetched."
        )
    return error
