"""A colour profile to measure and test with: that of most phones' photographs."""

import struct

from PIL import ImageCms

# Of Display P3 (SMPTE EG 432-1) adapted to D50, which is where ICC profiles have them.
_PRIMARIES = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


def display_p3() -> bytes:
    """The ICC profile Display P3: the curve of sRGB, wider primaries."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    for entry in range(count):
        tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        if tag in _PRIMARIES:
            fixed = [round(value * 65536) for value in _PRIMARIES[tag]]
            struct.pack_into(">3i", profile, offset + 8, *fixed)
    # Its description must not say that it is sRGB.
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "a P3".encode("utf-16-be"))
