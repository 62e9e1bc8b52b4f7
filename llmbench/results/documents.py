"""Every kind of document that llmbench stores, as JSON Schema."""

from __future__ import annotations

from typing import Any

from llmbench.results.ab import Ab, AbSession
from llmbench.results.schema import Record, Run, Series


def json_schema() -> dict[str, Any]:
    """JSON Schema by name of the document."""
    models = (Record, Run, Series, Ab, AbSession)
    return {model.__name__: model.model_json_schema(by_alias=True) for model in models}
