"""The published schema of reports, which every report that a test reads has to satisfy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parent.parent.parent / "docs" / "report.schema.json"


@cache
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@cache
def _validate(text: str) -> None:
    """Once for each text: a test reads its report again and again."""
    validator().validate(json.loads(text))


def valid(report: dict[str, Any]) -> dict[str, Any]:
    """The report, if the schema allows it; cells must be as many as columns, which no schema can say."""
    _validate(json.dumps(report))
    for table in report["tables"]:
        assert {len(row) for row in table["rows"]} <= {len(table["columns"])}, table["title"]
    for chart in report["charts"]:
        assert {len(values) for values in chart["series"].values()} <= {len(chart["labels"])}, chart["title"]
    return report
