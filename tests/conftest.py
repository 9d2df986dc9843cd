"""Settings of the whole suite: one thread, no network, no chance."""

import os
import runpy
from pathlib import Path

# Before torch is imported, and inherited by the servers that tests start. One thread makes sums
# come out alike on every machine, and small tensors are no faster with more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hypothesis import settings
from xdist.remote import Producer

from tests.sharing import FileScheduling

# For the processes that tests start, and for this one: see tests/site/sitecustomize.py. A worker of
# pytest-xdist is such a process, and has run it.
_SITE = Path(__file__).parent / "site"
_PATH = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if str(_SITE) not in _PATH:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SITE), *_PATH]))
    runpy.run_path(str(_SITE / "sitecustomize.py"))

# Kernels for GPUs are interpreted where there is none, if this is said before Triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Machines differ in speed, so examples have no deadline; CI draws the same ones every time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """How tests are shared out where there are several processes (``make test``)."""
    return FileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def _same_seed() -> None:
    """Each test sees the same global generator, whatever ran before it."""
    torch.manual_seed(0)
