"""Requests made from the OpenAPI document, sent to the real server: what it promises, it keeps."""

from typing import Any

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
        operation = result.ok()
        try:
            asked[operation.label] = statuses_of(operation)
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001  (all of them are told at once)
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)
    assert len(asked) == 19
    # Not by refusals alone: the document's own examples are requests that are answered.
    for label in ("POST /v1/detokenize", "POST /v1/tokenize", "POST /v1/reconstruct"):
        assert 200 in asked[label], asked
