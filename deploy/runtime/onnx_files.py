"""The ONNX files of a checkpoint's parts, and what they say about themselves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flowmo.deploy.graphs import INPUTS, Part
from flowmo.model.config import FlowMoConfig
from flowmo.model.errors import CompilationError, FlowMoError
from flowmo.model.prior.config import PriorConfig

FORMAT = "1"
_PREFIX = "flowmo."


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxFile:
    """An exported part.

    Attributes:
        path: The path of the file; weights may lie beside it in ``NAME.onnx.data``.
        half: ``encoder`` or ``decoder``; ``prior`` is a whole one.
        fingerprint: The fingerprint of the checkpoint's weights.
        config: The model's config; its name, sizes and default sampler.
        dtype: The dtype of weights and activations: float32 or bfloat16.
        attention: The form of attention: fused or explicit.
        quantization: What the blocks' linears compute in beside the dtype: none or fp8.
    """

    path: Path
    half: Part
    fingerprint: str
    config: FlowMoConfig | PriorConfig
    dtype: str
    attention: str
    quantization: str = "none"

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what a file says about itself; weights are not read.

        Raises:
            CompilationError: This is no ONNX file, or none that ``flowmo export`` has written.
        """
        import onnx

        path = Path(path)
        if not path.is_file():
            raise CompilationError(f"{path} is not a file; write it with flowmo export")
        try:
            proto = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # noqa: BLE001  (protobuf's own kinds of error)
            raise CompilationError(f"{path} cannot be read as ONNX: {error}") from None
        texts = {p.key.removeprefix(_PREFIX): p.value for p in proto.metadata_props}
        if texts.get("format") != FORMAT or texts.get("half") not in INPUTS:
            raise CompilationError(
                f"{path} has no metadata of flowmo export (format {FORMAT}); it was written by "
                f"something else or another release: export the checkpoint again"
            )
        try:
            half = next(part for part in INPUTS if part == texts["half"])
            kind: type[FlowMoConfig | PriorConfig] = FlowMoConfig
            if half == "prior":
                kind = PriorConfig
            config = kind.from_dict(json.loads(texts["config"]))
            return cls(
                path=path,
                half=half,
                fingerprint=texts["fingerprint"],
                config=config,
                dtype=texts["dtype"],
                attention=texts["attention"],
                quantization=texts.get("quantization", "none"),
            )
        except (KeyError, ValueError, FlowMoError) as error:
            raise CompilationError(f"{path} has damaged metadata: {error}") from None

    def check_weights(self, fingerprint: str) -> None:
        """Check that the file was exported from these weights.

        Raises:
            CompilationError: It was exported from others.
        """
        if self.fingerprint != fingerprint:
            raise CompilationError(
                f"{self.path} was exported from the weights {self.fingerprint}, the checkpoint has "
                f"{fingerprint}: delete it and export again"
            )

    def metadata(self) -> dict[str, str]:
        """Make what the file says about itself."""
        texts = {
            "format": FORMAT,
            "half": self.half,
            "fingerprint": self.fingerprint,
            "config": json.dumps(self.config.to_dict(), sort_keys=True),
            "dtype": self.dtype,
            "attention": self.attention,
            "quantization": self.quantization,
        }
        return {_PREFIX + key: text for key, text in texts.items()}


def file_name(part: Part) -> str:
    """The file name of a part in the export's folder."""
    return {"encoder": "encoder", "decoder": "decoder_step", "prior": "prior"}[part] + ".onnx"
