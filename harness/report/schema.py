"""The published JSON schemas (draft 2020-12) of what the harness writes, made from the models that write it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from harness.errors import UserError
from harness.judge.verdict import Verdict
from harness.report.json_report import ReportDocument
from harness.run.result import RunResult

_MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "report": (
        ReportDocument,
        "report.json: the verdicts of several runs, written by harness check and harness report",
    ),
    "result": (RunResult, "result.json: what a run measured and produced, written by the program in the image"),
    "verdict": (Verdict, "verdict.json: what the harness says of one run"),
}
SCHEMAS = tuple(_MODELS)


def schema_text(name: str) -> str:
    """The schema of ``report``, ``result`` or ``verdict`` as JSON text.

    Raises:
        UserError: there is no such schema.
    """
    if name not in _MODELS:
        raise UserError(f"unknown schema '{name}'", fix=f"valid: {', '.join(SCHEMAS)}")
    model, title = _MODELS[name]
    # result.json is described as it is read: the reader fills in what an older program did not write.
    schema: dict[str, Any] = model.model_json_schema(mode="validation" if name == "result" else "serialization")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
