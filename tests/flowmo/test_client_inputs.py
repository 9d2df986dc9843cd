"""What may be handed to the clients, and what they load for it."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

import flowmo
from flowmo.cli.server_process import ServerProcess
from flowmo.client import Client, DecodedImage, EncodedImage
from flowmo.client.inputs import picture_bytes, png, token_bytes
from flowmo.client.values import Preview
from flowmo.model.image_tokens import ImageTokens
from tests.flowmo.scripted import Asker, script, some_container
from tests.service.pictures import as_file, from_file, gradient

FILE = as_file(gradient())


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))))
def test_a_png_holds_the_very_pixels(pixels: Any) -> None:
    with Image.open(io.BytesIO(png(pixels))) as image:
        image.verify()
    with Image.open(io.BytesIO(png(pixels))) as image:
        assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_a_photograph_is_compressed() -> None:
    with Image.open(flowmo.photograph_paths()[0]) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(png(pixels)) < 0.8 * pixels.nbytes


def picture_kinds(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "photo.png").write_bytes(FILE)
    return {
        "path": tmp_path / "photo.png",
        "str": str(tmp_path / "photo.png"),
        "bytes": FILE,
        "bytearray": bytearray(FILE),
        "memoryview": memoryview(FILE),
        "array": gradient(),
        "pillow": Image.fromarray(gradient()),
        "palette": Image.open(io.BytesIO(FILE)),
    }


def test_every_kind_of_picture_and_of_tokens(
    ask: Asker, server: ServerProcess, tmp_path: Path
) -> None:
    expected = ask(server, "tokenize", FILE)
    kinds = picture_kinds(tmp_path)
    for kind, picture in kinds.items():
        encoded = ask(server, "tokenize", picture)
        assert encoded.container == expected.container, kind
        assert encoded.upload_size == (32, 32), kind
    many = ask(server, "tokenize_many", list(kinds.values()))
    assert [one.container for one in many] == [expected.container] * len(kinds)

    expected.save(tmp_path / "photo.flowmo")
    tokens = {
        "answer": expected,
        "item of a batch": many[0],
        "container": expected.container,
        "bytes": expected.data,
        "path": tmp_path / "photo.flowmo",
        "str": str(tmp_path / "photo.flowmo"),
        "image tokens": ImageTokens.of(expected.container),
    }
    picture = ask(server, "detokenize", expected.data)
    for kind, one in tokens.items():
        assert ask(server, "detokenize", one).data == picture.data, kind
    *_, streamed = ask(server, "stream_detokenize", expected)
    assert streamed.data == picture.data
    for one in ask(server, "detokenize_many", list(tokens.values())):
        assert isinstance(one, DecodedImage)
        difference = from_file(one.data).astype(int) - from_file(picture.data)
        assert np.abs(difference).max() <= 1  # sums in another order
    assert ask(server, "reconstruct", gradient()).data == picture.data
    (again,) = ask(server, "reconstruct_many", [tmp_path / "photo.png"])
    assert again.data == picture.data


def test_pictures_of_pillow_are_read_by_the_rules_for_files() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    data = as_file(Image.fromarray(gradient()), "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert from_file(picture_bytes(image)).shape == (32, 32, 3)
    printed = Image.fromarray(gradient()).convert("CMYK")
    assert from_file(picture_bytes(printed)).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("picture", "error", "words"),
    [
        (7, TypeError, "a picture is a path, .* got int"),
        (None, TypeError, "got NoneType"),
        ([gradient()], TypeError, "got list"),
        (gradient() / 255.0, ValueError, r"uint8 .* got float64; .*255 \* array"),
        (gradient()[None], ValueError, r"got \[1, 32, 32, 3\]; several .*_many"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"got \[0, 4, 3\]"),
        ("nowhere.jpg", FileNotFoundError, "nowhere.jpg"),
    ],
)
def test_what_is_no_picture_is_not_sent(
    ask: Asker, picture: Any, error: type[Exception], words: str
) -> None:
    with script() as server:
        for method in ("tokenize", "reconstruct"):
            with pytest.raises(error, match=words):
                ask(server, method, picture)
        assert server.requests == []


@pytest.mark.parametrize(
    ("tokens", "error", "words"),
    [
        (7, TypeError, "tokens are what tokenize gave, .* got int"),
        ({"tokens": {}}, TypeError, "got dict"),
        ("nowhere.flowmo", FileNotFoundError, "nowhere.flowmo"),
    ],
)
def test_what_is_no_token_set_is_not_sent(
    ask: Asker, tokens: Any, error: type[Exception], words: str
) -> None:
    with script() as server:
        for method in ("detokenize", "stream_detokenize"):
            with pytest.raises(error, match=words):
                ask(server, method, tokens)
        assert server.requests == []


def test_a_missing_file_of_many_is_told_before_anything_is_sent(ask: Asker) -> None:
    with script() as server:
        for method in ("tokenize_many", "reconstruct_many", "detokenize_many"):
            with pytest.raises(FileNotFoundError, match="nowhere"):
                ask(server, method, [b"one"] * 40 + ["nowhere"], batch_size=1)
        assert server.requests == []


def test_tokens_that_are_containers_travel_as_they_are() -> None:
    data = some_container().to_bytes()
    assert token_bytes(memoryview(data)) == token_bytes(some_container()) == data


# Answers


def decoded(media_type: str, data: bytes = FILE) -> DecodedImage:
    return DecodedImage(
        data=data, media_type=media_type, seed=0, steps=1, schedule="power", guidance=1.0,
        degraded_from=None, timings={}, seconds=0.1, request_id="",
    )  # fmt: skip


def test_notebooks_show_pictures() -> None:
    for image in (
        decoded("image/png"),
        Preview(step=1, steps=2, data=FILE, media_type="image/png"),
    ):
        assert image._repr_png_() == FILE
        assert image._repr_jpeg_() is None
        assert image.to_pil().size == (32, 32)
    assert decoded("image/jpeg")._repr_png_() is None
    assert decoded("image/jpeg")._repr_jpeg_() == FILE
    assert decoded("image/webp")._repr_jpeg_() is None


def test_answers_are_saved_as_they_came(tmp_path: Path) -> None:
    decoded("image/png").save(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == FILE
    container = some_container()
    encoded = EncodedImage(
        container=container, data=container.to_bytes(), token_bytes=24, upload_size=(48, 40),
        timings={}, seconds=0.1, request_id="",
    )  # fmt: skip
    encoded.save(tmp_path / "a.flowmo")
    assert ImageTokens.load(tmp_path / "a.flowmo").container() == container


# What is loaded

USE = """
import json, sys
from pathlib import Path
import numpy as np
from flowmo import AsyncClient, Client, Progress, Sampling, ServerRefusedError

