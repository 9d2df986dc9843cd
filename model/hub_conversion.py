"""Published ``.pth`` files of a hub repository, converted on first use and kept.

    CACHE/checkpoints/OWNER--NAME/refs/REVISION               the commit that REVISION was last
                                  COMMIT/FILE/PRESET/         a checkpoint folder
                                  lock                        held by the process that converts

``CACHE`` is ``$FLOWMO_CACHE``, else ``$XDG_CACHE_HOME/flowmo``, else ``~/.cache/flowmo``. A
checkpoint folder that has a ``config.json`` is whole, so readers need no lock.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RevisionResolutionError

from flowmo.model.checkpoint_files import CONFIG_FILE
from flowmo.model.config import preset as find_preset
from flowmo.model.errors import CheckpointError
from flowmo.model.files import write_file
from flowmo.model.published import convert_published

logger = logging.getLogger(__name__)

DEFAULT_REVISION = "main"
# Characters of a library's error that are passed on; some explain at length.
_REASON = 300
# What the hub's library raises when a file cannot be had, whatever the reason.
HUB_ERRORS = (HfHubHTTPError, OSError, RevisionResolutionError, ValueError)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubOptions:
    """How the hub is asked.

    Args:
        revision: Branch, tag or commit of the repository; its main branch by default.
        cache_dir: The folder that keeps downloads; the hub's own cache by default.
        force_download: Whether to download what the cache has, too.
        local_files_only: Whether to leave the network alone.
        token: The hub's token; the stored one by default.
    """

    revision: str | None = None
    cache_dir: str | Path | None = None
    force_download: bool = False
    local_files_only: bool = False
    token: str | bool | None = None


def cache_folder() -> Path:
    """The folder that keeps converted checkpoints, whether it exists or not."""
    if own := os.environ.get("FLOWMO_CACHE"):
        return Path(own).expanduser() / "checkpoints"
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "flowmo" / "checkpoints"
    return Path.home() / ".cache" / "flowmo" / "checkpoints"


def converted_from_hub(repository: str, file: str, preset: str, options: HubOptions) -> Path:
    """The checkpoint folder of a published file, converted (to bfloat16) if it is not yet.

    What was converted before is used without a download, and without the network when that is not
    to be had. Processes that ask for the same repository at once wait for the first of them.

    Args:
        repository: ``owner/name`` on the hub.
        file: The path of a ``.pth`` file in it.
        preset: The name of the config of the model that the file holds.
        options: How the hub is asked.

    Raises:
        CheckpointError: The file cannot be had, or is not what ``preset`` asks for.
        ConfigError: There is no such preset; the message lists those there are.
    """
    config = find_preset(preset)  # before gigabytes are downloaded
    root = cache_folder() / repository.replace("/", "--")
    reference = root / "refs" / quote(options.revision or DEFAULT_REVISION, safe="")
    commit = None if options.local_files_only else _commit_of(repository, file, options)
    if commit is None and reference.is_file():
        commit = reference.read_text(encoding="utf-8")
        logger.warning(
            "the hub was not asked which commit %s is now; commit %s is used, as last time",
            repository,
            commit,
        )
    if commit is not None and not options.force_download:
        folder = root / commit / file / preset
        if _is_whole(folder):
            write_file(reference, commit.encode(), flush_to_disk=False)
            return folder
    with _locked(root / "lock"):
        try:
            source = Path(_download(repository, file, options))
        except HUB_ERRORS as error:
            raise CheckpointError(
                f"{file} of the repository {repository} could not be had from the hub: "
                f"{reason(error)}"
            ) from error
        # The hub's cache: snapshots/COMMIT/FILE.
        commit = source.parents[file.count("/")].name
        folder = root / commit / file / preset
        if options.force_download or not _is_whole(folder):
            logger.info("converting %s of %s to %s", file, repository, folder)
            convert_published(source, config, folder)
        write_file(reference, commit.encode(), flush_to_disk=False)
    return folder


def _commit_of(repository: str, file: str, options: HubOptions) -> str | None:
    """The commit that the revision is now; None if the hub does not say."""
    try:
        found = hf_hub_download(
            repository,
            file,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            dry_run=True,
        )
    except HUB_ERRORS as error:
        logger.debug("no commit of %s: %s", repository, error)
        return None
    return found.commit_hash


def _download(repository: str, file: str, options: HubOptions) -> str:
    return hf_hub_download(
        repository,
        file,
        revision=options.revision,
        cache_dir=options.cache_dir,
        force_download=options.force_download,
        local_files_only=options.local_files_only,
        token=options.token,
    )


def _is_whole(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among the processes of this machine; it goes with the process if that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def reason(error: Exception) -> str:
    """What an error of the hub's library says, on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _REASON else f"{words[: _REASON - 3]}..."
