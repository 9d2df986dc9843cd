"""What a browser asks before a page of another origin may call the API, and what it is told."""

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from flowmo.service.engine.runner import Runner
from flowmo.service.settings import Settings
from tests.service.runners import client_of

PAGE = "https://page.example"


def preflight(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }


def ask(runner: Runner, settings: Settings, method: str = "OPTIONS", **more: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        async with client_of(runner, settings) as client:
            return await client.request(method, "/v1/detokenize", **more)

    return asyncio.run(main())


@pytest.mark.parametrize("origins", [(PAGE, "http://localhost:5173"), ("*",)])
def test_a_page_of_an_allowed_origin_may_send_its_key(
    runner: Runner, origins: tuple[str, ...]
) -> None:
    answer = ask(runner, Settings(cors_origins=origins), headers=preflight(PAGE))
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] in {PAGE, "*"}
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_other_origins_are_refused(runner: Runner) -> None:
    settings = Settings(cors_origins=(PAGE,))
    answer = ask(runner, settings, headers=preflight("https://elsewhere.example"))
    assert answer.status_code == 400
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_the_option_nothing_is_allowed(runner: Runner) -> None:
    answer = ask(runner, Settings(), headers=preflight(PAGE))
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_problems_can_be_read_by_the_page_and_say_when_to_come_back(runner: Runner) -> None:
    settings = Settings(cors_origins=(PAGE,))
    answer = ask(runner, settings, "POST", content=b"{", headers={"Origin": PAGE})
    assert answer.status_code == 415
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert {"Retry-After", "Server-Timing", "Flowmo-Seed"} <= set(exposed.split(", "))


@pytest.mark.parametrize(
    "origin", ["https://page.example/", "page.example", "https://Page.example", "null", "ftp://a"]
)
def test_what_no_browser_sends_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="expected an origin as browsers send it"):
        Settings(cors_origins=(origin,))


def test_the_environment_names_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWMO_CORS_ORIGINS", f"{PAGE}, http://localhost:5173")
    assert Settings().cors_origins == (PAGE, "http://localhost:5173")
