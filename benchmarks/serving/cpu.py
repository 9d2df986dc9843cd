"""How much the processors of this machine have done."""

import os
from pathlib import Path

# Fields of the first line of /proc/stat that are work: user, nice, system, irq, softirq, steal. The
# others are idle, iowait, and guests, which user and nice contain already.
_WORK = (0, 1, 2, 5, 6, 7)


def machine_cpu_seconds() -> float | None:
    """Seconds that all processors together have been busy; None where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    return busy_ticks(stat.read_text(encoding="utf-8")) / os.sysconf("SC_CLK_TCK")


def busy_ticks(stat: str) -> int:
    """Clock ticks of work in the text of /proc/stat.

    Raises:
        ValueError: it is no such text.
    """
    name, *fields = stat.partition("\n")[0].split()
    if name != "cpu":
        raise ValueError(f"/proc/stat begins with a line of all processors, got {name!r}")
    return sum(int(fields[index]) for index in _WORK)
