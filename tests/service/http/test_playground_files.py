"""The files of the page, as they are served."""

import asyncio
import re

import httpx

from flowmo.service.engine.runner import Runner
from flowmo.service.settings import Settings
from tests.service.runners import client_of


def test_the_page_is_strict_about_what_it_loads_and_kept_until_it_changes(
    http: httpx.Client,
) -> None:
    page = http.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for address in re.findall(r'(?:href|src)="([^"#]+)"', page.text):
        assert http.get(f"/{address}").status_code == 200, address
    again = http.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get("/playground/../../settings.py").status_code == 404
    assert http.get("/playground/index.html").status_code == 404


def test_without_it_there_is_neither_page_nor_documentation(runner: Runner) -> None:
    async def main() -> list[int]:
        async with client_of(runner, Settings(playground=False)) as client:
            paths = ("/", "/docs", "/redoc", "/playground/page.js", "/openapi.json")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(main()) == [404, 404, 404, 404, 200]


def test_texts_are_packed_for_those_who_take_that(http: httpx.Client) -> None:
    plain = http.get("/playground/page.js", headers={"Accept-Encoding": "identity"})
    packed = http.get("/playground/page.js", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.content == plain.content
