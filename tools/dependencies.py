"""The requirements of some extras, one a line, for a layer of an image without the project itself.

    python dependencies.py pyproject.toml serve,train [INDEX]

The layer changes when a dependency does, and not with every line of ours: an update then moves
megabytes, not gigabytes. Standard library only, since it runs before anything is installed.

TensorRT's libraries are no package of PyPI: what is there fetches them from an index of the
vendor's while it is installed. With them among the requirements that index is asked first, so that
a build that cannot have them says so in its first seconds.
"""

import re
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """Those of the project and of extras, with extras that name other extras followed.

    Args:
        project: the table ``project`` of pyproject.toml.
        extras: names.

    Raises:
        ValueError: no such extra; the message lists those there are.
    """
    own = re.compile(rf"{re.escape(project['name'])}\[(?P<extras>[^\]]*)\]")
    optional: dict[str, list[str]] = project["optional-dependencies"]
    found = dict.fromkeys(project["dependencies"])
    seen: set[str] = set()
    waiting = list(extras)
    while waiting:
        extra = waiting.pop(0)
        if extra in seen:
            continue
        seen.add(extra)
        if extra not in optional:
            raise ValueError(f"no extra {extra!r}; there are {', '.join(sorted(optional))}")
        for requirement in optional[extra]:
            if match := own.fullmatch(requirement):
                waiting += [name.strip() for name in match["extras"].split(",")]
            else:
                found[requirement] = None
    return list(found)


def check_index(wanted: list[str], index: str, *, seconds: float = 20.0) -> None:
    """Ask the vendor's index, if something of it is wanted.

    Args:
        wanted: Requirements.
        index: The index's address.
        seconds: How long it may take to answer.

    Raises:
        ValueError: It does not answer; the message says what else can be done.
    """
    if not any(re.match(r"tensorrt\b", requirement) for requirement in wanted):
        return
    try:
        urllib.request.urlopen(index, timeout=seconds).close()  # noqa: S310 (the builder's own)
    except urllib.error.HTTPError:
        pass  # it is there; pip may have the credentials that this lacks
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the extra tensorrt needs {index}, which does not answer ({error}). Name a mirror "
            "with --build-arg TENSORRT_INDEX=URL, or leave TensorRT out with --build-arg EXTRAS=… "
            "without tensorrt: the runners torch and onnxruntime, and compiled with --target "
            "compiling, serve without it (docs/image.md)"
        ) from None


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    with Path(arguments[0]).open("rb") as file:
        table = tomllib.load(file)["project"]
    try:
        found = requirements(table, [name for name in arguments[1].split(",") if name])
        if arguments[2:]:
            check_index(found, arguments[2])
    except ValueError as error:
        print(f"dependencies: {error}", file=sys.stderr)
        return 1
    print("\n".join(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
