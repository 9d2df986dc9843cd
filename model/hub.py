"""``from_pretrained`` and ``save_pretrained`` by huggingface_hub's conventions, strictly.

The hub's own PyTorch mixin initialises weights before it overwrites them, loads one file, ignores
names that do not fit and passes unknown options on; docs/decisions/0005 says why this one differs.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Self, cast

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from torch import Tensor, nn

from flowmo.model.checkpoint import (
    DEFAULT_MAX_SHARD_SIZE,
    CheckpointInfo,
    dtype_name,
    inspect_checkpoint,
    is_vouched_for,
    load_weights,
    save_checkpoint,
    stale_fingerprint,
)
from flowmo.model.checkpoint_files import CONFIG_FILE, DTYPES, INDEX_FILE
from flowmo.model.config import PRESETS, FlowMoConfig
from flowmo.model.errors import CheckpointError, ConfigError
from flowmo.model.fingerprint import compute_fingerprint
from flowmo.model.hub_conversion import HUB_ERRORS, HubOptions, converted_from_hub, reason

_CARD = """---
{{ card_data }}
---

# FlowMo image tokenizer

Weights (safetensors) and `config.json` of a FlowMo model: images to compact tokens and back.
Written by flowmo-serve; load it with `flowmo.FlowMo.from_pretrained`, serve it with
`flowmo serve --checkpoint`.
"""

# As the hub writes repositories; what else begins with a dot or ~ is somebody's folder.
_NAME = r"[A-Za-z0-9_][\w.\-]*"
_REPOSITORY = re.compile(rf"{_NAME}/[\w][^/]*")
_PUBLISHED = re.compile(rf"(?P<repository>{_NAME}/{_NAME}):(?P<file>({_NAME}/)*{_NAME}\.(pth|pt))")

# Storage and version of every weight: what tells whether any changed since.
_Marks = tuple[tuple[int, int], ...]


def resolve_checkpoint(
    name: str | Path,
    *,
    preset: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Find the folder of a checkpoint by any of its names.

    ============================  ==================================================================
    ``tiny``, ``prior-tiny``      a checkpoint that is shipped with this package
    ``path/to/folder``            a folder as it is
    ``owner/name``                a hub repository, downloaded to the hub's cache
    ``owner/name:file.pth``       a published file of a hub repository, downloaded, converted to the
                                  model that ``preset`` names, and kept (``model.hub_conversion``)
    ============================  ==================================================================

    Args:
        name: One of these. A ``Path`` is a folder and nothing else.
        preset: The config of a published file, which does not say what it holds.
        revision: Branch, tag or commit of the repository; its main branch by default.
        cache_dir: The folder that keeps downloads; the hub's own cache by default.
        force_download: Whether to download what the cache has, too.
        local_files_only: Whether to leave the network alone.
        token: The hub's token; the stored one by default.

    Raises:
        CheckpointError: There is no such checkpoint, or it cannot be had; the message says what was
            tried. Or ``preset`` is missing, or given for a checkpoint that has a config.
        ConfigError: There is no such preset; the message lists those there are.
    """
    options = HubOptions(
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
        token=token,
    )
    text = str(name)
    if not isinstance(name, Path) and (match := _PUBLISHED.fullmatch(text)) is not None:
        if preset is None:
            raise CheckpointError(
                f"{text} is a published file, which does not say what model it holds: name its "
                f"preset (--preset, in Python preset=), one of {', '.join(sorted(PRESETS))}"
            )
        return converted_from_hub(match["repository"], match["file"], preset, options)
    if preset is not None:
        raise CheckpointError(
            f"a preset ({preset!r}) belongs to a published file, owner/name:file.pth; {text!r} is "
            f"none, and a checkpoint folder has a config of its own: leave the preset away"
        )
    return _folder_of(name, options)


def shipped_checkpoints() -> dict[str, Path]:
    """The folders of the checkpoints that are shipped with this package, by name."""
    # Not resolved: in a working copy this package is reached by a link, and so are they.
    folder = Path(__file__).parents[1] / "checkpoints"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{CONFIG_FILE}"))}


def _folder_of(name: str | Path, options: HubOptions) -> Path:
    path, text = Path(name), str(name)
    if not text:  # pathlib takes it for the current folder
        raise CheckpointError(f"an empty name came; {_names()}")
    if not isinstance(name, Path) and (shipped := shipped_checkpoints().get(text)) is not None:
        return shipped
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{text} is a file, not a checkpoint folder; {_names()}")
    if isinstance(name, Path) or not _REPOSITORY.fullmatch(text):
        raise CheckpointError(f"{text} does not exist; {_names()}")
    try:
        folder = snapshot_download(
            text,
            revision=options.revision,
            cache_dir=options.cache_dir,
            force_download=options.force_download,
            local_files_only=options.local_files_only,
            token=options.token,
            allow_patterns=[CONFIG_FILE, INDEX_FILE, "*.safetensors"],
        )
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"no folder {text} exists here, no checkpoint of that name is shipped, and no "
            f"repository of that name could be had from the hub: {reason(error)}"
        ) from error
    return Path(folder)


