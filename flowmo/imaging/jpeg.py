"""What must be known of a JPEG before it is decoded."""

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_FILL = 0xFF
# Stuffed zeros, TEM and restart markers: no length follows.
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})


def count_scans(data: bytes) -> int:
    """Scans of the first picture in a JPEG file.

    A progressive file is decoded by going over the whole picture once a scan. Encoders write about
    ten; a hostile file of a few kilobytes can hold thousands of empty ones and keep a decoder busy
    for hours.

    Args:
        data: The file, from its first byte.

    Returns:
        How many start-of-scan segments precede the picture's end; 0 for what is no JPEG.
    """
    scans = 0
    at = 2  # behind the start-of-image marker
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker == _FILL:
            at += 1
        elif marker in _BARE:
            at += 2
        elif marker == _END_OF_IMAGE:
            break
        else:
            scans += marker == _START_OF_SCAN
            # Segments (thumbnails, profiles) are skipped by their length; it counts itself.
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return scans
