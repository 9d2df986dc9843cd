"""Where Inductor keeps what it has compiled: in the engine cache, for one machine and release.

Its entries do not depend on weights, so all checkpoints of the same shapes share them. Inductor
names them by PyTorch's version, the GPU and the code; not by the processor's instructions, which
the code for a CPU is compiled for, so they are part of the folder's name here.
"""

import hashlib
import logging
import os
import platform
import threading
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

# Raised when what is compiled changes in a way that Inductor's own keys do not see.
FORMAT = 1
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Inductor's index of what it has compiled.
_INDEX = "fxgraph"
_CPU_INFO = Path("/proc/cpuinfo")


def compile_folder(cache: Path) -> Path:
    """The folder of this machine's compiled code in an engine cache."""
    machine = [platform.machine(), torch.__config__.show(), _instructions()]
    digest = hashlib.sha256("\n".join(machine).encode()).hexdigest()
    return cache / f"inductor-{FORMAT}-torch{torch.__version__}-{digest[:12]}"


def use_compile_cache(cache: Path) -> Path | None:
    """Have Inductor keep what this process compiles in an engine cache.

    Inductor has one folder a process, which an environment variable names. The operator's own
    ``TORCHINDUCTOR_CACHE_DIR`` is left as it is.

    Args:
        cache: The engine cache; what lies there is run, so nobody else may write to it.

    Returns:
        The folder that is used; None if the cache cannot be written: Inductor's own is then used,
        in the folder for temporary files.
    """
    if own := os.environ.get(_VARIABLE):
        return Path(own)
    folder = compile_folder(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        logger.info("compiled code is not kept: %s cannot be made (%s)", folder, error)
        return None
    if not os.access(folder, os.W_OK):
        logger.info("compiled code is not kept: %s cannot be written", folder)
        return None
    os.environ[_VARIABLE] = str(folder)
    return folder


def kept_code() -> Path | None:
    """The folder that Inductor keeps compiled code in, if there is some in it."""
    folder = os.environ.get(_VARIABLE)
    if folder is None or not Path(folder, _INDEX).is_dir():  # what else is there is the probe's
        return None
    return Path(folder)


def probe_the_compiler() -> threading.Thread:
    """Find out beside other work which vector instructions Inductor's code for a CPU can use.

    Inductor starts a process for each of them when it first compiles or reads kept code, and
    waits for about a second in all; on a second core that second costs nothing. It keeps what it
    found, and asks again itself where this failed.

    Returns:
        The thread that waits for those processes.
    """
    # Imported here: two threads that import parts of PyTorch at once can meet in a circle.
    from torch._inductor import cpu_vec_isa  # takes seconds

    def probe() -> None:
        try:
            cpu_vec_isa.pick_vec_isa()
        except (OSError, RuntimeError) as error:  # comes again where the compiler is needed
            logger.debug("the vector instructions were not found out: %s", error)

    thread = threading.Thread(target=probe, name="vector-instructions", daemon=True)
    thread.start()
    return thread


def _instructions() -> str:
    """The instruction sets of the processor; its name where the system does not list them."""
    if not _CPU_INFO.is_file():
        return platform.processor()
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
