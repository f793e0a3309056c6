"""The HTML of a report: what users named stays text, nothing is loaded, and it says what the Markdown says."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from include.xcom_maintenance.reports import charts, html, markdown
from include.xcom_maintenance.reports.report import Chart, Report, Table

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7777*7777 }}\x07\udcff"
DAYS = ["2026-01-01", "2026-01-02", "2026-01-04"]


def a_report() -> Report:
    report = Report("xcom_size_audit", HOSTILE, mode=HOSTILE)
    report.headline = {"rows": 1_234_567, "bytes": 5 * 1024**2, "oldest_row": HOSTILE, "names": [HOSTILE]}
    report.warnings = [HOSTILE]
    report.objections = [{"problem": HOSTILE, "setting": HOSTILE, "remedy": HOSTILE}]
    report.approval = HOSTILE
    report.error = {"type": "E", "message": HOSTILE, "setting": None, "remedy": None}
    report.manifest = HOSTILE
    report.settings = {"x": {"value": HOSTILE, "source": HOSTILE}}
    report.phases = [{"name": HOSTILE, "seconds": 1.5}]
    report.tables = [
        Table(HOSTILE, [HOSTILE, "stored bytes"], [[HOSTILE, 2048], ["b" * 250, None]], HOSTILE),
        Table("Empty", ["a"], []),
    ]
    report.charts = [
        Chart(HOSTILE, "bar", [HOSTILE, "b"], {HOSTILE: [1, 2.5]}, "bytes", HOSTILE),
        Chart("stacked", "stacked", [HOSTILE, "b"], {HOSTILE: [1, 2], "other": [3, None]}, "rows"),
        Chart("days", "stacked", DAYS, {HOSTILE: [1, 2, 3], "other": [0, 0, 1]}, HOSTILE),
        Chart("line", "line", DAYS, {HOSTILE: [1, None, 3], "forecast": [None, None, 4.5]}, "seconds"),
    ]
    return report


class Page(HTMLParser):
    """Every element and attribute, and all text, as a browser would take them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_no_name_becomes_an_element_or_an_attribute() -> None:
    page = Page(html.render(a_report()))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "link", "form", "base", "foreignobject"}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in {"src", "style", "srcdoc", "xlink:href"}}
    assert {attributes["href"] for tag, attributes in page.elements if tag == "a"} <= {
        f"#{attributes['id']}" for _, attributes in page.elements if attributes.get("id")
    }
    assert page.text.count("<script>alert(1)</script>") > 15
    assert "{{ 7777*7777 }}" in page.text
    assert "60481729" not in page.text


def test_no_style_or_request_escapes_the_policy_of_the_page() -> None:
    import base64
    import hashlib

    text = html.render(a_report())
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    styles = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    assert digest in policy.replace("&#43;", "+")
    assert not re.search(r"https?://(?!www\.w3\.org/)|url\(|@import", text)


def test_nothing_that_the_markdown_says_is_missing_and_it_comes_in_the_same_order() -> None:
    report = a_report()
    report.tables.insert(0, Table("By DAG", ["DAG", "rows", "share of rows"], [["sales", 1234, 0.5], ["hr", 0, 0.0]]))
    report.finish("audited")
    page = Page(html.render(report)).text
    said = [markdown.STATUS_WORDS["audited"], "Guard.", "Warning.", "1,234,567", "5.0 MB", "By DAG", "sales", "1,234"]
    said += ["50.0%", "Empty", "None.", "Manifest", "Phases", "Settings"]
    positions = [page.rindex(words) if words in {"By DAG", "Empty"} else page.index(words) for words in said[:-2]]
    assert positions[:5] == sorted(positions[:5])
    assert page.rindex("By DAG") < page.rindex("Empty") < page.rindex("Manifest") < page.rindex("Phases")
    assert "2.0 KB" in page


