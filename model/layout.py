"""How a picture lies in its tiles: its size, the model's square, and how the one became the other.

``native`` covers the picture with tiles of the model's size. ``crop``, ``pad`` and ``stretch`` make
one square of it (:mod:`flowmo.imaging.fit`); the picture's own size is kept beside them, so that a
padded or stretched picture can be given back in its own shape.
"""

from dataclasses import dataclass

from flowmo.model.errors import ConfigError, PictureTooLargeError
from flowmo.model.tiling import MAX_OVERLAP_SHARE, Tiling

NATIVE = "native"
# In the order of their numbers in a container.
FITS = (NATIVE, "crop", "pad", "stretch")
# Far above any picture, and low enough that a hostile header's arithmetic stays small.
MAX_SIDE = 65_535


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureLayout:
    """The size of a picture and the tiles that stand for it.

    Layouts that mean the same are equal: where one tile is the whole picture, ``overlap`` becomes
    0, and where the picture is the model's square, ``fit`` becomes ``native``.

    Args:
        width: W, the picture's width in pixels, 1 to 65535, its orientation applied.
        height: H, its height, likewise.
        tile_size: S, the side of the model's square in pixels, 1 to 65535.
        overlap: The fewest pixels that neighbouring tiles share, 0 to S / 2.
        fit: ``native``, ``crop``, ``pad`` or ``stretch``.

    Raises:
        ConfigError: A value is out of its range.
    """

    width: int
    height: int
    tile_size: int
    overlap: int = 0
    fit: str = NATIVE

    def __post_init__(self) -> None:
        for name in ("width", "height", "tile_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_SIDE:
                raise ConfigError(
                    f"{name} must be a whole number of pixels from 1 to {MAX_SIDE}, got {value!r}"
                )
        most = int(self.tile_size * MAX_OVERLAP_SHARE)
        if (
            isinstance(self.overlap, bool)
            or not isinstance(self.overlap, int)
            or not 0 <= self.overlap <= most
        ):
            raise ConfigError(
                f"tiles of {self.tile_size} pixels overlap by 0 to {most} pixels, got "
                f"{self.overlap!r}"
            )
        if self.fit not in FITS:
            raise ConfigError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        if self.fit != NATIVE or max(self.width, self.height) <= self.tile_size:
            object.__setattr__(self, "overlap", 0)
        if self.width == self.height == self.tile_size:
            object.__setattr__(self, "fit", NATIVE)

    @property
    def tiling(self) -> Tiling:
        """Where the tiles are: in the picture, or the one square that was made of it."""
        if self.fit == NATIVE:
            width, height = self.width, self.height
        else:
            width = height = self.tile_size
        return Tiling(width=width, height=height, size=self.tile_size, overlap=self.overlap)

    @property
    def tiles(self) -> int:
        """T, the number of tiles."""
        return self.tiling.count

    @property
    def output(self) -> tuple[int, int]:
        """Width and height in pixels of what the tokens decode to.

        A cropped picture comes back as the model's square, all others in their own size.
        """
        return (self.tile_size, self.tile_size) if self.fit == "crop" else (self.width, self.height)

    @property
    def is_plain(self) -> bool:
        """Whether the picture is the model's square, so that nothing else needs to be said."""
        return self.width == self.height == self.tile_size

    def check_limits(self, *, max_pixels: int | None, max_tiles: int | None) -> None:
        """Refuse a picture that is larger than somebody is willing to decode.

        Args:
            max_pixels: The most pixels of what the tokens decode to; None for no limit.
            max_tiles: The most tiles; None for no limit.

        Raises:
            PictureTooLargeError: There are more; the message says the limit.
        """
        width, height = self.output
        if max_pixels is not None and width * height > max_pixels:
            raise PictureTooLargeError(
                f"the picture is {width} x {height} = {width * height:,} pixels, at most "
                f"{max_pixels:,} are accepted; scale it down first"
            )
        if max_tiles is not None and self.tiles > max_tiles:
            raise PictureTooLargeError(
                f"the picture of {width} x {height} pixels takes {self.tiles:,} tiles of "
                f"{self.tile_size} x {self.tile_size}, at most {max_tiles:,} are accepted; scale "
                f"it down, or use fit=crop, pad or stretch for one tile"
            )
