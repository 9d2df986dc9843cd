"""The OpenAPI document: what FastAPI cannot see in handlers that read their bodies themselves."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.batch_wire import DetokenizeBatchBody, ReconstructBatchBody, TokenizeBatchBody
from service.problems import Problem
from service.wire import DetokenizeBody, ReconstructBody, TokenizeBody

_TEMPLATE = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (
    Problem,
    TokenizeBody,
    DetokenizeBody,
    ReconstructBody,
    TokenizeBatchBody,
    DetokenizeBatchBody,
    ReconstructBatchBody,
)


def schema_ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to one of the document's schemas."""
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def describe(app: FastAPI) -> None:
    """Add the schemas of request bodies and problems to the application's document."""
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
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
