"""Running an image as an orchestrator would: its own user, a root file system to read only."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MOUNTS = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -t tmpfs -o mode=1777,size=2g tmpfs "$ROOT/tmp"
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
# Every runtime gives a container this file, in which localhost is.
touch "$ROOT/etc/hosts"
mount --bind /etc/hosts "$ROOT/etc/hosts"
mount -o remount,bind,ro "$ROOT"
exec "$@"
"""

_ENTER = """
import os, sys, warnings  # the last for execvpe, which could not find it in there
root, user, group, folder, *command = sys.argv[1:]
os.chroot(root)
os.chdir(folder)
os.setgroups([])
os.setgid(int(group))
os.setuid(int(user))
os.execvpe(command[0], command, dict(os.environ))
"""


class Container:
    """A file system and an image's configuration, with which commands are run.

    The mounts are of a namespace of their own: nothing is left when the command ends.

    The command replaces the processes that prepare it, so it gets the signals itself.

    Args:
        root: the image's file system.
        configuration: The image's configuration (:func:`tests.image.build.configuration`).
    """

    def __init__(self, root: Path, configuration: Mapping[str, Any]) -> None:
        self._root = root
        self._configuration = configuration
        self.environment = dict(
            entry.split("=", 1) for entry in configuration.get("Env", ()) if "=" in entry
        )

    @property
    def health_check(self) -> list[str]:
        """The image's own, without the word that says how it is run."""
        test: list[str] = self._configuration["Docker"]["Healthcheck"]["Test"]
        return test[1:]

    def command(self, *arguments: str) -> list[str]:
        """The entry point with arguments, or with the image's own."""
        return [
            *self._configuration.get("Entrypoint", ()),
            *(arguments or self._configuration.get("Cmd", ())),
        ]

    def start(
        self, command: Sequence[str], *, output: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command; what it says goes to a file."""
        user, _, group = str(self._configuration["User"]).partition(":")
        folder = self._configuration.get("WorkingDir") or "/"
        enter = [sys.executable, "-c", _ENTER, str(self._root), user, group or user, folder]
        output.unlink(missing_ok=True)
        with output.open("ab") as file:
            # As runtimes give it: the user's own, so that its processes may open it again by /proc.
            os.fchown(file.fileno(), int(user), int(group or user))
            return subprocess.Popen(
                ["unshare", "--mount", "bash", "-c", _MOUNTS, "bash", *enter, *command],
                env={
                    **self.environment,
                    **(environment or {}),
                    "ROOT": str(self._root),
                },
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(
        self, command: Sequence[str], *, output: Path, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command to its end: its exit status and what it said."""
        process = self.start(command, output=output, environment=environment)
        status = process.wait(300)
        return status, output.read_text(encoding="utf-8", errors="replace")


def stop(process: subprocess.Popen[bytes], seconds: float = 60.0) -> int:
    """SIGTERM, as from an orchestrator; the exit status."""
    os.kill(process.pid, signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
