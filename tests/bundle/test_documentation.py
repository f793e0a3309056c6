"""The documentation is true: every setting is listed, every example is valid, every named test exists."""

from __future__ import annotations

import re

import pytest
import yaml

from include.xcom_maintenance.bundle.settings import Settings, SettingsOfOffload, SettingsOfRestore
from include.xcom_maintenance.retention.settings import RetentionRule
from include.xcom_maintenance.settings.layers import Layer
from tests.conftest import REPOSITORY
from tests.support.settings import resolve

DOCS = REPOSITORY / "docs"


def table_after(text: str, heading: str) -> dict[str, str]:
    """First and second column of the first table after a heading."""
    lines = text[text.index(heading) :].splitlines()
    rows = [line.split("|")[1:3] for line in lines if line.startswith("| `")]
    return {name.strip(" `"): default.strip(" `") for name, default in rows}


def test_every_setting_is_documented_with_its_default() -> None:
    text = (DOCS / "settings.md").read_text()
    general, rules = text.split("## Retention rules")
    rules, form = rules.split("## The form of `xcom_restore`")
    form, offload = form.split("## The form of `xcom_offload_large_values`")
    listed = table_after(general, "| setting |")
    assert set(listed) == set(Settings.model_fields)
    for name, default in Settings().model_dump(mode="json").items():
        if isinstance(default, bool):
            assert listed[name] == str(default).lower()
        elif isinstance(default, int | float | str):
            assert listed[name] == f"{default:g}" if isinstance(default, float) else listed[name] == str(default)
    assert set(table_after(rules, "| in a rule |")) == set(RetentionRule.model_fields)
    assert set(table_after(form, "| in the form |")) == SettingsOfRestore.FORM_ONLY | {"mode"}
    assert set(table_after(offload, "| in its form |")) == SettingsOfOffload.FORM_ONLY | {"mode"}


@pytest.mark.parametrize("document", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_example_of_a_policy_is_valid(document: str) -> None:
    for example in re.findall(r"```yaml\n(.*?)```", (DOCS / document).read_text(), flags=re.DOTALL):
        values = yaml.safe_load(example)
        if set(values) & set(Settings.model_fields):
            resolve([Layer(document, values)])


def test_every_test_that_the_safety_rules_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "safety.md").read_text()))
    defined = {
        name
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    assert len(named) > 20
    assert named - defined == set()
