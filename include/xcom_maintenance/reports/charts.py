"""The charts of a report as SVG, drawn by pygal: no scripts, nothing to load, coloured by the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from math import ceil, floor, log2, log10
from typing import Any

from include.xcom_maintenance.reports.markdown import figure
from include.xcom_maintenance.reports.report import Chart

#: How many colours the stylesheet has; further series would look alike, and the table has their figures.
MAX_SERIES = 8
_HORIZONTAL_BAR = 34  # pixels of a bar and the space around it


@dataclass(frozen=True, slots=True)
class _Size:
    """One drawing of a chart: text keeps its size, so phones need a separate drawing."""

    name: str
    width: int
    label_length: int
    ticks: int
    dates: int
    #: For the figure at the end of the longest bar.
    room: float


_SIZES = (_Size("wide", 1040, 40, 8, 10, 1.1), _Size("narrow", 350, 17, 3, 3, 1.35))


def installed() -> bool:
    """Whether pygal is installed."""
    try:
        import pygal  # noqa: F401 - only to see whether it is there
    except ImportError:  # the bundle was updated without its requirements
        return False
    return True


def draw(chart: Chart) -> list[str]:
    """The chart as ``<svg>`` elements: one for wide screens, one for phones; none if there is nothing to draw."""
    if not any(value for values in chart.series.values() for value in values):
        return []
    drawable = replace(
        chart,
        title=_printable(chart.title),
        labels=[_printable(label) for label in chart.labels],
        series={_printable(name): values for name, values in list(columns(chart).items())[:MAX_SERIES]},
        unit=_printable(chart.unit),
    )
    return [_draw(drawable, size) for size in _SIZES]


def columns(chart: Chart) -> dict[str, list[float | None]]:
    """The series, each with a value for every label."""
    count = len(chart.labels)
    return {name: [*values[:count], *[None] * (count - len(values))] for name, values in chart.series.items()}


def written(chart: Chart, value: float | None) -> str:
    """A figure of a chart, formatted for people."""
    if value is None:
        return "-"
    return figure(chart.unit, round(value, 3)) + _suffix(chart.unit)


def _suffix(unit: str) -> str:
    """The unit, where the formatted figure does not include it."""
    return f" {unit}" if unit and not {"bytes", "share"} & set(unit.split()) else ""


def _draw(chart: Chart, size: _Size) -> str:
    from pygal.etree import etree

    names = list(chart.series)
    moments = _moments(chart.labels)
    if chart.kind == "line" and moments:
        drawing = _line(chart, size, names, moments)
    else:
        drawing = _bars(chart, size, names, moments)
    root = drawing.render_tree()
    _clean(root, chart)
    root.set("class", f"chart {size.name}")
    root.set("role", "img")
    root.set("aria-label", f"{chart.title}; the figures are in the table below")
    # Without a width of its own a drawing would be as large as the page; text must not grow.
    root.set("width", str(size.width))
    text: str = etree.tostring(root, encoding="unicode")
    return text


def _bars(chart: Chart, size: _Size, names: list[str], moments: Sequence[datetime]) -> Any:
    import pygal

    upright = bool(moments)

    several = len(names) > 1
    kinds = (pygal.StackedBar, pygal.Bar) if upright else (pygal.HorizontalStackedBar, pygal.HorizontalBar)
    series = list(chart.series.values())
    sums = [sum(v or 0 for v in row) for row in zip(*series, strict=True)] if chart.kind == "stacked" else []
    ticks = _ticks(sums or [v or 0 for column in series for v in column], chart.unit, size.ticks)
    labels = chart.labels
    bars = len(labels) * (1 if chart.kind == "stacked" else len(names))
    height = 300 if upright else 60 + max(1, bars) * _HORIZONTAL_BAR
    drawing = kinds[chart.kind != "stacked"](
        **_look(chart, size),
        height=height,
        rounded_bars=2,
        y_labels=ticks,
        range=(0, ticks[-1] * (1.0 if several or upright else size.room)),
        print_values=not several and not upright,
        print_values_position="top",
    )
    # Read from the top, but drawn from the bottom.
    order = list(range(len(labels))) if upright else list(reversed(range(len(labels))))
    if upright:
        every = max(1, ceil(len(labels) / size.dates))
        texts = iter(_dated([moments[i] for i in order[::every]], size))
        drawing.x_labels = [next(texts) if n % every == 0 else "" for n in range(len(order))]
    else:
        drawing.x_labels = [_shortened(labels[i], size.label_length) for i in order]
    for name, column in zip(names, series, strict=True):
        drawing.add(
            name,
            [{"value": column[i], "label": f"{labels[i]}{f', {name}' if several else ''}"} for i in order],
        )
    return drawing


def _line(chart: Chart, size: _Size, names: list[str], moments: Sequence[datetime]) -> Any:
    import pygal

    values = [value for series in chart.series.values() for value in series if value is not None]
    first, last = min(moments), max(moments)
    ticks = _ticks(values, chart.unit, 5)
    drawing = pygal.DateTimeLine(
        **_look(chart, size),
        height=300,
        y_labels=ticks,
        range=(0, ticks[-1]),
        dots_size=3 if size.name == "wide" else 2,
        allow_interruptions=True,
    )
    drawing.x_labels = [{"value": tick, "label": label} for tick, label in _time_ticks(first, last, size)]
    for name, series in zip(names, chart.series.values(), strict=True):
        points = zip(moments, series, chart.labels, strict=True)
        drawing.add(
            name,
            [
                {"value": (moment, value), "label": f"{label}{f', {name}' if len(names) > 1 else ''}"}
                for moment, value, label in points
                if value is not None
            ],
        )
    return drawing


def _time_ticks(first: datetime, last: datetime, size: _Size) -> list[tuple[datetime, str]]:
    """The ticks of a time axis, and their labels: dates if they differ, else times of day."""
    if first == last:
        return [(first, _dated([first], size)[0])]
    midnight = datetime.combine(first.date(), datetime.min.time(), UTC) + timedelta(days=first.time() != time.min)
    days = (last - midnight).days + 1  # midnights from the first to the last moment
    if days > 2:
        step = ceil(days / size.dates)
        ticks = [midnight + timedelta(days=n) for n in range(0, days, step)]
    else:
        ticks = [first + (last - first) * n / (size.dates - 1) for n in range(size.dates)]
    return list(zip(ticks, _dated(ticks, size), strict=True))


def _dated(moments: Sequence[datetime], size: _Size) -> list[str]:
    """Labels for moments in order: their dates, or if some share a day, times of day with each date once."""
    date = "%Y-%m-%d" if size.name == "wide" else "%m-%d"
    days = [moment.date() for moment in moments]
    if len(set(days)) == len(days):
        return [f"{moment:{date}}" for moment in moments]
    clock = "%H:%M" if len({f"{moment:%Y-%m-%d %H:%M}" for moment in moments}) == len(moments) else "%H:%M:%S"
    before = [None, *days[:-1]]
    return [
        f"{moment:{clock}}" if day == earlier else f"{moment:{date} {clock}}"
        for moment, day, earlier in zip(moments, days, before, strict=True)
    ]


def _look(chart: Chart, size: _Size) -> dict[str, Any]:
    from pygal.style import Style

    return {
        "width": size.width,
        "style": Style(label_font_size=11, major_label_font_size=11, value_font_size=11),
        "js": (),
        "margin": 8,
        "margin_top": 12,
        "margin_right": 36,  # half of the last label of an axis
        "show_legend": False,  # the page has one that wraps
        "truncate_label": 100,
        "value_formatter": lambda value: figure(chart.unit, round(value, 3)).replace(".0 ", " "),
        # Of a point in time, the value.
        "formatter": lambda value: figure(
            chart.unit, round(value[-1] if isinstance(value, list | tuple) else value, 3)
        ),
    }


def _clean(root: Any, chart: Chart) -> None:
    """Remove script, style and what only scripts use; the figure of a bar becomes its tooltip."""
    for parent in list(root.iter()):
        for child in list(parent):
            kind = child.tag if isinstance(child.tag, str) else "comment"
            gone = kind in {"comment", "defs", "script", "style"} or "tooltip-overlay" in child.get("class", "")
            if gone or (kind == "title" and parent.get("class") in {None, "guides", "chart"}):
                parent.remove(child)
    for mark in root.iter("g"):
        if mark.get("class") not in {"bar", "dots"}:
            continue
        said = {child.get("class", ""): child.text or "" for child in mark if child.tag == "desc"}
        for child in list(mark):
            if child.tag == "desc":
                mark.remove(child)
        title = mark.makeelement("title", {})
        title.text = f"{said.get('label', '')}: {said.get('value', '')}{_suffix(chart.unit)}"
        mark.insert(0, title)
    for text in _texts_of_values(root):
        text.set("text-anchor", "start")
        text.set("dx", "5")
    root.attrib.pop("id", None)


def _texts_of_values(root: Any) -> Iterator[Any]:
    horizontal = any("horizontal" in (g.get("class") or "").split() for g in root.iter("g"))
    for text in root.iter("text"):
        if horizontal and text.get("class") == "value":
            yield text


def _ticks(values: Sequence[float], unit: str, count: int) -> list[float]:
    """Round numbers from zero to at least the largest value, in about ``count`` steps; powers of two for bytes."""
    top = max(values, default=0) or 1
    if "bytes" in unit.split():
        step = 2.0 ** max(0, ceil(log2(top / count)))
    else:
        magnitude = 10.0 ** floor(log10(top / count))
        step = next(m for m in (1, 2, 5, 10) if m * magnitude >= top / count) * magnitude
        if unit in {"rows", "values"}:
            step = max(1.0, step)
    return [step * n for n in range(ceil(top / step) + 1)]


def _moments(labels: Sequence[str]) -> list[datetime]:
    """The labels as moments if all are ISO dates, else nothing."""
    with suppress(ValueError):
        found = [datetime.fromisoformat(label) for label in labels]
        return [m.astimezone(UTC) if m.tzinfo else m.replace(tzinfo=UTC) for m in found]
    return []


def _shortened(text: str, length: int) -> str:
    """Both ends of a long name: names may differ at either end."""
    head = (length - 1) * 3 // 5
    return text if len(text) <= length else f"{text[:head]}…{text[head + 1 - length :]}"


def _printable(text: str) -> str:
    """User-chosen names may contain characters that XML does not allow."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