def test_a_name_in_backticks_is_set_apart_and_stays_text() -> None:
    report = Report("d", "r", tables=[Table("t", ["a"], [], "`airflow db <b>clean</b>` & more")])
    assert "<code>airflow db &lt;b&gt;clean&lt;/b&gt;</code> &amp; more" in html.render(report)


def test_no_chart_lacks_a_table_of_its_figures() -> None:
    report = a_report()
    text = html.render(report)
    for number, chart in enumerate(report.charts):
        [table] = re.findall(rf'<table id="chart-{number}-figures-table">(.*?)</table>', text, flags=re.DOTALL)
        assert table.count("<tr>") == 1 + len(chart.labels)
    drawings = [attributes for tag, attributes in Page(text).elements if tag == "svg" and "aria-label" in attributes]
    assert len(drawings) == 2 * len(report.charts)
    assert all(attributes["role"] == "img" for attributes in drawings)


def test_no_date_or_figure_of_a_bar_is_hidden_from_who_points_at_it() -> None:
    chart = Chart("c", "bar", ["a" * 250, "b"], {"bytes": [3 * 1024**2, 1024]}, "bytes")
    [wide, narrow] = charts.draw(chart)
    for drawing in (wide, narrow):
        assert f"<title>{'a' * 250}: 3.0 MB</title>" in drawing
        assert "<title>b: 1.0 KB</title>" in drawing
        # Long names are shortened where they would push the bars out.
        assert f"{'a' * 60}<" not in drawing
    [line, _] = charts.draw(Chart("l", "line", DAYS, {"s": [1, None, 2]}, "seconds"))
    assert "<title>2026-01-04: 2 seconds</title>" in line


@pytest.mark.parametrize(
    "chart",
    [
        Chart("none", "bar", [], {}, "bytes"),
        Chart("zeros", "bar", ["a"], {"s": [0]}, "bytes"),
        Chart("nothing", "line", DAYS, {"s": [None, None, None]}, "bytes"),
        Chart("one moment", "line", DAYS[:1], {"s": [5]}, "bytes"),
        Chart("same moment", "line", [DAYS[0], DAYS[0]], {"s": [5, 6]}, "bytes"),
        Chart("not dates", "line", ["x", "y"], {"s": [5, 6]}, "bytes"),
        Chart("tiny", "bar", ["a"], {"s": [1e-9]}, "seconds"),
        Chart("huge", "bar", ["a"], {"s": [2**62]}, "bytes"),
        Chart("many", "stacked", ["a"], {f"s{n}": [n] for n in range(20)}, "rows"),
        Chart("too short", "bar", ["a", "b"], {"s": [1]}, "rows"),
    ],
    ids=lambda chart: chart.title,
)
def test_no_odd_chart_breaks_the_report(chart: Chart) -> None:
    report = Report("d", "r", charts=[chart])
    text = html.render(report)
    assert chart.title in text
    assert "nan" not in text.lower().replace("nano", "")


def test_without_its_library_charts_are_tables_and_the_page_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygal", None)
    text = html.render(a_report())
    assert "pygal is not installed" in text
    assert "<svg" not in text.replace('<svg class="share"', "")
    assert text.count('<table id="chart-') == 4


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_moments_of_one_day_are_told_apart_by_the_time_and_say_the_date_once(kind: Any) -> None:
    moments = [f"2026-01-28T{1 + n // 3:02}:{20 * (n % 3):02}:00+00:00" for n in range(9)]
    wide, narrow = charts.draw(Chart("c", kind, moments, {"s": [n + 1.0 for n in range(9)]}, "bytes"))
    for drawing, date in ((wide, "2026-01-28"), (narrow, "01-28")):
        labels = re.findall(r">([^<>]*\d\d:\d\d)</text>", drawing)
        assert labels[0] == f"{date} 01:00"
        assert len(set(labels)) == len(labels) > 2
        assert sum(date in label for label in labels) == 1
    wide, _ = charts.draw(Chart("c", kind, DAYS, {"s": [1, 2, 3]}, "bytes"))
    assert not re.findall(r">[^<>]*\d\d:\d\d</text>", wide)
