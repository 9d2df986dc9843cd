"""From photographs to an answer over HTTP: what ``flowmo train`` writes, ``flowmo serve`` takes."""

import io
from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from flowmo import Client, FlowMo, photograph_paths
from flowmo.cli import app
from flowmo.cli.server_process import ServerProcess

SMALL = (
    "model.image_size=32", "model.code_length=4", "model.encoder.depth=1", "model.decoder.depth=1",
    "batch_size=2", "steps=2", "sample_count=2", "tensorboard=false", "device=cpu",
)  # fmt: skip


def test_a_checkpoint_just_trained_is_served(tmp_path: Path) -> None:
    photographs = photograph_paths()[0].parent
    arguments = ["train", "tiny-demo", "--data", str(photographs), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, *(x for s in SMALL for x in ("--set", s))])
    assert result.exit_code == 0, result.output
    export = tmp_path / "run" / "export"
    with (
        ServerProcess(["--checkpoint", str(export)], log=tmp_path / "server.log") as server,
        Client(server.url) as client,
    ):
        (model,) = client.models()
        assert model.fingerprint == FlowMo.from_pretrained(export).fingerprint()
        encoded = client.tokenize(photograph_paths()[0].read_bytes())
        assert encoded.token_bytes == 4 * 72 // 8
        with Image.open(io.BytesIO(client.detokenize(encoded.data).data)) as picture:
            assert picture.size == (32, 32)
