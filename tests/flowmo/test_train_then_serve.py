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
    arguments = [
        "train",
        "tiny-pretrain",
        "--data",
        str(photographs),
        "--out",
        str(tmp_path / "run"),
    ]
    result = CliRunner().invoke(app, [*arguments, *(x for s in SMALL for x in ("--set", s))])
    assert result.exit_code == 0, result.output
    export = tmp_path / "run" / "export"
    with (
        ServerProcess(["--checkpoint", str(export)], log=tmp_path / "server.log") as server,
        Client(server.url) as client,
    ):
        (model,) = client.models()
        assert model.fingerprint == FlowMo.from_pretrained(export).fingerprint()
        encoded = client.tokenize(photograph_paths()[0].read_bytes(), fit="crop")
        assert encoded.token_bytes == 4 * 72 // 8
        with Image.open(io.BytesIO(client.detokenize(encoded.data).data)) as picture:
            assert picture.size == (32, 32)


def test_a_student_decodes_with_its_own_steps_when_nobody_says_otherwise(tmp_path: Path) -> None:
    photographs = str(photograph_paths()[0].parent)
    later = ("batch_size=2", "accumulation=1", "steps=2", "perceptual.network=none",
             "losses.sample_perceptual=0",
             "validation.interval=0", "validation.patience=none", "sample_interval=0",
             "tensorboard=false", "device=cpu")  # fmt: skip

    def run(recipe: str, out: str, *options: str, changes: tuple[str, ...]) -> str:
        sets = [text for change in changes for text in ("--set", change)]
        arguments = ["train", recipe, "--data", photographs, "--out", str(tmp_path / out)]
        result = CliRunner().invoke(app, [*arguments, *options, *sets])
        assert result.exit_code == 0, result.output
        return str(tmp_path / out / "export")

    first = run("tiny-pretrain", "first", changes=SMALL)
    second = run("post-train", "second", "--init", first, changes=(*later, "losses.sample_mse=1"))
    assert FlowMo.from_pretrained(second).config == FlowMo.from_pretrained(first).config
    student = run(
        "distill", "student", "--init", second,
        # Without a perceptual network its weights would be ignored, which is refused.
        changes=(*later, "model.sampler.steps=3", "distill.teacher_steps=5",
                 "losses.teacher_perceptual=0", "losses.sample_perceptual=0"),
    )  # fmt: skip
    with (
        ServerProcess(["--checkpoint", student], log=tmp_path / "server.log") as server,
        Client(server.url) as client,
    ):
        encoded = client.tokenize(photograph_paths()[0].read_bytes(), fit="crop")
        assert client.detokenize(encoded.data).steps == 3
