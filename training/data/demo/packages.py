"""Debian packages as read-only collections of files: fetch, and read without installing.

Nothing is installed or unpacked to disk, so neither root rights nor room for the unpacked files is
needed. ``apt-get`` and ``dpkg-deb`` do the work, as the archive's own tools check signatures
and know every compression that packages have used.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flowmo.model.errors import FlowMoError
from flowmo.training.data.demo.qt_resources import QtResourceError, read_qt_resources

_QT_RESOURCES = ".rcc"
_DOWNLOAD_TIMEOUT = 1800.0  # seconds; the largest package has 630 MB


class PackageError(FlowMoError, RuntimeError):
    """A package cannot be fetched or read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package file on this machine."""

    name: str
    version: str
    archive: Path

    def sha256(self) -> str:
        """Digest of the package file, 64 hex digits."""
        with self.archive.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_package(name: str, cache: Path) -> Package:
    """The package file in ``cache``, downloaded from the machine's Debian archive if not there.

    Args:
        name: The name of a binary package.
        cache: folder of ``.deb`` files. One that is already there is used whatever its version;
            where several are, the last by name.

    Raises:
        PackageError: the tools are missing, or no archive of this machine offers the package.
    """
    present = sorted(cache.glob(f"{name}_*.deb"))
    archive = present[-1] if present else _download(name, cache)
    version = _run("dpkg-deb", "--field", str(archive), "Version").strip()
    return Package(name=name, version=version, archive=archive)


def read_files(package: Package, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Contents of a package's regular files, by path (``usr/share/...``), sorted.

    A Qt resource file (``.rcc``) counts as a folder of the files inside it:
    ``usr/share/game/pictures.rcc/animals/dog.webp``.

    Args:
        package: to read.
        wanted: which paths to return.

    Raises:
        PackageError: the archive is damaged.
    """
    files: dict[str, bytes] = {}
    command = [_tool("dpkg-deb"), "--fsys-tarfile", str(package.archive)]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(  # noqa: S603 - dpkg-deb, and a file name
            command, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        try:
            _collect(process.stdout, wanted, files)
        except (tarfile.TarError, QtResourceError) as error:
            process.kill()
            raise PackageError(f"{package.archive} cannot be read: {error}") from error
        if process.wait() != 0:
            errors.seek(0)
            reason = errors.read().decode(errors="replace").strip()
            raise PackageError(f"{package.archive} cannot be read: {reason}; delete it to refetch")
    return dict(sorted(files.items()))


def _collect(stream: IO[bytes], wanted: Callable[[str], bool], files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            inside = path.endswith(_QT_RESOURCES)
            if not member.isreg() or not (inside or wanted(path)):
                continue
            content = archive.extractfile(member)
            assert content is not None
            if inside:
                resources = read_qt_resources(content.read())
                entries = ((f"{path}/{name}", data) for name, data in resources)
                files.update((name, data) for name, data in entries if wanted(name))
            else:
                files[path] = content.read()
        # Past the end-of-archive blocks, so that dpkg-deb is not cut off and can report success.
        while stream.read(1 << 20):
            pass


def _download(name: str, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    # apt writes under the final name while it downloads; moved here, a file is a whole one.
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        try:
            _run("apt-get", "download", "--quiet", name, folder=Path(folder))
        except PackageError as error:
            raise PackageError(
                f"package {name} cannot be downloaded: {error}; `apt-get update` refreshes the "
                f"list of packages, and a file {name}_*.deb put into {cache} is used as it is"
            ) from error
        (archive,) = Path(folder).glob(f"{name}_*.deb")
        return archive.rename(cache / archive.name)


def _run(program: str, *arguments: str, folder: Path | None = None) -> str:
    command = [_tool(program), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - the archive's own tools, and names from sources.toml
            command,
            check=False,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise PackageError(f"`{program}` did not finish in {_DOWNLOAD_TIMEOUT:g} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise PackageError(" ".join(lines) or f"`{program}` exited with {done.returncode}")
    return done.stdout


def _tool(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise PackageError(
            f"{program} is not on PATH: the demo data set is made of Debian packages, on Debian "
            "or a distribution derived from it (a container of one will do)"
        )
    return path
