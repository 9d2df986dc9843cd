"""One place for a setting: its option, help, page, range and error come from its field."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner

from flowmo.cli.app import app
from flowmo.service.cluster.config import ClusterConfig, ModelConfig
from flowmo.service.engine.config import RunnerConfig
from flowmo.service.setting import Panel, problems, settings_of, unknown_variables
from flowmo.service.settings import Settings
from tools.settings_page import PAGE, render

NAMES = sorted(Settings.model_fields)


def test_arguments_win_over_the_environment_and_it_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWMO_PORT", "9001")
    monkeypatch.setenv("FLOWMO_MAX_CONCURRENT_REQUESTS", "7")
    monkeypatch.setenv("FLOWMO_MAX_BATCH", "")  # as an unset variable of a compose file
    settings = Settings(port=9002)
    assert (settings.port, settings.max_concurrent_requests) == (9002, 7)
    assert (settings.host, settings.max_batch) == ("127.0.0.1", None)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "70000", "--port (FLOWMO_PORT): expected an integer from 0 to 65535, got '70000'"),
        ("PORT", "tcp://10.0.0.1:80", "got 'tcp://10.0.0.1:80'; Kubernetes sets that"),
        (
            "MAX_CONCURRENT_REQUESTS",
            "0",
            (
                "--max-concurrent-requests (FLOWMO_MAX_CONCURRENT_REQUESTS): "
                "expected an integer of at least 1, got '0'"
            ),
        ),
        ("DTYPE", "int8", "expected one of auto, float32, bfloat16, float16, got 'int8'"),
        ("MAX_STEPS", "1001", "expected an integer from 1 to 1000, got '1001'"),
        ("BODY_SECONDS", "0", "expected a number above 0, got '0'"),
        ("BUILD_ENGINES", "perhaps", "expected true or false, got 'perhaps'"),
        ("THREADS", "many", "expected an integer of at least 0, got 'many'"),
        ("MODELS", "a", "--model (FLOWMO_MODELS): expected NAME=CHECKPOINT, the name of"),
        ("MODELS", "a=x,a=y", "two models are named 'a'"),
    ],
)
def test_values_out_of_range_are_named_with_option_variable_and_range(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(f"FLOWMO_{name}", value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    (line,) = problems(raised.value, Settings)
    assert expected in line
    assert "\n" not in line


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def help_text() -> str:
    result = CliRunner(env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"}).invoke(
        app, ["serve", "--help"]
    )
    assert result.exit_code == 0
    return re.sub(r"[\s│]+", " ", result.output)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_an_option_a_variable_its_default_and_help(
    name: str, help_text: str
) -> None:
    (one,) = (one for one in settings_of(Settings) if one.name == name)
    assert one.description.endswith(".")
    assert f"{one.flag} " in help_text
    assert f"env var: {one.variable}" in help_text
    assert one.description in help_text
    if one.unset:
        assert f"default: ({one.unset})" in help_text
    elif one.default and not one.is_switch:
        assert f"default: {one.default}" in help_text


def test_help_is_grouped(help_text: str) -> None:
    found = [help_text.index(f" {panel}") for panel in [*Panel, "Ray"]]
    assert len(set(found)) == len(found)


def _given(name: str) -> tuple[list[str], Any]:
    """An option with a value that is not the default, and what it becomes."""
    special: dict[str, tuple[list[str], Any]] = {
        "models": (
            ["--model", "a=x", "--model", "b=y z"],
            {"a": "x", "b": "y z"},
        ),
        "checkpoint": (["-c", "folder"], "folder"),
        "cors_origins": (
            ["--cors-origin", "https://a.example", "--cors-origin", "http://b:1"],
            ("https://a.example", "http://b:1"),
        ),
        "playground": (["--no-playground"], False),
        "workers": (["--workers", "3"], 3),
    }
    if name in special:
        return special[name]
    (one,) = (one for one in settings_of(Settings) if one.name == name)
    if one.is_switch:
        return [one.flag], True
    number = 7777 if name.endswith("_bytes") else 77
    text = {"int": str(number), "float": "7.5"}.get(one.kind, one.kind.split("|")[-1])
    value: Any = {"int": number, "float": 7.5, "path": Path("path")}.get(one.kind, text)
    return [one.flag, text], value


@pytest.mark.parametrize("name", NAMES)
def test_every_option_reaches_its_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("flowmo.cli.serve._serve_here", seen.append)
    monkeypatch.setattr("flowmo.cli.serve.serve_with_workers", seen.append)
    arguments, value = _given(name)
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 0, result.output
    (settings,) = seen
    assert getattr(settings, name) == value != getattr(Settings(), name)
    assert settings.model_copy(update={name: getattr(Settings(), name)}) == Settings()


def test_options_win_over_variables_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("flowmo.cli.serve._serve_here", seen.append)
    environment = {"FLOWMO_PORT": "1", "FLOWMO_MODELS": "a=x,b=y z", "FLOWMO_BUILD_ENGINES": "on"}
    result = CliRunner(env=environment).invoke(app, ["serve", "--port", "2", "--no-build-engines"])
    assert result.exit_code == 0, result.output
    (settings,) = seen
    assert (settings.port, settings.build_engines) == (2, False)
    assert settings.models == {"a": "x", "b": "y z"}


def test_mistakes_are_a_line_each_and_misspelt_variables_are_named() -> None:
    result = CliRunner(env={"FLOWMO_MAX_BATH": "4", "FLOWMO_PORT": "x"}).invoke(
        app, ["serve", "--dtype", "int8"]
    )
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        (
            "warning: FLOWMO_MAX_BATH is set, but is no setting of this version; "
            "did you mean FLOWMO_MAX_BATCH?"
        ),
        (
            "error: --dtype (FLOWMO_DTYPE): expected one of auto, float32, bfloat16, float16, "
            "got 'int8'"
        ),
        "error: --port (FLOWMO_PORT): expected an integer from 0 to 65535, got 'x'",
    ]


def test_variables_of_the_client_and_of_kubernetes_are_no_mistakes() -> None:
    names = (
        "FLOWMO_API_KEY FLOWMO_CACHE FLOWMO_SERVICE_HOST FLOWMO_SERVICE_PORT_HTTP "
        "FLOWMO_PORT_8000_TCP_ADDR FLOWMO_SERVE_SVC_PORT FLOWMO_HEAD_SVC_SERVICE_PORT FLOWMO_PORT"
    )
    assert not list(unknown_variables(Settings, dict.fromkeys(names.split(), "")))
    assert len(list(unknown_variables(Settings, {"FLOWMO_QUEUE_SIZE": "1", "OTHER": "1"}))) == 1


def test_the_commands_wait_for_no_settings() -> None:
    code = (
        "import sys, flowmo.cli.app\n"
        "slow = [name for name in sys.modules if name.startswith(('pydantic_settings', "
        "'flowmo.service', 'torch', 'fastapi'))]\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the documentation --------------------------------------------------------------------------


def test_the_page_of_settings_is_as_its_fields_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run python -m tools.settings_page"


def test_documents_and_manifests_name_no_unknown_variable() -> None:
    root = PAGE.parents[1]
    files = [
        root / "README.md",
        root / "Dockerfile",
        *(root / "docs").rglob("*.md"),
        *(root / "k8s").rglob("*.yaml"),
        *(root / "deploy").rglob("*.y*ml"),
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    found = set(re.findall(r"\bFLOWMO_[A-Z_]*[A-Z]\b", text))
    assert len(found) > 25
    assert not list(unknown_variables(Settings, dict.fromkeys(found, "")))


# --- one process and a cluster ------------------------------------------------------------------


def test_a_server_and_a_cluster_share_one_description_of_a_model() -> None:
    assert issubclass(Settings, RunnerConfig)
    assert issubclass(ModelConfig, RunnerConfig)
    for name, field in RunnerConfig.model_fields.items():
        for model in (Settings, ModelConfig):
            other = _fields(model)[name]
            assert (other.default, other.annotation, other.metadata) == (
                field.default,
                field.annotation,
                field.metadata,
            )
    assert set(ModelConfig.model_fields) - set(RunnerConfig.model_fields) == {
        "encoder",
        "decoder",
        "generator",
    }


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return dict(model.model_fields)


def test_a_cluster_of_settings_has_their_models_and_limits() -> None:
    settings = Settings(
        models={"a": "x", "b": "y"},
        device="cpu",
        dtype="bfloat16",
        threads=1,
        runner="compiled",
        max_batch=4,
        max_queued_requests=9,
        max_concurrent_requests=7,
        batching="single",
    )
    config = ClusterConfig.of_settings(settings, cpus=4)
    for name, checkpoint in settings.models.items():
        shared = config.models[name].model_dump(include=set(RunnerConfig.model_fields))
        assert RunnerConfig(**shared) == settings.runner_config(checkpoint)
    assert config.gateway_settings().max_concurrent_requests == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue_size": 4}, "settings.queue_size: there is no such setting"),
        ({"max_concurent_requests": 4}, "did you mean max_concurrent_requests?"),
        (
            {"max_concurrent_requests": 0},
            "settings.max_concurrent_requests: expected an integer of at least 1, got 0",
        ),
        ({"max_batch": 4}, "settings.max_batch: a gateway computes nothing"),
        ({"port": 80}, "settings.port: a gateway computes nothing and holds no connections"),
    ],
)
def test_limits_of_a_cluster_are_checked_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ClusterConfig.model_validate({"models": {"a": {}}, "settings": settings})
    assert message in str(raised.value)


def test_a_cluster_of_the_default_model_has_its_name() -> None:
    assert list(ClusterConfig.of_settings(Settings(), cpus=2).models) == ["tiny"]
    elsewhere = Settings(checkpoint="owner/name")
    assert list(ClusterConfig.of_settings(elsewhere, cpus=2).models) == ["default"]


def test_the_command_has_an_option_for_each_setting_and_no_other() -> None:
    command: Any = typer.main.get_command(app)
    context = typer.Context(command.commands["serve"])
    names = {param.name for param in command.commands["serve"].get_params(context)}
    assert names == {*NAMES, "ray", "ray_config", "help"}
