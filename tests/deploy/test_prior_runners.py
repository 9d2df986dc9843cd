"""An exported prior gives the network's logits, serves when asked to, and says whose it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowmo.deploy.onnx_files import OnnxFile
from flowmo.deploy.prior_graph import difference_of_prior, prior_example
from flowmo.deploy.prior_runners import folder_of_prior, install_prior
from flowmo.deploy.runners import Runtime
from flowmo.model.errors import CompilationError
from flowmo.model.prior.checkpoint import Prior
from tests.service.fixtures import prior_config, save_prior

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_onnx_runtime_gives_the_networks_logits(tmp_path: Path) -> None:
    checkpoint, cache = save_prior(tmp_path / "prior", "0" * 32), tmp_path / "cache"
    prior = Prior.from_pretrained(checkpoint)
    missing = Runtime(kind="onnxruntime", cache=cache)
    with pytest.raises(CompilationError, match=r"prior\.onnx is not a file"):
        install_prior(prior, checkpoint, missing, (1, 2))
    compute = install_prior(prior, checkpoint, replace(missing, build=True), (1, 2))
    assert compute is not None
    ids, classes = prior_example(prior.config, 3)
    with torch.inference_mode():
        assert torch.allclose(compute(ids, classes), prior(ids, classes), rtol=0, atol=1e-4)
    (path,) = folder_of_prior(cache, prior).iterdir()
    written = path.stat().st_mtime_ns
    assert install_prior(prior, checkpoint, missing, (1, 2)) is not None
    assert path.stat().st_mtime_ns == written

    file = OnnxFile.read(path)
    assert (file.half, file.fingerprint) == ("prior", prior.fingerprint())
    assert file.config == prior.config
    assert difference_of_prior(file, prior, batches=(1, 5)) <= 1e-4
    other = Prior(prior.config).eval()
    with pytest.raises(CompilationError, match="exported from the weights"):
        difference_of_prior(file, other)


def test_what_cannot_compute_a_prior_says_so(tmp_path: Path) -> None:
    prior = Prior(prior_config("0" * 32)).eval()
    assert install_prior(prior, tmp_path, Runtime(kind="kernels"), (1,)) is None
    runtime = Runtime(kind="onnxruntime", cache=tmp_path, build=True)
    with pytest.raises(CompilationError, match="float32 on a CPU, the prior is torch.bfloat16"):
        install_prior(prior.to(torch.bfloat16), tmp_path, runtime, (1,))


@without_gpu
def test_engines_of_a_prior_need_a_gpu(tmp_path: Path) -> None:
    prior = Prior(prior_config("0" * 32)).eval()
    runtime = Runtime(kind="tensorrt", cache=tmp_path, build=True)
    with pytest.raises(CompilationError, match="no CUDA device"):
        install_prior(prior, tmp_path, runtime, (1,))
