"""What the tests of a CUDA device start with.

They are a folder of their own, whose collection reads no other settings: the machine that runs them
has few packages (tests/lent_machine.py), and a test that needs one more fails here, not there.
"""

from pathlib import Path

import pytest

from tests.training.conftest import micro_model, pictures, run_config

__all__ = ["micro_model", "pictures", "run_config"]

TINY = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny"


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    return TINY
