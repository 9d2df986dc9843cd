"""What tokenize answered is a body of detokenize as it is, alone and in batches."""

import base64
import json

import httpx
import pytest

from tests.service.pictures import as_file, from_file, gradient

PNG = as_file(gradient())
RAW = {"Content-Type": "image/png"}
IMAGE = base64.b64encode(PNG).decode()


def test_the_answer_of_tokenize(http: httpx.Client) -> None:
    answer = http.post("/v1/tokenize", content=PNG, headers=RAW)
    tokens = answer.json()["tokens"]
    expected = http.post("/v1/detokenize", json={"tokens": tokens})
    assert expected.status_code == 200
    # The very bytes, as a pipe of two commands sends them.
    json_type = {"Content-Type": "application/json"}
    posted = http.post("/v1/detokenize", content=answer.content, headers=json_type)
    assert (posted.status_code, posted.content) == (200, expected.content)
    # Options may stand beside it; what it carries is none of them.
    seeded = http.post("/v1/detokenize", json={**answer.json(), "seed": 5})
    assert seeded.headers["Flowmo-Seed"] == "5"
    assert seeded.content != expected.content


@pytest.mark.parametrize("form", ["ids", "container"])
def test_the_answer_of_a_batch(http: httpx.Client, form: str) -> None:
    wide = base64.b64encode(as_file(gradient(64, 32))).decode()
    body = {"items": [{"image": IMAGE}, {"image": wide, "fit": "crop"}], "tokens": form}
    answer = http.post("/v1/tokenize/batch", json=body)
    json_type = {"Content-Type": "application/json"}
    posted = http.post("/v1/detokenize/batch", content=answer.content, headers=json_type)
    assert posted.status_code == 200, posted.text
    outcome = posted.json()
    assert (outcome["succeeded"], outcome["failed"]) == (2, 0)
    first, second = (from_file(base64.b64decode(item["image"])) for item in outcome["items"])
    assert (first != second).any()


def test_an_item_that_was_not_tokenized_says_so(http: httpx.Client) -> None:
    body = {"items": [{"image": IMAGE}, {"image": "AAAA"}]}
    answer = http.post("/v1/tokenize/batch", json=body).json()
    assert answer["failed"] == 1
    good, bad = http.post("/v1/detokenize/batch", json=answer).json()["items"]
    assert (good["status"], bad["status"]) == (200, 422)
    assert "was not tokenized" in json.dumps(bad["problem"]["errors"])


@pytest.mark.parametrize("field", ["uplod", "succeeded", "problem"])
def test_other_members_are_still_refused(http: httpx.Client, field: str) -> None:
    answer = http.post("/v1/tokenize", content=PNG, headers=RAW).json()
    posted = http.post("/v1/detokenize", json={**answer, field: 1})
    assert posted.status_code == 422
    assert posted.json()["errors"][0]["field"] == f"body.{field}"