def _names() -> str:
    """What a checkpoint can be called, for messages."""
    shipped = ", ".join(shipped_checkpoints())
    return (
        f"pass a folder with {CONFIG_FILE} and safetensors, a hub repository as owner/name, a "
        f"published file as owner/name:file.pth with its preset, or the name of a shipped "
        f"checkpoint ({shipped}). `flowmo convert` makes a folder of a published .pth file"
    )


class FlowMoHubMixin(
    nn.Module,
    ModelHubMixin,
    library_name="flowmo-serve",
    tags=["image-tokenizer"],
    model_card_template=_CARD,
):
    """Checkpoints and identity of a network that is built from a ``FlowMoConfig`` alone."""

    config: FlowMoConfig
    _known_fingerprint: tuple[str, _Marks] | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override] # no **kwargs: a misspelt option is an error
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        preset: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Load a checkpoint, in evaluation mode. No weight is initialised on the way.

        Args:
            pretrained_model_name_or_path: A name of :func:`resolve_checkpoint`: a folder, a hub
                repository, or a shipped checkpoint.
            preset: The config of a published file; see :func:`resolve_checkpoint`.
            dtype: The dtype of the weights; as stored by default.
            device: The device to load to.
            revision: Branch, tag or commit of the repository; its main branch by default.
            cache_dir: The folder that keeps downloads; the hub's own cache by default.
            force_download: Whether to download what the cache has, too.
            local_files_only: Whether to leave the network alone.
            token: The hub's token; the stored one by default.

        Raises:
            CheckpointError: There is no such checkpoint, or its files, names, shapes or versions
                are wrong; the message lists what is.
            ConfigError: There is no such preset.
        """
        folder = resolve_checkpoint(
            pretrained_model_name_or_path,
            preset=preset,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        info = inspect_checkpoint(folder)
        return cls._of_checkpoint(info, load_weights(info, dtype=dtype, device=device))

    @classmethod
    def _of_checkpoint(cls, info: CheckpointInfo, state: dict[str, Tensor]) -> Self:
        build = cast("Callable[[FlowMoConfig], Self]", cls)
        with torch.device("meta"):
            model = build(info.config)
        model.load_state_dict(state, strict=True, assign=True)
        assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
        if info.fingerprint is not None and (marks := model._marks()) is not None:
            # Reading all of Lo for its digest takes eight seconds; what says so itself is believed.
            if not is_vouched_for(info) and next(model.parameters()).dtype in DTYPES.values():
                found = model.fingerprint()
                if found != info.fingerprint:
                    raise stale_fingerprint(info, f"{found} was computed")
            model._known_fingerprint = info.fingerprint, marks
        return model.eval()

    def save_pretrained(  # type: ignore[override] # as above
        self,
        save_directory: str | Path,
        *,
        dtype: torch.dtype | None = None,
        max_shard_size: int | str = DEFAULT_MAX_SHARD_SIZE,
        config: FlowMoConfig | None = None,
        model_card_kwargs: dict[str, object] | None = None,
    ) -> None:
        """Write a checkpoint folder: ``config.json``, safetensors, and a model card if none is.

        Args:
            save_directory: The folder, made if it does not exist; a checkpoint in it is replaced.
            dtype: torch.bfloat16 or torch.float32; the model's own by default.
            max_shard_size: The largest safetensors file, in bytes or as ``"5GB"``.
            config: The model's own, which the hub's ``push_to_hub`` passes.
            model_card_kwargs: Further values of the model card's template.

        Raises:
            CheckpointError: The dtype cannot be stored.
            ConfigError: The config is another than the model's.
        """
        if config is not None and config != self.config:
            raise ConfigError(
                f"a checkpoint is written with its model's own config ({self.config.name!r}), got "
                f"another; build FlowMo from that one instead"
            )
        own = next(self.parameters()).dtype if dtype is None else dtype
        dtype_name(own)  # refuse before anything is written
        save_checkpoint(
            self.state_dict(), self.config, save_directory, dtype=own, max_shard_size=max_shard_size
        )
        card = Path(save_directory, "README.md")
        if not card.exists():
            self.generate_model_card(**(model_card_kwargs or {})).save(card)

    def fingerprint(self) -> str:
        """What identifies network and weights: 32 hex digits (model.fingerprint).

        Equal for a float32 model and its bfloat16 copy. Remembered until a weight changes.

        Raises:
            CheckpointError: The weights are on the meta device.
        """
        marks = self._marks()
        if self._known_fingerprint is not None and self._known_fingerprint[1] == marks:
            return self._known_fingerprint[0]
        found = compute_fingerprint(self.config, self.state_dict())
        self._known_fingerprint = None if marks is None else (found, marks)
        return found

    def _marks(self) -> _Marks | None:
        """None for weights made in inference mode, whose changes nothing counts."""
        weights = list(self.parameters())
        if any(weight.is_inference() for weight in weights):
            return None
        return tuple((weight.data_ptr(), weight._version) for weight in weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Moves and casts replace storages, and a new one may have an old one's address.
        self._known_fingerprint = None
        nn.Module._apply(self, fn, recurse)
        return self
