"""URLs of images, and what of them may be shown."""

import re
from urllib.parse import urlsplit, urlunsplit

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def scheme(text: str) -> str | None:
    """``s3`` of ``s3://bucket/folder``; None of a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def shown(url: str) -> str:
    """A URL without its user, password and query, where signatures are."""
    if scheme(url) is None:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
