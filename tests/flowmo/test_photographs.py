from PIL import Image

from flowmo import photograph_paths


def test_each_is_credited_and_large_enough() -> None:
    attribution = (photograph_paths()[0].parent / "ATTRIBUTION.md").read_text()
    for path in photograph_paths():
        assert f"`{path.name}`" in attribution
        with Image.open(path) as image:
            assert min(image.size) >= 256
            assert image.mode == "RGB"
