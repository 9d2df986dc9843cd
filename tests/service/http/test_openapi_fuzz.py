"""Requests made from the OpenAPI document, sent to the real server: what it promises, it keeps."""

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flowmo.cli.server_process import ServerProcess

EXAMPLES = 25
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def statuses_of(operation: Any) -> set[int]:
    """Ask an operation many things; the statuses of its answers.

    Raises:
        Exception: an answer was not what the document promises.
    """
    seen = set()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        answer = case.call(timeout=60)
        seen.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    return seen


def test_every_operation_keeps_what_the_document_promises(server: ServerProcess) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: dict[str, set[int]] = {}
    wrong: list[str] = []
    for result in document.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        try:
            asked[operation.label] = statuses_of(operation)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  (all of them are reported at once)
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert len(asked) == 35


def test_its_examples_are_answered(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    asked = set()
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for example in content.get("application/json", {}).get("examples", {}).values():
            answer = http.post(path.replace("{name}", "detokenize"), json=example["value"])
            assert answer.status_code == 200, (path, answer.text)
            asked.add(path)
    assert len(asked) == 8


def test_each_error_has_an_example_of_its_form(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    responses = document["paths"]["/v1/reconstruct"]["post"]["responses"]
    for status in ("400", "401", "404", "413", "415", "422", "429", "503", "504"):
        content = responses[status]["content"]["application/problem+json"]
        for code, example in content["examples"].items():
            assert example["value"]["code"] == code
            assert example["value"]["status"] == int(status)
            assert example["value"]["hint"]
