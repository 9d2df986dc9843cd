"""The OpenAPI document: what FastAPI cannot see in handlers that read their bodies themselves."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from flowmo.service.engine.model_info import ModelInfo
from flowmo.service.http.oip.tensors import InferRequest
from flowmo.service.http.problems import Problem
from flowmo.service.http.wire.batches import (
    DetokenizeBatchBody,
    ReconstructBatchBody,
    TokenizeBatchBody,
)
from flowmo.service.http.wire.bodies import DetokenizeBody, ReconstructBody, TokenizeBody
from flowmo.service.http.wire.generate import GenerateBody

_TEMPLATE = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (
    Problem,
    TokenizeBody,
    DetokenizeBody,
    ReconstructBody,
    GenerateBody,
    TokenizeBatchBody,
    DetokenizeBatchBody,
    ReconstructBatchBody,
    InferRequest,
)


# A red pixel.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


def _examples(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """JSON bodies by path; each is answered with 200 by a server of the model."""
    config = info.config
    ids = [[0] * config.ids_per_token] * config.code_length
    image, tokens = {"image": _PNG}, {"tokens": {"ids": ids}}
    rows = {"name": "ids", "datatype": "INT32", "data": ids}
    shape = [1, config.code_length, config.ids_per_token]
    infer = {"inputs": [{**rows, "shape": shape}], "parameters": {"steps": 2}}
    kept = [True] * (config.code_length // 2) + [False] * (
        config.code_length - config.code_length // 2
    )
    generated = {
        "/v1/generate": _named(
            two={"seed": 7, "count": 2, "steps": 2},
            completed={**tokens, "mask": kept, "steps": 2},
        )
    }
    return (generated if info.prior is not None else {}) | {
        "/v1/tokenize": _named(padded={**image, "fit": "pad"}),
        "/v1/detokenize": _named(quick={**tokens, "seed": 7, "steps": 2}),
        "/v1/reconstruct": _named(quick={**image, "seed": 7, "steps": 2}),
        "/v1/tokenize/batch": _named(two={"items": [image, {**image, "fit": "pad"}]}),
        "/v1/detokenize/batch": _named(
            seeds={"items": [tokens, {**tokens, "seed": 7}], "steps": 2}
        ),
        "/v1/reconstruct/batch": _named(jpegs={"items": [image], "steps": 2, "format": "jpeg"}),
        "/v2/models/{name}/infer": _named(detokenize=infer),
    }


def _named(**values: Any) -> dict[str, Any]:
    return {name: {"value": value} for name, value in values.items()}


def schema_ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to one of the document's schemas."""
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def describe(app: FastAPI, info: ModelInfo) -> None:
    """Add schemas of request bodies and problems, and examples, to the application's document.

    Args:
        app: The application, with all its routes.
        info: The default model, whose tokens the examples are.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _, schemas = models_json_schema(
                [(model, "validation") for model in _MODELS], ref_template=_TEMPLATE
            )
            known = document.setdefault("components", {}).setdefault("schemas", {})
            for name, schema in schemas["$defs"].items():
                known.setdefault(name, schema)
            for path, examples in _examples(info).items():
                body = document["paths"][path]["post"]["requestBody"]
                body["content"]["application/json"]["examples"] = examples
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
