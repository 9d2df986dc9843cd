"""What is measured of pictures of any size: seams, small decodes beside a large one, the grid."""

import numpy as np
from PIL import Image

from benchmarks.native_pictures import as_webp, originals
from benchmarks.seams import border_lines, seam_of, seam_sums
from benchmarks.serving.arrivals import poisson_arrivals
from benchmarks.serving.starvation import bucket_seconds, capacity, serve
from benchmarks.serving.summary import spread
from flowmo.model.config import preset
from flowmo.model.layout import PictureLayout
from flowmo.model.tiling import Tiling


def test_a_seam_is_what_borders_have_beyond_the_photograph() -> None:
    tiling = Tiling(width=56, height=32, size=32, overlap=8)
    assert border_lines(tiling.lefts, 32, 56) == [24, 28, 32]
    noise = np.random.default_rng(0).integers(90, 160, (32, 56, 3), dtype=np.uint8)

    def seam(made: np.ndarray) -> float:
        return seam_of(seam_sums(noise, made, tiling, 8))

    assert seam(noise) == 1
    half = (128 + (noise.astype(int) - 128) // 2).astype(np.uint8)
    assert abs(seam(half) - 1) < 0.05  # flatter, but everywhere
    line, band = noise.copy(), noise.copy()
    line[:, 28:] += 60
    assert seam(line) > 1.2
    band[:, 24:33] = 128
    assert seam(band) < 0.5


def test_small_decodes_wait_little_for_a_picture_of_60_tiles() -> None:
    """In virtual time: no clock is read."""
    seconds = bucket_seconds(preset("lo"), 8)
    layout = PictureLayout(width=2272, height=1376, tile_size=256, overlap=32)
    assert layout.tiles == 60
    rate = 0.5 * capacity(seconds)
    arrivals = poisson_arrivals(rate, 300 / rate, seed=0)
    alone, _ = serve(arrivals, seconds, None)
    beside, _ = serve(arrivals, seconds, layout)
    assert len(alone) == len(beside) == len(arrivals)
    # Behind a whole step of it, 120 rows, each of the four steps would take 0.54 s and more.
    assert spread(beside).p95 < 3 * spread(alone).p95
    assert spread(beside).largest < 4 * 120 / 32 * seconds[32]


def test_the_pictures_of_the_grid_have_their_sizes_and_it_keeps_to_its_bytes() -> None:
    assert [one.shape[:2] for one in originals().values()] == [(128, 128), (512, 512), (727, 1500)]
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    assert len(as_webp(Image.fromarray(noise), 20_000)) <= 20_000
