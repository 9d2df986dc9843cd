"""Building the image where no container engine runs: debootstrap for a base, buildah for the rest.

Both are Debian packages and need root. The base is Debian as this machine has it; buildah runs each
step in a chroot.
"""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = "serve,train,train-ray,export,grpc,tracing,s3,gcs,redis,zstd"
IMAGE = "localhost/flowmo-serve:image-test"
_BASE = "localhost/debian:image-test"


class ImageError(Exception):
    """The image cannot be built or is not what it should be."""


def run(*command: str | Path, quiet: bool = False) -> str:
    """Run a command to its end; what it wrote to standard output.

    Raises:
        ImageError: it failed.
    """
    if not quiet:
        print("+", *command, flush=True)
    ended = subprocess.run(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    if ended.returncode:
        raise ImageError(f"{command[0]} failed with status {ended.returncode}: {ended.stdout}")
    return ended.stdout


@functools.cache
def _storage() -> str:
    """overlay, where the kernel has it; vfs copies every layer, which takes tens of gigabytes."""
    asked = ["buildah", "--storage-driver", "overlay", "info"]
    ended = subprocess.run(asked, capture_output=True, check=False)
    return "overlay" if ended.returncode == 0 else "vfs"


def buildah(*arguments: str | Path, quiet: bool = True) -> str:
    """A buildah command; what it wrote to standard output."""
    return run("buildah", "--storage-driver", _storage(), *arguments, quiet=quiet).strip()


def make_base(folder: Path) -> None:
    """Bootstrap a minimal Debian of this machine's release and make an image of it."""
    if _exists(_BASE):
        return
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
        if "=" in line
    )
    if release.get("ID") != "debian":
        raise ImageError(f"the base is made on Debian; this is {release.get('PRETTY_NAME')}")
    root = folder / "base"
    log = run("debootstrap", "--variant=minbase", release["VERSION_CODENAME"], root)
    print(log.splitlines()[-1])
    container = buildah("from", "scratch")
    buildah("add", container, root, "/")
    buildah("config", "--cmd", "/bin/bash", container)
    buildah("commit", "--rm", container, _BASE)
    run("rm", "-rf", root, quiet=True)


def build(folder: Path, *, base: str | None = None, extras: str = EXTRAS) -> str:
    """Build the Dockerfile on a base; the default is the bootstrapped one. The image's name."""
    pip, mounts = _pip_configuration(folder)
    arguments = [f"--build-arg=BASE={base or _BASE}", f"--build-arg=EXTRAS={extras}"]
    arguments += [f"--build-arg=VERSION={_version()}"]
    arguments += [f"--volume={here}:{there}:ro" for here, there in mounts.items()]
    command = [
        "bud",
        "--format=docker",
        "--isolation=chroot",
        "--layers",
        f"--secret=id=pip,src={pip}",
        *arguments,
    ]
    print(buildah(*command, "-t", IMAGE, ".", quiet=False)[-2000:])
    return IMAGE


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The image's file system."""
    container = buildah("from", "--pull-never", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


def configuration(image: str) -> dict[str, Any]:
    """What the image says of how it is run: user, environment, entry point and so on."""
    found = json.loads(buildah("inspect", "--type=image", image))
    return {**found["OCIv1"]["config"], "Docker": found["Docker"]["config"]}


def layer_sizes(image: str) -> list[int]:
    """Bytes of each layer, compressed as a registry would hold it, from the first."""
    manifest = json.loads(json.loads(buildah("inspect", "--type=image", image))["Manifest"])
    return [int(layer["size"]) for layer in manifest["layers"]]


def clean(*, base: bool) -> None:
    """Remove what was built; the base only if asked, as it takes minutes to make."""
    for name in (IMAGE, *([_BASE] if base else [])):
        if _exists(name):
            buildah("rmi", "--force", name)
    buildah("rmi", "--prune", "--force")


def _exists(image: str) -> bool:
    return image in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()


def _version() -> str:
    text = (ROOT / "flowmo" / "_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "([^"]+)"', text)
    assert found is not None
    return found[1]


def _pip_configuration(folder: Path) -> tuple[Path, dict[Path, str]]:
    """A pip.conf as this machine's pip is set up, and the folders and files that it names.

    A build must take the same packages as the machine, which may have a mirror, or torch's build
    for CPUs in a folder; the image must not keep where they came from.
    """
    listed = run(sys.executable, "-m", "pip", "config", "list", quiet=True)
    settings: dict[str, str] = {}
    for line in listed.splitlines():  # :env:.name='value' after those of the files, and above them
        key, _, value = line.partition("=")
        name = key.rsplit(".", 1)[-1]
        if name not in ("constraint", "require-virtualenv"):  # the project's own rule here
            settings[name] = value.strip("'\"")
    certificates = settings.pop("cert", os.environ.get("SSL_CERT_FILE", ""))
    config = ConfigParser(interpolation=None)
    config["global"] = {name: value.replace(" ", "\n") for name, value in settings.items()}
    mounts: dict[Path, str] = {}
    if certificates:
        # Elsewhere than here: a package of the distribution writes a file of that name.
        config["global"]["cert"] = "/run/pip-certificates.crt"
        mounts[Path(certificates)] = "/run/pip-certificates.crt"
    path = folder / "pip.conf"
    with path.open("w", encoding="utf-8") as file:
        config.write(file)
    named = [part for value in settings.values() for part in value.split()]
    # The pages of an index in files link to its packages beside them.
    indexes = [Path(unquote(urlsplit(text).path)) for text in named if text.startswith("file://")]
    folders = [index.parent for index in indexes]
    folders += [Path(text) for text in named if text.startswith("/")]
    return path, mounts | {folder: str(folder) for folder in folders if folder.exists()}
