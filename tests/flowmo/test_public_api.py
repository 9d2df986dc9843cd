import subprocess
import sys

import pytest

import flowmo


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
    "Container",
    "ContainerCorruptedError",
    "ContainerError",
    "ContainerMismatchError",
    "ContainerTruncatedError",
    "ContainerVersionError",
    "FlowMo",
    "FlowMoConfig",
    "FlowMoError",
    "InferenceModel",
    "NotAContainerError",
    "Preview",
    "SamplerConfig",
    "TokenError",
    "Tokens",
    "TrainConfig",
    "TransformerConfig",
    "__version__",
    "noise",
    "photograph_paths",
    "preset",
    "recipe",
    "time_grid",
    "train",
]


def test_public_names_are_these() -> None:
    assert flowmo.__all__ == PUBLIC
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


@pytest.mark.parametrize("package", ["benchmarks", "model", "training"])
def test_network_and_training_run_without_servers_libraries(package: str) -> None:
    # The machines that train and measure have torch, but no ray and no fastapi.
    code = f"""
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {{"fastapi", "ray", "starlette", "uvicorn"}}:
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package!r} + "."):
    importlib.import_module(module.name)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
