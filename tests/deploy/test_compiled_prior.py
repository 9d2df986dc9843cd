"""A compiled prior gives the network's logits, or is refused."""

import shutil
from dataclasses import replace

import pytest
import torch

from flowmo.deploy import compiled_prior
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.network import initialize
from tests.service.fixtures import prior_config


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own use of it
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_it_is_the_network_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(prior_config("0" * 32), code_length=4)
    prior, other = Prior(config).eval(), Prior(config).eval()
    initialize(prior, seed=0)
    initialize(other, seed=1)
    compute = compiled_prior.compile_prior(prior, [2])
    ids, classes = torch.full((2, config.length), config.mask_id), torch.tensor([0, 2])
    with torch.inference_mode():
        assert torch.allclose(compute(ids, classes), prior(ids, classes), atol=1e-5)
    monkeypatch.setattr(compiled_prior, "compile_graph", lambda *_, **__: other)
    with pytest.raises(CompilationError, match="differs from PyTorch's by"):
        compiled_prior.compile_prior(prior, [2])
