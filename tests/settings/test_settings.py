from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from include.xcom_maintenance.bundle.settings import Settings, SettingsOfRestore
from include.xcom_maintenance.core.errors import ConfigurationError
from include.xcom_maintenance.settings import sources as settings
from include.xcom_maintenance.settings.layers import Layer
from tests.support.settings import resolve


def test_the_form_wins_over_the_variable_over_the_file_over_the_defaults() -> None:
    resolved = resolve(
        [
            settings.form_layer({"max_age_days": 1, "mode": None, "report_path": ""}),
            settings.variable_layer('{"max_age_days": 2, "mode": "enforce", "min_runs": 2}'),
            Layer(
                "include/xcom_maintenance.yaml",
                {"max_age_days": 3, "min_runs": 3, "max_runs": 3, "report_path": "file:///r"},
            ),
        ]
    )
    found = resolved.settings
    assert (found.max_age_days, found.mode, found.min_runs, found.max_runs, found.batch_rows) == (
        1,
        "enforce",
        2,
        3,
        40_000,
    )
    assert {name: source["source"] for name, source in resolved.described().items()} == {
        **dict.fromkeys(Settings.model_fields, "default"),
        "max_age_days": "trigger form",
        "mode": "Variable xcom_maintenance",
        "min_runs": "Variable xcom_maintenance",
        "max_runs": "include/xcom_maintenance.yaml",
        "report_path": "include/xcom_maintenance.yaml",
    }


def test_the_defaults_change_nothing() -> None:
    assert resolve([]).settings.mode == "report"


def test_rules_inherit_what_they_leave_out() -> None:
    resolved = resolve(
        [
            Layer(
                "",
                {
                    "max_age_days": 30,
                    "min_runs": 2,
                    "retention": [{"dag_ids": "a"}, {"max_age_days": None, "max_runs": 5}],
                },
            )
        ]
    )
    first, second = resolved.settings.rules()
    assert (first.dag_ids, first.max_age, first.max_runs, first.min_runs) == (("a",), timedelta(30), None, 2)
    assert (second.dag_ids, second.max_age, second.max_runs, second.min_runs) == (("*",), None, 5, 2)


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve([Layer("trigger form", {"max_age_days": -1}), Layer("Variable xcom_maintenance", {"min_runs": "x"})])
    assert "max_age_days from the trigger form" in str(caught.value)
    assert "min_runs from the Variable xcom_maintenance" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9, [], {}])
def test_ages_that_are_no_sensible_number_are_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="max_age_days"):
        resolve([Layer("x", {"max_age_days": value})])


def test_a_file_that_is_missing_or_empty_sets_nothing(tmp_path: Path) -> None:
    assert settings.file_layer(tmp_path / "none.yaml").values == {}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert settings.file_layer(tmp_path / "empty.yaml").values == {}


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "1: 2", "a: [", "\xff".encode("latin-1").decode("latin-1")])
def test_a_file_that_holds_no_settings_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"policy\.yaml"):
        settings.file_layer(path)


def test_the_shipped_file_sets_nothing_and_shows_every_setting_with_its_default() -> None:
    text = settings.FILE.read_text()
    assert settings.file_layer().values == {}
    commented = re.findall(r"^# ([a-z_]+:.*|  .*)$", text, flags=re.MULTILINE)
    shown = yaml.safe_load("\n".join(commented))
    resolve([Layer("the example", shown)])
    defaults = Settings().model_dump(mode="json")
    assert set(shown) == set(defaults)
    assert {k: v for k, v in shown.items() if k != "retention"} == {
        k: v for k, v in defaults.items() if k != "retention"
    }


def test_what_to_restore_and_the_mode_of_a_restore_come_from_its_form_only() -> None:
    enforcing = Layer("Variable xcom_maintenance", {"mode": "enforce", "batch_rows": 5})
    found = resolve([settings.form_layer({"dag_ids": "a, b_*,"}), enforcing], SettingsOfRestore)
    assert isinstance(found.settings, SettingsOfRestore)
    assert (found.settings.mode_of("xcom_restore"), found.settings.batch_rows) == ("report", 5)
    assert found.settings.dag_ids == ("a", "b_*")
    assert found.sources == {"dag_ids": "trigger form", "batch_rows": "Variable xcom_maintenance"}
    assert resolve([settings.form_layer({"mode": "enforce"})], SettingsOfRestore).settings.mode == "enforce"
    with pytest.raises(ConfigurationError, match="Unknown setting 'archive'"):
        resolve([Layer("Variable xcom_maintenance", {"archive": "x"})], SettingsOfRestore)
    with pytest.raises(ConfigurationError, match="Unknown setting 'archive'"):
        resolve([settings.form_layer({"archive": "x"})])


def test_what_a_notifier_is_made_with_is_not_described_but_by_name() -> None:
    layer = Layer("", {"notifier": "a.b.Notifier", "notifier_kwargs": {"webhook": "https://open-sesame", "text": "t"}})
    described = resolve([layer]).described()
    assert described["notifier_kwargs"]["value"] == ["text", "webhook"]
    assert "sesame" not in str(described)


@pytest.mark.parametrize("name", ["notifier", "notifier_kwargs"])
def test_the_form_cannot_choose_who_is_told(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} cannot be set for one run"):
        settings.form_layer({name: "x"})
