"""The command as a whole, as its own process."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest


def flowmo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowmo", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_the_commands() -> None:
    result = flowmo("--help")
    assert result.returncode == 0
    commands = "demo serve tokenize detokenize reconstruct inspect convert train"
    for command in commands.split():
        assert command in result.stdout


def test_version_is_the_distributions() -> None:
    assert flowmo("--version").stdout.split() == ["flowmo-serve", version("flowmo-serve")]


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys, flowmo.cli\n"
        "slow = {'torch', 'flowmo.service', 'fastapi', 'uvicorn', 'flowmo.training'}\n"
        "slow &= set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("serve", "--port", "70000"), "--port (FLOWMO_PORT)"),
        (("serve", "--dtype", "int8"), "--dtype (FLOWMO_DTYPE)"),
        (("serve", "--max-concurrent-requests", "0"), "--max-concurrent-requests"),
        (("serve", "--host", "999.1.1.1"), "cannot listen"),
    ],
)
def test_bad_settings_are_usage_errors(arguments: tuple[str, ...], named: str) -> None:
    result = flowmo(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_device_is_reported_in_one_line(checkpoint: Path) -> None:
    result = flowmo("serve", "--checkpoint", str(checkpoint), "--port", "0", "--device", "abacus")
    assert result.returncode == 1
    assert result.stderr.startswith("error: device 'abacus'")
