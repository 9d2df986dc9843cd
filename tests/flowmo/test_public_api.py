import ast
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import flowmo
from flowmo.model.prior.checkpoint import Prior
from flowmo.model.prior.config import prior_preset

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, where nothing has been imported yet."""
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


PUBLIC = [
    "PRESETS",
    "AsyncClient",
    "CheckpointError",
    "Client",
    "ClientError",
    "ConfigError",
    "ConnectionFailedError",
    "Container",
    "ContainerCorruptedError",
    "ContainerError",
    "ContainerMismatchError",
    "ContainerTruncatedError",
    "ContainerVersionError",
    "DecodedImage",
    "EncodedImage",
    "FlowMo",
    "FlowMoConfig",
    "FlowMoError",
    "GeneratedImage",
    "GeneratedTokens",
    "ImageError",
    "ImageTokens",
    "InferenceModel",
    "ModelInfo",
    "NotAContainerError",
    "Preview",
    "PriorInfo",
    "Progress",
    "Retry",
    "SamplerConfig",
    "SamplerStep",
    "Sampling",
    "ServerRefusedError",
    "ServerTimeoutError",
    "TokenError",
    "TokenGenerator",
    "Tokenizer",
    "Tokens",
    "TrainConfig",
    "TransformerConfig",
    "UnexpectedAnswerError",
    "__version__",
    "load",
    "load_prior",
    "noise",
    "photograph_paths",
    "preset",
    "recipe",
    "time_grid",
    "train",
]


def test_public_names_are_these() -> None:
    assert flowmo.__all__ == PUBLIC
    assert sorted(set(PUBLIC)) == sorted(PUBLIC)
    assert set(dir(flowmo)) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_can_be_imported(name: str) -> None:
    value = getattr(flowmo, name)
    if isinstance(value, type):
        assert value.__name__ == name


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from flowmo import *", namespace)
    assert set(PUBLIC) <= namespace.keys()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Flowmo'"):
        _ = flowmo.Flowmo  # type: ignore[attr-defined]


def test_import_does_not_load_torch() -> None:
    code = "import sys, flowmo; print([m for m in ('torch', 'fastapi', 'PIL') if m in sys.modules])"
    result = run_python(code)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.parametrize(
    "package", ["benchmarks", "flowmo.imaging", "flowmo.model", "flowmo.training"]
)
def test_network_and_training_run_without_servers_libraries(package: str) -> None:
    # The machines that train and measure have torch, but no ray and no fastapi.
    code = f"""
import importlib.util, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"fastapi", "ray", "starlette", "uvicorn"}}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
package = importlib.import_module({package!r})
# What is written in Triton is named so, and imported where it is used: on a GPU.
missing = "triton_" if importlib.util.find_spec("triton") is None else "no such"
for module in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    if not module.name.rpartition(".")[2].startswith(missing):
        importlib.import_module(module.name)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_documents_import_public_names_alone() -> None:
    imported = set()
    for document in DOCUMENTS:
        for block in re.findall(r"```python\n(.*?)```", document.read_text("utf-8"), re.DOTALL):
            for statement in ast.walk(ast.parse(block)):
                if isinstance(statement, ast.ImportFrom) and statement.module == "flowmo":
                    imported |= {name.name for name in statement.names}
                elif isinstance(statement, ast.ImportFrom):
                    # One name to import from, so that a reader learns one.
                    assert not str(statement.module).startswith("flowmo"), (document, block)
    assert imported
    assert imported <= set(PUBLIC)


def generator_of(model: flowmo.InferenceModel) -> flowmo.TokenGenerator:
    config = replace(prior_preset("prior-tiny"), tokenizer=model.fingerprint)
    with torch.device("meta"):
        return flowmo.TokenGenerator(Prior(config), flowmo.Tokenizer(model))


def values() -> dict[str, object]:
    """One value of every public class that people print."""
    network = flowmo.FlowMo(flowmo.preset("tiny"))
    model = flowmo.InferenceModel(network)
    tokens = model.tokenize(torch.zeros(1, 3, 128, 128))[0]
    image = flowmo.ImageTokens(
        ids=tokens.ids, group_bits=9, fingerprint=model.fingerprint, width=128, height=128
    )
    steps: list[flowmo.SamplerStep] = []
    sampler = flowmo.SamplerConfig(steps=2)
    model.detokenize([tokens], sampler=sampler, observer=steps.append)
    answer: dict[str, Any] = {
        "timings": dict.fromkeys("abcdefgh", 1.0),
        "seconds": 0.1,
        "request_id": "a" * 32,
    }
    times = flowmo.time_grid(flowmo.SamplerConfig(steps=1000))
    return {
        "Client": flowmo.Client(),
        "AsyncClient": flowmo.AsyncClient(),
        "Container": image.container(),
        "DecodedImage": flowmo.DecodedImage(
            data=bytes(30_000),
            media_type="image/png",
            seed=2**62,
            steps=1000,
            schedule="power",
            guidance=1.5,
            degraded_from=None,
            **answer,
        ),
        "EncodedImage": flowmo.EncodedImage(
            container=image.container(),
            data=bytes(30_000),
            token_bytes=576,
            upload_size=(4000, 3000),
            **answer,
        ),
        "FlowMo": network,
        "FlowMoConfig": flowmo.preset("continuous-lo"),
        "GeneratedImage": flowmo.GeneratedImage(
            data=bytes(30_000),
            media_type="image/png",
            seed=2**61,
            steps=1000,
            degraded_from=None,
            decode_steps=25,
            prior="b" * 32,
            container=image.container(),
            seconds=0.1,
            request_id="a" * 32,
        ),
        "GeneratedTokens": flowmo.GeneratedTokens(
            container=image.container(),
            seed=2**61,
            steps=1000,
            degraded_from=None,
            prior="b" * 32,
            request_id="a" * 32,
        ),
        "ImageTokens": image,
        "InferenceModel": model,
        "ModelInfo": flowmo.ModelInfo(
            name="tiny",
            fingerprint="a" * 32,
            image_size=128,
            code_length=64,
            token_bits=72,
            group_bits=9,
            payload_bytes=576,
        ),
        "Preview": flowmo.Preview(step=1, steps=9, data=bytes(30_000), media_type="image/png"),
        "PriorInfo": flowmo.PriorInfo(
            name="prior-tiny", fingerprint="b" * 32, classes=2, class_names=("cat", "dog")
        ),
        "Progress": flowmo.Progress(step=1, steps=9),
        "Retry": flowmo.Retry(),
        "SamplerConfig": flowmo.SamplerConfig(schedule="explicit", times=times),
        "SamplerStep": steps[0],
        "Sampling": flowmo.Sampling(),
        "TokenGenerator": generator_of(model),
        "Tokenizer": flowmo.Tokenizer(model),
        "Tokens": tokens,
        "TransformerConfig": flowmo.preset("hi").decoder,
    }


def test_values_print_on_a_line_or_two() -> None:
    printed = {name: repr(value) for name, value in values().items()}
    for name, text in printed.items():
        assert len(text) < 200, (name, len(text))
        assert "\n" not in text, name
    classes = {name for name in PUBLIC if isinstance(getattr(flowmo, name), type)}
    errors = {name for name in classes if issubclass(getattr(flowmo, name), Exception)}
    # A training run's config is the whole of what it is repeated from.
    assert classes - errors - {"TrainConfig"} == printed.keys()
