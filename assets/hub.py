"""A dataset of the Hugging Face Hub as a source of documents, file by file, at a pinned revision.

Files go through the Hub's own cache: seven domains that read the same files fetch each once, an
interrupted download goes on, and reading may stop after any file, so 627B tokens need not be
fetched for 5B. The cost is the disk of the cache (HF_HOME), of which nothing is deleted here. The
Hub's library is imported where it is used (naming the package alone imports none of it), for most
sources are local and it takes a third of the time of a small stage.
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


class HubSource(Config):
    """Which files of which commit of which dataset."""

    hub: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """The dataset's id, owner/name."""
    revision: str
    """The full commit, 40 hexadecimal digits."""
    files: str
    """Which files, as a pattern in which * stands for anything, slashes too:
    "train/chunk1/*.jsonl.zst".
    """
    follow: str | None = None
    """A branch to whose newest commit assets/hub_branch.py moves `revision`. What is read is
    `revision` alone.
    """

    @field_validator("revision")
    @classmethod
    def _pinned(cls, revision: str) -> str:
        if len(revision) != COMMIT_DIGITS or not set(revision) <= set("0123456789abcdef"):
            raise ValueError(
                "not a full commit of 40 hexadecimal digits. A branch moves, so the run could not "
                "be "
                "repeated: take the commit from the dataset's page, Files, History"
            )
        return revision


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """What a dataset's pattern matches, each sorted."""

    read: list[str]
    ignored: dict[str, str]
    """Files that match and are not read, by the rule of assets/source_files.py, and why."""


def hub_files(source: HubSource) -> list[str]:
    """Paths of the files that match and hold documents, sorted. Raises UserError where none does."""
    return list_hub(source).read


def list_hub(source: HubSource) -> HubFiles:
    """The files that match, read and ignored. Raises UserError where none holds documents."""
    try:
        hub = huggingface_hub.HfApi()
        paths = sorted(
            hub.list_repo_files(source.hub, revision=source.revision, repo_type="dataset")
        )
    except Exception as error:
        raise explained(f"{source.hub} at {source.revision[:8]}", error) from None
    matching = [path for path in paths if fnmatchcase(path, source.files)]
    reasons = {path: why_ignored_below(path, DOCUMENTS) for path in matching}
    ignored = {path: why for path, why in reasons.items() if why}
    print_ignored({f"{source.hub}/{path}": why for path, why in ignored.items()}, source.hub)
    chosen = [path for path in matching if path not in ignored]
    if not chosen:
        raise UserError(
            f"{source.hub} at {source.revision[:8]}: no file matches {source.files!r} and ends "
            "with one of "
            f"{', '.join(DOCUMENTS)}. There are: {', '.join(paths[:8])}"
            f"{', ...' if len(paths) > 8 else ''}. Change `files`."
        )
    return HubFiles(read=chosen, ignored=ignored)


def fetch(source: HubSource, path: str) -> Path:
    """One file, here: from the cache, or downloaded into it. Raises UserError."""

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                source.hub, path, revision=source.revision, repo_type="dataset"
            )
        )
    except Exception as error:
        raise explained(f"{source.hub} at {source.revision[:8]}", error) from None


def explained(where: str, error: Exception) -> Exception:
    """What went wrong as something to mend; an error of another kind stays as it is. where: what
    was asked for.
    """
    from huggingface_hub import constants, errors

    if constants.HF_HUB_OFFLINE and isinstance(
        error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)
    ):
        return UserError(
            f"{where}: HF_HUB_OFFLINE=1 forbids fetching it. Run with HF_HUB_OFFLINE=0."
        )
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{where}: access must be asked for on its page; then put your token into HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{where}: no such dataset, or it is private. Check `hub`, or put your token into "
            "HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where}: no such revision. Take the commit from the dataset's page.")
    # The bases of HfHubHTTPError: whatever the library's HTTP client raises where no server
    # answers, and OSError.
    if isinstance(error, (errors.EntryNotFoundError, *errors.HfHubHTTPError.__bases__)):
        return UserError(
            f"{where}: could not be fetched ({type(error).__name__}: {error}). Run again: what is "
            "fetched "
            "stays in the cache."
        )
    return error
