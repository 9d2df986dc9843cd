"""A checkpoint from wherever it lies into a folder, whole and checked, before anybody serves it.

    owner/name                         a hub repository
    owner/name:file.pth                a published file of one, converted
    s3://, gs://, https://, …          a checkpoint folder or a published file, through fsspec
    path                               the same on a disk: a claim, the volume of an OCI image

What is written is complete when it has its name: a folder that is there can be served.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flowmo.model import registry
from flowmo.model.checkpoint import CheckpointInfo, inspect_checkpoint, load_weights
from flowmo.model.checkpoint_files import CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE
from flowmo.model.config import FlowMoConfig
from flowmo.model.config import preset as find_preset
from flowmo.model.errors import CheckpointError
from flowmo.model.files import replacing_folder
from flowmo.model.fingerprint import compute_fingerprint
from flowmo.model.hub import resolve_checkpoint
from flowmo.model.hub_conversion import HUB_ERRORS, reason
from flowmo.model.prior.checkpoint import PRIOR_TYPE, Prior, inspect_prior
from flowmo.model.prior.config import PriorConfig
from flowmo.model.published import convert_published

RECORD_FILE = "fetched.json"
_URL = re.compile(r"[a-z][a-z0-9+.\-]*://")
_PUBLISHED = re.compile(r"\.(pth|pt)$")

Info = CheckpointInfo[FlowMoConfig] | CheckpointInfo[PriorConfig]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is fetched, and how it is recognised.

    Attributes:
        name: One of the forms above.
        preset: The config of a published file, which does not say what it holds.
        revision: Branch, tag or commit of a hub repository; its main branch by default.
        sha256: 64 hex digits that a published file must have; not for folders, whose
            ``config.json`` has a fingerprint.
        fingerprint: 32 hex digits that network and weights must have (model.fingerprint).
    """

    name: str
    preset: str | None = None
    revision: str | None = None
    sha256: str | None = None
    fingerprint: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether it is a published file, which is converted."""
        return _PUBLISHED.search(self.name) is not None


def fetch_checkpoint(source: Source, folder: Path) -> tuple[Info, bool]:
    """Fetch a tokenizer's or a prior's checkpoint, check every weight, and give it its name.

    A folder that was fetched from the same source before is left as it is, without the network.

    Args:
        source: What to fetch.
        folder: Where to; it must not hold anything else, for tokens belong to their weights.

    Returns:
        What is in the folder, and whether it was fetched now.

    Raises:
        CheckpointError: The source cannot be had, is damaged or is not what was asked for; or the
            folder holds another checkpoint.
        ConfigError: There is no such preset.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _already(source, folder), False
    if source.is_published and source.preset is None:
        raise CheckpointError(
            f"{source.name} is a published file, which does not say what it holds: name its preset"
        )
    if not source.is_published and (source.sha256 or source.preset):
        raise CheckpointError(
            f"{source.name} is a checkpoint folder: it has a config of its own instead of a "
            f"preset, and is recognised by its fingerprint instead of the SHA-256 of one file"
        )
    with replacing_folder(folder) as new:
        if source.is_published:
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as place:
                file = _published_file(source, Path(place))
                _check_sha256(file, source)
                convert_published(file, find_preset(source.preset or ""), new)
        else:
            _copy_folder(source, new)
        _check_fingerprint(new, source)
        (new / RECORD_FILE).write_text(json.dumps(asdict(source), indent=2), encoding="utf-8")
    return _inspect(folder), True


def _inspect(folder: Path) -> Info:
    if folder.is_dir() and registry.model_type(folder) == PRIOR_TYPE:
        return inspect_prior(folder)
    return inspect_checkpoint(folder)


def _fingerprint(folder: Path) -> str:
    """Of the weights as they are, whatever ``config.json`` says."""
    if registry.model_type(folder) == PRIOR_TYPE:
        return Prior.from_pretrained(folder).fingerprint()
    info = inspect_checkpoint(folder)
    return compute_fingerprint(info.config, load_weights(info))


def _already(source: Source, folder: Path) -> Info:
    record = folder / RECORD_FILE
    if not record.is_file():
        raise CheckpointError(
            f"{folder} is not empty and was not fetched by this command; choose another folder"
        )
    before = json.loads(record.read_text(encoding="utf-8"))
    if before != asdict(source):
        raise CheckpointError(
            f"{folder} was fetched from {before['name']} with other options, and now {source.name} "
            f"is asked for; another checkpoint needs another folder, for tokens of the old one can "
            f"be decoded by it alone"
        )
    return _inspect(folder)


def _published_file(source: Source, place: Path) -> Path:
    """A published file on this disk."""
    if _URL.match(source.name):
        files, path = _remote(source.name)
        _ask(source, lambda: files.get_file(path, str(place / "file")))
        return place / "file"
    if Path(source.name).is_file():
        return Path(source.name)
    repository, colon, file = source.name.partition(":")
    if not colon:
        raise CheckpointError(
            f"{source.name} does not exist; from a hub it is owner/name:file.pth, elsewhere a URL"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(repository, file, revision=source.revision, local_dir=str(place))
        )
    except HUB_ERRORS as error:
        raise CheckpointError(f"{source.name} cannot be had: {reason(error)}") from error


def _copy_folder(source: Source, new: Path) -> None:
    if not _URL.match(source.name):
        found = resolve_checkpoint(source.name, revision=source.revision)
        for name in (
            CONFIG_FILE,
            INDEX_FILE,
            *(file.name for file in _inspect(found).files),
        ):
            if (found / name).exists():
                shutil.copyfile(found / name, new / name)
        return
    files, path = _remote(source.name)

    def get(name: str) -> None:
        _ask(source, lambda: files.get_file(f"{path.rstrip('/')}/{name}", str(new / name)))

    # Without a listing, which HTTP has not.
    get(CONFIG_FILE)
    if _ask(source, lambda: files.exists(f"{path.rstrip('/')}/{INDEX_FILE}")):
        get(INDEX_FILE)
        index = json.loads((new / INDEX_FILE).read_text(encoding="utf-8"))
        for name in sorted(set(index["weight_map"].values())):
            if Path(name).name != name:
                raise CheckpointError(f"{source.name}: its index names {name!r}, which is no file")
            get(name)
    else:
        get(WEIGHTS_FILE)


def _remote(url: str) -> tuple[Any, str]:
    import fsspec  # not of the core; the command says which extra has it

    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # the library of this protocol; an unknown one
        raise CheckpointError(f"{url} cannot be read: {error}") from error
    return files, path


def _ask(source: Source, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # libraries of stores raise what they like
        raise CheckpointError(
            f"{source.name} cannot be had: {reason(error) or type(error).__name__}"
        ) from error


def _check_sha256(file: Path, source: Source) -> None:
    if source.sha256 is None:
        return
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != source.sha256.lower():
        raise CheckpointError(f"{source.name} has the SHA-256 {found}, expected {source.sha256}")


def _check_fingerprint(folder: Path, source: Source) -> None:
    """Every weight takes part: a file that was cut or changed on the way is noticed."""
    found = _fingerprint(folder)
    for what, expected in (
        ("its config.json", _inspect(folder).fingerprint),
        ("--fingerprint", source.fingerprint),
    ):
        if expected is not None and expected != found:
            raise CheckpointError(
                f"{source.name} has the fingerprint {found}, and {what} says {expected}: it is "
                f"damaged, or another checkpoint"
            )
