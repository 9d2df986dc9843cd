"""The sample photographs that come with the package; ATTRIBUTION.md says whose they are."""

from pathlib import Path

PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "china.jpg",
    "coffee.png",
    "flower.jpg",
    "rocket.jpg",
)


def photograph_paths() -> tuple[Path, ...]:
    """The files of the sample photographs, in alphabetical order.

    They are held out: no recipe of this project trains on them. Sizes are 451x300 to 640x427.
    """
    folder = Path(__file__).parent
    return tuple(folder / name for name in PHOTOGRAPHS)
