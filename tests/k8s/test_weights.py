"""Weights, engines, replicas: the order that the Job and the pods' own waiting keep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.cli.compiling import ready_text
from tests.k8s.manifests import K8S, of_kind, pods, render

H100, PRIOR = K8S / "overlays" / "h100", K8S / "overlays" / "h100-prior"


def waits(script: str, folder: Path) -> bool:
    """Whether the init container's script still waits, in a file system below a folder."""
    script = script.replace("/checkpoints", f"{folder}/checkpoints")
    script = script.replace("/engines", f"{folder}/engines").replace("sleep 5", "exit 9")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["sh", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, check=False
    )
    assert ended.returncode in (0, 9), ended
    return ended.returncode == 9


@pytest.mark.parametrize(
    ("parts", "name"), [(("encoder", "decoder"), "lo"), (("generator",), "prior")]
)
def test_replicas_begin_when_engines_of_this_release_and_these_weights_are_there(
    parts: tuple[str, ...], name: str, tmp_path: Path, checkpoint: Path
) -> None:
    (script,) = {
        one["command"][2]
        for found in pods(render(PRIOR))
        if found.labels.get("part") in parts
        for one in found.spec["initContainers"]
    }
    model, engines = tmp_path / "checkpoints" / name, tmp_path / "engines"
    engines.mkdir()
    assert waits(script, tmp_path)
    model.mkdir(parents=True)
    (model / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    assert waits(script, tmp_path)
    ready = ready_text(model)
    (engines / f"{name}.ready").write_bytes(ready.replace(b"flowmo-serve ", b"flowmo-serve 0"))
    assert waits(script, tmp_path), "engines of another release"
    (engines / f"{name}.ready").write_bytes(ready)
    assert not waits(script, tmp_path)
    text = (model / "config.json").read_text(encoding="utf-8")
    (model / "config.json").write_text(text.replace('"fingerprint": "', '"fingerprint": "0'))
    assert waits(script, tmp_path), "other weights"


@pytest.mark.parametrize(
    ("number", "folder", "given"),
    [(0, "/checkpoints/lo", ["--preset", "lo"]), (1, "/checkpoints/prior", [])],
)
def test_the_job_fetches_with_options_that_there_are(
    number: int, folder: str, given: list[str]
) -> None:
    (job,) = of_kind(render(PRIOR), "Job")
    fetch = job["spec"]["template"]["spec"]["initContainers"][number]
    command, source, to, *options = fetch["args"]
    usage = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert all(option in usage for option in options[::2])
    assert (to, options[:2]) == (folder, given)
    assert source.endswith(".pth") == bool(given)  # a published file does not say what it holds
