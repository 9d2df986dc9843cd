"""MkDocs' hook for links out of ``docs/``: to the repository's page of the file, or its path.

On a forge ``[results](../benchmarks/results/README.md)`` is a link; a site knows only ``docs/``.
A link to nothing fails the strict build, as MkDocs' own checks do for links inside.
"""

import logging
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_ROOT = Path(__file__).resolve().parents[2]
_log = logging.getLogger("mkdocs.hooks.links")


def on_page_markdown(
    markdown: str,
    *,
    page: Page,
    config: MkDocsConfig,
    files: Files,  # noqa: ARG001  # MkDocs' names
) -> str:
    """The page's text with each link out of ``docs/`` replaced."""
    docs = Path(config.docs_dir)
    folder = (docs / page.file.src_uri).parent

    def replaced(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / match["target"]))
        if path.is_relative_to(docs):
            return match[0]
        if not path.exists():
            _log.warning("%s links to %s, which does not exist", page.file.src_uri, match["target"])
        name = path.relative_to(_ROOT).as_posix()
        if not config.repo_url:
            return f"{match['text']} (`{name}`)"
        address = f"{config.repo_url.rstrip('/')}/blob/HEAD/{name}{match['anchor'] or ''}"
        return f"[{match['text']}]({address})"

    return _LINK.sub(replaced, markdown)
