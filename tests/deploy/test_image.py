"""The Dockerfile's rules, each of which refuses a Dockerfile that breaks it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from flowmo.service.http.routes import health
from flowmo.service.settings import DEFAULT_PORT
from tests.image.rules import violations
from tools import dependencies
from tools.dependencies import requirements

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8")


ROUTES = {route.path for route in health.router.routes if isinstance(route, APIRoute)}


def _violations(dockerfile: str = DOCKERFILE, ignored: str = IGNORED) -> list[str]:
    return violations(dockerfile, ignored, ROOT, port=DEFAULT_PORT, routes=ROUTES)


def test_the_dockerfile_keeps_its_rules() -> None:
    assert _violations() == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("USER 10001:10001\nEXPOSE", "EXPOSE", "runs as 0"),
        ("USER 10001:10001\nEXPOSE", "USER flowmo\nEXPOSE", "runs as flowmo"),
        ("FROM runtime\n", "FROM compiling\n", "g++ comes into the last stage"),
        ("ca-certificates python3 ", "ca-certificates git python3 ", "git comes into"),
        (" -c constraints.txt -r", " -r", "unpinned"),
        ("--no-deps -c constraints.txt", "--no-deps", "unpinned"),
        ("FROM ${BASE} AS python", "FROM debian:12 AS python", "debian:12 is no argument"),
        (":13.0.1-base-ubuntu24.04", ":latest", "no tag"),
        ("--no-install-recommends wget", "--no-install-recommends bash", "wget is missing"),
        ("EXPOSE 8000", "EXPOSE 80", "the service listens on 8000"),
        ("/healthz", "/health", "no route"),
        ('ENTRYPOINT ["flowmo"]', "ENTRYPOINT flowmo", "is a shell"),
        ("--mount=type=secret,id=pip,target=/etc/pip.conf", "", "no secret"),
        ("COPY model model", "COPY modell model", "modell, which is not there"),
        ("README.md LICENSE ./", "README.md Makefile LICENSE ./", "leaves out"),
        ("COPY service service\n", "", ".dockerignore keeps service"),
        ("COPY deploy/runtime deploy/runtime\n", "", "flowmo/deploy leads to deploy/runtime"),
        ("COPY model model", "COPY model network", "flowmo/model leads to model"),
        ("COPY checkpoints/tiny checkpoints/tiny\n", "", "keeps checkpoints/tiny"),
        ("COPY checkpoints/prior-tiny ", "COPY checkpoints/tiny ", "keeps checkpoints/prior-tiny"),
        ("--from=project", "--from=wheel", "which is no stage"),
        ("        && rm -rf /var/lib/apt/lists/*; \\\n", "        ; \\\n", "package lists"),
    ],
)
def test_a_dockerfile_that_breaks_a_rule_is_refused(old: str, new: str, complaint: str) -> None:
    assert old in DOCKERFILE
    found = _violations(DOCKERFILE.replace(old, new))
    assert any(complaint in violation for violation in found), found


def test_a_context_with_everything_is_refused() -> None:
    assert any("everything" in v for v in _violations(ignored=IGNORED.replace("*\n", "", 1)))


# --- dependencies -------------------------------------------------------------------------------

PROJECT = {
    "name": "some-project",
    "dependencies": ["a>=1"],
    "optional-dependencies": {
        "x": ["b>=2", "a>=1"],
        "y": ["some-project[x, z]", "c[extra]"],
        "z": ["some-project[y]", "d"],
    },
}


@pytest.mark.parametrize(
    ("extras", "expected"),
    [
        ([], ["a>=1"]),
        (["x"], ["a>=1", "b>=2"]),
        (["y"], ["a>=1", "c[extra]", "b>=2", "d"]),
    ],
)
def test_extras_that_name_extras_are_followed(extras: list[str], expected: list[str]) -> None:
    assert requirements(PROJECT, extras) == expected


def test_an_unknown_extra_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no extra 'q'; there are x, y, z"):
        requirements(PROJECT, ["q"])


def test_an_index_that_is_needed_and_does_not_answer_ends_the_build_with_what_to_do() -> None:
    nobody = "http://127.0.0.1:9/"  # discard
    dependencies.check_index(["torch>=2.11"], nobody)
    with pytest.raises(ValueError, match=r"TENSORRT_INDEX=URL.*without tensorrt"):
        dependencies.check_index(["torch>=2.11", "tensorrt>=10.15"], nobody, seconds=1)


def test_the_images_extras_are_the_projects() -> None:
    """As the Dockerfile calls it, with the extras of its default."""
    extras = DOCKERFILE.partition("ARG EXTRAS=")[2].splitlines()[0]
    command = [sys.executable, dependencies.__file__, "pyproject.toml", extras]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = {line.partition(">")[0] for line in lines.splitlines()}
    assert {"torch", "fastapi", "ray[serve]", "torchvision", "onnx", "tensorrt"} <= names
    assert not any("flowmo" in name for name in names)
    with (ROOT / "pyproject.toml").open("rb") as file:
        core = tomllib.load(file)["project"]["dependencies"]
    assert set(core) <= set(lines.splitlines())
