import hashlib

from PIL import Image

from flowmo import photograph_paths

# Held-out figures of different days compare only while these stay the same.
SHA256 = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}


def test_the_held_out_photographs_never_change() -> None:
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in photograph_paths()
    }
    assert digests == SHA256


def test_each_is_credited_and_large_enough() -> None:
    attribution = (photograph_paths()[0].parent / "ATTRIBUTION.md").read_text()
    for path in photograph_paths():
        assert f"`{path.name}`" in attribution
        with Image.open(path) as image:
            assert min(image.size) >= 256
            assert image.mode == "RGB"
