import inspect
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin
import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import nn

from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.flowmo import FlowMo
from flowmo.model.inference import InferenceModel
from tests.model.checkpoints import CONFIG, made_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def assert_is_made_model(network: FlowMo) -> None:
    assert network.config == CONFIG
    for name, tensor in made_model().state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_saved_model_is_the_model(folder: Path, kind: Any) -> None:
    network = FlowMo.from_pretrained(kind(folder))
    assert_is_made_model(network)
    assert not network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    images = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    # Not to the last bit: sums depend on how weights are aligned in memory.
    torch.testing.assert_close(network.reconstruct(images), made_model().reconstruct(images))


def test_dtype_is_that_of_the_files_or_what_is_asked_for(tmp_path: Path) -> None:
    made_model().save_pretrained(tmp_path, dtype=torch.bfloat16)
    for asked, expected in ((None, torch.bfloat16), (torch.float32, torch.float32)):
        network = FlowMo.from_pretrained(tmp_path, dtype=asked)
        assert {parameter.dtype for parameter in network.parameters()} == {expected}
    model = InferenceModel(FlowMo.from_pretrained(tmp_path))
    assert model.fingerprint == made_model().fingerprint()


def test_no_weight_is_initialised_to_be_overwritten(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_meta_only(self: nn.Linear) -> None:
        assert self.weight.is_meta

    monkeypatch.setattr(nn.Linear, "reset_parameters", on_meta_only)
    FlowMo.from_pretrained(folder)


def test_training_a_loaded_model_does_not_touch_its_files(folder: Path) -> None:
    network = FlowMo.from_pretrained(folder)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert_is_made_model(FlowMo.from_pretrained(folder))


def test_a_model_card_is_written_once(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "flowmo-serve"
    assert "image-tokenizer" in card.data.tags
    (folder / "README.md").write_text("mine")
    made_model().save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"


def test_misspelt_options_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="dtpye"):
        FlowMo.from_pretrained(folder, dtpye=torch.float32)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="dtpye"):
        made_model().save_pretrained(tmp_path, dtpye=torch.float32)  # type: ignore[call-arg]


def test_options_of_the_hubs_convention_are_there() -> None:
    theirs = inspect.signature(ModelHubMixin.from_pretrained).parameters
    ours = inspect.signature(FlowMo.from_pretrained).parameters
    assert issubclass(FlowMo, ModelHubMixin)
    assert {name for name in theirs if name != "model_kwargs"} <= ours.keys()


def test_another_config_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its model's own config"):
        made_model().save_pretrained(tmp_path, config=replace(CONFIG, image_size=32))


# Names that are no folder


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "owner/..", "~/model", "../up", ""]
)
def test_what_can_be_no_repository_is_a_missing_folder(name: str) -> None:
    with pytest.raises(CheckpointError, match="pass a folder with config.json"):
        FlowMo.from_pretrained(name)


def test_a_path_is_never_looked_up_on_the_hub() -> None:
    with pytest.raises(CheckpointError, match="owner/name does not exist"):
        FlowMo.from_pretrained(Path("owner/name"))


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "flowmo_lo.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"flowmo_lo.pth is a file, not a .*flowmo convert"):
        FlowMo.from_pretrained(str(tmp_path / "flowmo_lo.pth"))


@pytest.mark.parametrize("name", ["owner/name", "owner/na me"])
def test_a_repository_that_cannot_be_had_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"no folder {name} exists here, .* no repository"):
        FlowMo.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)


def test_a_downloaded_repository_is_loaded(folder: Path, tmp_path: Path) -> None:
    # The hub's cache as a download leaves it, links from snapshots to blobs included.
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (repository / "refs" / "v1").write_text(commit)
    (repository / "blobs").mkdir()
    for source in folder.iterdir():
        shutil.copy(source, repository / "blobs" / source.name)
        (snapshot / source.name).symlink_to(f"../../blobs/{source.name}")
    load = partial(
        FlowMo.from_pretrained,
        "owner/name",
        cache_dir=tmp_path / "cache",
        local_files_only=True,
    )
    assert_is_made_model(load())
    assert_is_made_model(load(revision="v1"))
    with pytest.raises(CheckpointError, match="no repository of that name could be had"):
        load(revision="v2")


def test_pushing_uploads_a_complete_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: list[FlowMo] = []

    class Api:
        def __init__(self, token: object) -> None: ...

        def create_repo(self, repo_id: str, **options: object) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: object) -> str:
            assert {path.name for path in folder_path.iterdir()} == {
                "README.md",
                "config.json",
                "model.safetensors",
            }
            uploaded.append(FlowMo.from_pretrained(folder_path))
            return repo_id

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    assert made_model().push_to_hub("owner/name") == "owner/name"
    assert_is_made_model(uploaded[0])
