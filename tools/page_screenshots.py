"""The pictures of the page in docs/images: both themes, and a phone.

    flowmo serve & python -m tools.page_screenshots http://127.0.0.1:8000

Run it when the page or the demo model has changed.
"""

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parents[1] / "docs" / "images"
DESK = {"viewport": {"width": 1180, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
PICTURES: dict[str, dict[str, Any]] = {
    "light": {**DESK, "color_scheme": "light"},
    "dark": {**DESK, "color_scheme": "dark"},
    "phone": {**PHONE, "color_scheme": "light"},
}
PATIENCE = 180_000  # milliseconds; a busy machine decodes slowly


def main(url: str) -> None:
    """Visit the server's page and write the pictures.

    Args:
        url: Of a server that needs no key.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for name, options in PICTURES.items():
            page = browser.new_context(**options).new_page()
            page.goto(url)
            page.wait_for_selector("#codecs figure:nth-child(3)", timeout=PATIENCE)
            page.evaluate("document.activeElement.blur()")
            shot = page.screenshot(full_page=name != "phone")
            Image.open(io.BytesIO(shot)).convert("RGB").save(
                FOLDER / f"playground-{name}.webp", quality=82, method=6
            )
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