url, photo = sys.argv[1:]
with Client(url) as client:
    encoded = client.tokenize(photo)
    picture = client.detokenize(encoded, sampling=Sampling(seed=1, steps=2))
    client.tokenize(np.zeros((40, 48, 3), np.uint8))
    client.reconstruct_many([photo, Path(photo)])
    assert isinstance(next(client.stream_detokenize(encoded)), Progress)
    try:
        client.tokenize(b"no picture")
    except ServerRefusedError:
        pass
    repr(picture), repr(encoded), client.models(), client.is_ready()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_client_needs_httpx_and_numpy_alone(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(FILE)
    command = [sys.executable, "-c", USE, server.url, str(tmp_path / "photo.png")]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout))
    assert {"flowmo", "httpx", "numpy"} <= loaded
    ours = {"torch", "PIL", "fastapi", "pydantic", "starlette", "httpx_sse", "huggingface_hub",
            "safetensors", "typer", "uvicorn", "prometheus_client", "opentelemetry"}  # fmt: skip
    assert loaded & ours == set()


def test_the_client_runs_where_nothing_else_is_installed(
    server: ServerProcess, tmp_path: Path
) -> None:
    # Whatever is no part of httpx, numpy or Python cannot be imported.
    (tmp_path / "photo.png").write_bytes(FILE)
    blocker = """
import sys
ALLOWED = set(sys.stdlib_module_names) | {
    "flowmo", "httpx", "numpy", "anyio", "certifi", "h11", "httpcore", "idna", "sniffio",
    "typing_extensions",
}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
"""
    command = [sys.executable, "-c", blocker + USE, server.url, str(tmp_path / "photo.png")]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_pillow_is_loaded_with_a_picture_of_pillows(server: ServerProcess) -> None:
    with Client(server.url) as client:
        assert client.tokenize(Image.fromarray(gradient())).upload_size == (32, 32)
