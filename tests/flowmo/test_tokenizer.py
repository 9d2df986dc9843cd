"""The API that is shaped like images: anything in, pictures out, and nothing silently wrong."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import flowmo
from flowmo.imaging.fit import read_square
from flowmo.imaging.tensors import to_images, to_pixels
from flowmo.model.container import Container
from flowmo.model.errors import ConfigError, ContainerError, ContainerMismatchError, TokenError
from flowmo.model.image_tokens import ImageTokens
from flowmo.model.tokens import Tokens
from flowmo.tokenizer import Tokenizer
from tests.service.fixtures import CONFIG, save_model
from tests.service.pictures import as_file, gradient

SIZE = CONFIG.image_size
SQUARE = gradient(SIZE, SIZE)
FILE = as_file(SQUARE)


@pytest.fixture(scope="module")
def tok(checkpoint: Path) -> Tokenizer:
    return flowmo.load(str(checkpoint), device="cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "photo.png").write_bytes(FILE)
    return tmp_path / "photo.png"


def in_model_range(picture: bytes = FILE) -> torch.Tensor:
    return to_images(read_square(picture, SIZE)[None])[0]


# What goes in


def kinds(path: Path) -> dict[str, object]:
    return {
        "path": path,
        "str": str(path),
        "bytes": FILE,
        "memoryview": memoryview(FILE),
        "pillow": Image.open(io.BytesIO(FILE)),
        "array": SQUARE,
        "rgba": np.dstack([SQUARE, np.full((SIZE, SIZE), 255, np.uint8)]),
        "tensor": in_model_range(),
        "half": in_model_range().double(),
    }


def test_every_kind_of_image_gives_the_same_tokens(tok: Tokenizer, path: Path) -> None:
    expected = tok.model.tokenize(in_model_range()[None])[0]
    for kind, image in kinds(path).items():
        tokens = tok.encode(image)  # type: ignore[call-overload]
        assert isinstance(tokens, ImageTokens), kind
        assert tokens == expected, kind
    several = tok.encode(list(kinds(path).values()), batch_size=2)
    assert several == [expected] * len(kinds(path))
    assert tok.encode(iter([FILE])) == [expected]
    assert tok.encode((FILE,)) == [expected]
    assert tok.encode([]) == []


def test_arrays_and_tensors_of_several_are_lists(tok: Tokenizer) -> None:
    pictures = np.stack([SQUARE, 255 - SQUARE])
    tokens: Any = tok.encode(pictures)
    assert tokens == tok.encode(list(pictures))
    assert tokens[0] != tokens[1]
    tensors = torch.stack([in_model_range(), -in_model_range()])
    assert tok.encode(tensors) == tok.encode(list(tensors))


def test_pictures_are_read_as_the_service_reads_them(tok: Tokenizer) -> None:
    # Turned by its camera, grey and see-through: the rules of flowmo.imaging.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = as_file(Image.fromarray(SQUARE), "JPEG", quality=95, exif=exif)
    assert tok.encode(Image.open(io.BytesIO(turned))) == tok.encode(turned)
    see_through = Image.fromarray(SQUARE).convert("RGBA")
    see_through.putalpha(128)
    assert tok.encode(see_through) == tok.encode(as_file(see_through))
    assert tok.encode(see_through) != tok.encode(SQUARE)
    grey = SQUARE[:, :, 0]
    assert tok.encode(grey) == tok.encode(as_file(grey))


def test_fit_decides_how_a_picture_becomes_the_square(tok: Tokenizer) -> None:
    wide = gradient(96, 40)
    for fit in ("crop", "pad", "stretch"):
        square = to_images(read_square(as_file(wide), SIZE, fit=fit)[None])
        assert tok.encode(wide, fit=fit) == tok.model.tokenize(square)[0]
    with pytest.raises(
        ConfigError, match="fit must be one of native, crop, pad, stretch, got 'cover'"
    ):
        tok.encode(wide, fit="cover")  # type: ignore[call-overload]


def of_range(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, 3 * SIZE * SIZE).reshape(3, SIZE, SIZE)


def test_value_range_says_what_tensors_mean(tok: Tokenizer) -> None:
    expected = tok.encode(of_range(-1, 1))
    assert tok.encode(of_range(-1, 1), value_range=(-1, 1)) == expected
    # Rounding may turn a bit whose code is next to zero.
    for low, high in ((0, 1), (0, 255), (-2.5, 7)):
        ids: Any = tok.encode(of_range(low, high), value_range=(low, high))
        assert np.mean(ids.signs() != expected.signs()) < 0.01
    with pytest.raises(ConfigError, match=r"said to lie in \[0, 1\], its values are 0 to 255"):
        tok.encode(of_range(0, 255), value_range=(0, 1))
    with pytest.raises(ConfigError, match="value_range must be"):
        tok.encode(of_range(0, 1), value_range=(1, 0))


def test_tensors_without_a_dark_value_must_say_their_range(tok: Tokenizer) -> None:
    for call in (tok.encode, tok.reconstruct):
        with pytest.raises(ConfigError, match=r"value_range=\(0, 1\) or value_range=\(-1, 1\)"):
            call(of_range(0, 1))
    white = torch.ones(3, SIZE, SIZE)
    assert tok.encode(white, value_range=(0, 1)) == tok.encode(white, value_range=(-1, 1))
    # One dark picture tells for the whole call.
    assert len(tok.encode([white, of_range(-1, 1)])) == 2
    # Pictures say what they are.
    assert tok.encode(np.full((SIZE, SIZE, 3), 255, np.uint8)) == tok.encode(
        white, value_range=(0, 1)
    )


NAN = of_range(-1, 1)
NAN[0, 3, 3] = float("nan")
WRONG: dict[str, tuple[object, type[Exception], str]] = {
    "other size": (
        torch.zeros(3, 2 * SIZE, 2 * SIZE) - 1,
        ConfigError,
        r"must have the shape \[3, 32, 32\].*got \[3, 64, 64\]; resize it first, or pass the pict",
    ),
    "channels last": (torch.zeros(SIZE, SIZE, 3) - 1, ConfigError, r"got \[32, 32, 3\]"),
    "levels": (of_range(-1, 255), ConfigError, r"must lie in \[-1, 1\], got -1 to 255"),
    "nan": (NAN, ConfigError, "infinite or undefined"),
    "uint8 tensor": (
        of_range(0, 255).byte(),
        ConfigError,
        "floating-point, got torch.uint8; .*/ 127.5 - 1",
    ),
    "float array": (np.zeros((8, 8, 3)), ValueError, r"uint8 .*got float64; .*255 \* array"),
    "int array": (np.zeros((8, 8, 3), int), ValueError, "got int64"),
    "channels first": (np.zeros((3, 8, 8), np.uint8), ValueError, r"channels go last"),
    "empty array": (np.zeros((0, 8, 3), np.uint8), ValueError, r"got \[0, 8, 3\]"),
    "no picture": (b"no picture", flowmo.ImageError, "no image of a known format"),
    "no image": (7, TypeError, "an image is a path, .*got int"),
    "nothing": (None, TypeError, "got NoneType"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("call", ["encode", "reconstruct"])
def test_what_is_no_image_of_the_model_is_refused(tok: Tokenizer, name: str, call: str) -> None:
    came, error, words = WRONG[name]
    for given in (came, [came]):
        with pytest.raises(error, match=words):
            getattr(tok, call)(given)


def test_the_file_that_cannot_be_read_is_named(tok: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(FILE[:60])
    with pytest.raises(flowmo.ImageError, match=r"broken.png: "):
        tok.encode([FILE, tmp_path / "broken.png"])
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        tok.encode("nowhere.png")


# Tokens


def test_tokens_are_written_and_read(tok: Tokenizer, tmp_path: Path) -> None:
    tokens = tok.encode(SQUARE)
    assert (tokens.fingerprint, tokens.width, tokens.height) == (tok.fingerprint, SIZE, SIZE)
    tokens.save(tmp_path / "photo.flowmo")
    data = (tmp_path / "photo.flowmo").read_bytes()
    assert data == tokens.to_bytes() == tokens.container().to_bytes()
    assert len(data) == CONFIG.payload_bytes + Container.overhead
    again = ImageTokens.load(tmp_path / "photo.flowmo")
    assert again == tokens
    assert again.fingerprint == tokens.fingerprint
    assert tok.fingerprint[:8] in tokens._repr_html_()
    (tmp_path / "photo.flowmo").write_bytes(data[:-1])
    with pytest.raises(ContainerError, match=r"photo.flowmo: .*truncated"):
        ImageTokens.load(tmp_path / "photo.flowmo")
    with pytest.raises(ContainerError, match="32 lower-case hex digits"):
        ImageTokens(ids=tokens.ids, group_bits=4, fingerprint="me", width=32, height=32)


def token_kinds(tokens: ImageTokens, path: Path) -> dict[str, object]:
    tokens.save(path)
    return {
        "image tokens": tokens,
        "tokens": Tokens(ids=tokens.ids, group_bits=tokens.group_bits),
        "container": tokens.container(),
        "path": path,
        "str": str(path),
        "bytes": tokens.to_bytes(),
        "array": tokens.ids,
        "tensor": torch.tensor(tokens.ids),
        "answer": flowmo.EncodedImage(
            container=tokens.container(), data=tokens.to_bytes(), token_bytes=24,
            upload_size=(9, 9), timings={}, seconds=0.0, request_id="",
        ),
    }  # fmt: skip


def test_every_kind_of_tokens_gives_the_same_picture(tok: Tokenizer, tmp_path: Path) -> None:
    tokens = tok.encode(SQUARE)
    expected = tok.decode(tokens, steps=2, output="array")
    assert expected.shape == (SIZE, SIZE, 3)
    assert expected.dtype == np.uint8
    given = token_kinds(tokens, tmp_path / "photo.flowmo")
    for kind, one in given.items():
        picture = tok.decode(one, steps=2)  # type: ignore[call-overload]
        assert isinstance(picture, Image.Image), kind
        assert np.array_equal(np.asarray(picture), expected), kind
    seeds = [0] * len(given)
    several = tok.decode(list(given.values()), steps=2, seeds=seeds, output="array")
    assert np.abs(several.astype(int) - expected).max() <= 1  # sums in another order
    batch = np.stack([tokens.ids, tokens.ids])
    assert len(tok.decode(batch, steps=1, output="array")) == 2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([[[1, 2, 3]]], TokenError, r"numpy.array\(ids\)"),
        (np.zeros((5, 3), int), TokenError, r"5 x 3 ids of 4 bits came, model 'nano' takes 16 x 3"),
        (np.full((16, 3), 16), TokenError, "ids of 4 bits are 0 to 15"),
        (b"no container", ContainerError, "not a .flowmo container"),
        (7, TypeError, "tokens are what encode gave.*got int"),
    ],
)
def test_what_is_no_token_set_of_the_model_is_refused(
    tok: Tokenizer, given: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tok.decode(given)


def test_tokens_of_another_model_are_refused(
    tok: Tokenizer, other_checkpoint: Path, tmp_path: Path
) -> None:
    theirs = flowmo.load(other_checkpoint, device="cpu").encode(SQUARE)
    for kind, given in token_kinds(theirs, tmp_path / "theirs.flowmo").items():
        if kind in {"tokens", "array", "tensor"}:
            continue  # which cannot tell
        with pytest.raises(ContainerMismatchError, match=tok.fingerprint):
            tok.decode(given)  # type: ignore[call-overload]


# What comes out


def test_outputs_are_one_picture(tok: Tokenizer) -> None:
    tokens = tok.encode([SQUARE, 255 - SQUARE])
    pictures = tok.decode(tokens)
    arrays: NDArray[np.uint8] = tok.decode(tokens, output="array")
    tensors: torch.Tensor = tok.decode(tokens, output="tensor")
    assert [np.asarray(picture).tolist() for picture in pictures] == arrays.tolist()
    assert (tensors.dtype, tensors.device) == (torch.float32, tok.device)
    assert np.array_equal(to_pixels(tensors), arrays)
    assert tok.decode(tokens[0], output="tensor").shape == (3, SIZE, SIZE)
    assert tok.decode([], output="array").shape == (0, SIZE, SIZE, 3)
    assert tok.decode([]) == []
    with pytest.raises(ConfigError, match="output must be one of pil, array, tensor, got 'jpeg'"):
        tok.decode(tokens, output="jpeg")  # type: ignore[call-overload]


def test_seeds_are_0_1_2_unless_given(tok: Tokenizer) -> None:
    tokens = tok.encode(SQUARE)
    plain = tok.decode([tokens] * 3, output="tensor", batch_size=2)
    given = tok.decode([tokens] * 3, output="tensor", batch_size=2, seeds=[0, 1, 2])
    assert torch.equal(plain, given)
    assert not torch.equal(plain[0], plain[1])
    third = tok.decode(tokens, seeds=2, output="tensor")
    torch.testing.assert_close(third, plain[2], atol=1e-4, rtol=0)
    for seeds in ([1, 2], 5):
        with pytest.raises(TokenError, match="3 images need as many seeds"):
            tok.decode([tokens] * 3, seeds=seeds)


def test_sampler_options(tok: Tokenizer) -> None:
    tokens = tok.encode(SQUARE)
    decode: Callable[..., torch.Tensor] = lambda **o: tok.decode(tokens, output="tensor", **o)  # noqa: E731
    default = CONFIG.sampler
    assert torch.equal(decode(), decode(sampler=default))
    assert torch.equal(decode(steps=2), decode(sampler=replace(default, steps=2)))
    assert torch.equal(decode(guidance=3), decode(sampler=replace(default, guidance=3.0)))
    fixed = flowmo.SamplerConfig(schedule="explicit", times=(1.0, 0.5, 0.0))
    assert torch.equal(
        decode(sampler=fixed, steps=4), decode(sampler=flowmo.SamplerConfig(steps=4))
    )
    with pytest.raises(ConfigError, match="steps must be 1 to 1000"):
        decode(steps=5000)
    with pytest.raises(ConfigError, match="batch_size"):
        decode(batch_size=0)


def test_reconstruct_is_encode_and_decode(tok: Tokenizer) -> None:
    images = [SQUARE, 255 - SQUARE, gradient(30, 90)]
    expected = tok.decode(tok.encode(images, fit="pad"), steps=2, output="tensor", seeds=[7, 8, 9])
    came = tok.reconstruct(images, fit="pad", steps=2, output="tensor", seeds=[7, 8, 9])
    assert [one.shape for one in came] == [(3, SIZE, SIZE), (3, SIZE, SIZE), (3, 90, 30)]
    assert all(torch.equal(a, b) for a, b in zip(came, expected, strict=True))
    alone = tok.reconstruct(SQUARE, steps=2)
    assert isinstance(alone, Image.Image)
    assert alone.size == (SIZE, SIZE)


# The model


def test_a_continuous_model_reconstructs_only(tmp_path: Path) -> None:
    tok = flowmo.load(save_model(tmp_path, seed=3, quantizer="gaussian"), device="cpu")
    assert tok.reconstruct(SQUARE).size == (SIZE, SIZE)
    with pytest.raises(TokenError, match="continuous"):
        tok.encode(SQUARE)
    assert "continuous latent" in repr(tok)


def test_from_pretrained_and_to(checkpoint: Path) -> None:
    tok = Tokenizer.from_pretrained(checkpoint, dtype="bfloat16", device="cpu")
    assert tok.model.dtype == torch.bfloat16
    assert tok.to("cpu") is tok
    assert tok.device == torch.device("cpu")
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        tok.to("cuda:99")
    with pytest.raises(flowmo.CheckpointError, match="belongs to a published file"):
        flowmo.load("tiny", preset="lo")
    with pytest.raises(flowmo.CheckpointError, match="nowhere does not exist"):
        flowmo.load("nowhere")


def test_a_model_moves_as_a_whole(checkpoint: Path) -> None:
    tok = flowmo.load(checkpoint, device="cpu")
    tok.reconstruct(SQUARE, steps=2)  # which fills its tables
    # The meta device refuses to compute with anything that was left behind on the CPU.
    model = tok.model.to("meta")
    start = torch.zeros(1, 3, SIZE, SIZE)
    latent = model.quantize(torch.zeros(1, 16, 12))
    assert model.decode(latent, start=start).device.type == "meta"
    assert model.modulation([0.3]).device.type == "meta"
    assert model.rotary(encoder=True, grid=(4, 4)).device.type == "meta"
