"""Draws what `dashboards` has evaluated: PYTHONPATH=e2e python -m dashboards.draw DATA FOLDER

In an environment with matplotlib (constraints/dashboards.txt) and the standard library.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#8ab8ff", "#f2495c", "#96d98d", "#fade2a")
"""Grafana's palette, as far as the pictures need it."""
NAMED = {"green": "#73bf69", "red": "#f2495c", "orange": "#ff780a", "blue": "#5794f2", "text": "#b0b4ba"}
WIDTH, ROW = 14.4, 0.42
"""Inches: of 24 columns, of one row."""
_BINARY, _DECIMAL = ("", "Ki", "Mi", "Gi", "Ti"), ("", " K", " M", " G")


def text(value: float, unit: str) -> str:
    """A number as Grafana writes it in this unit."""
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        return _seconds(value)
    if unit in ("bytes", "binBps"):
        number, prefix = _scaled(value, 1024, _BINARY)
        return f"{number} {prefix}B{'/s' if unit == 'binBps' else ''}"
    number, prefix = _scaled(value, 1000, _DECIMAL)
    after = {"ops": " ops/s", "reqps": " req/s"}.get(
        unit, unit.removeprefix("suffix:") if unit.startswith("suffix:") else ""
    )
    return f"{number}{prefix}{after}"


def _seconds(value: float) -> str:
    if 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.3g} min"


def _scaled(value: float, base: int, prefixes: tuple[str, ...]) -> tuple[str, str]:
    place = 0
    while abs(value) >= base and place < len(prefixes) - 1:
        value, place = value / base, place + 1
    return f"{value:.3g}", prefixes[place]


def draw(title: str, panels: list[dict[str, Any]], minutes: list[int], digest: str, target: Path) -> None:
    """One dashboard as a picture; `digest`, of what it is made from, is kept in it."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    height = ROW * (rows + 1.5)
    figure = Figure(figsize=(WIDTH, height), facecolor="#f4f5f5")
    figure.text(0.008, 1 - 0.25 / height, title, fontsize=13, va="center", color="#24292e")
    for panel in panels:
        at = panel["gridPos"]
        left, right = at["x"] / 24 + 0.004, (at["x"] + at["w"]) / 24 - 0.004
        top, bottom = (1 - (ROW * (y + 1.2)) / height for y in (at["y"] + 0.15, at["y"] + at["h"] - 0.15))
        box = figure.add_axes((left, bottom, right - left, top - bottom), facecolor="white", xticks=[], yticks=[])
        for spine in box.spines.values():
            spine.set_color("#d5d7da")
        figure.text(left + 0.006, top - 0.2 / height, panel["title"], fontsize=10, va="center", color="#24292e")
        within = (left, bottom, right - left, top - bottom)
        if not panel["series"]:
            figure.text((left + right) / 2, (top + bottom) / 2, "No data", ha="center", color="#888888")
        elif panel["type"] == "stat":
            _stat(figure, within, panel)
        else:
            kinds = {"bargauge": _bars, "state-timeline": _states}
            kinds.get(panel["type"], _lines)(figure, within, height, panel, minutes)
    kind = target.suffix.removeprefix(".")
    about = {"Description": digest, "Date": None} if kind == "svg" else {"Description": digest}
    figure.savefig(target, metadata=about, dpi=90)


Box = tuple[float, float, float, float]


def _last(values: list[float | None]) -> float:
    return next((value for value in reversed(values) if value is not None), float("nan"))


def _stat(figure: Figure, box: Box, panel: dict[str, Any]) -> None:
    value = text(_last(next(iter(panel["series"].values()))), panel["fieldConfig"]["defaults"]["unit"])
    figure.text(
        box[0] + box[2] / 2, box[1] + box[3] / 2, value, fontsize=28, ha="center", va="center", color=NAMED["green"]
    )


def _inner(figure: Figure, box: Box, height: float, left: float, below: float) -> Axes:
    """Axes inside of a panel; `left` and `below` are inches for words."""
    x, y = left / WIDTH, below / height
    axes = figure.add_axes((box[0] + x, box[1] + y, box[2] - x - 0.012, box[3] - y - 0.42 / height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#d5d7da")
    axes.tick_params(labelsize=7.5, colors="#52545c", length=0)
    return axes


def _hours(axes: Axes, minutes: list[int]) -> None:
    axes.set_xlim(minutes[0], minutes[-1])
    axes.set_xticks(range(minutes[0], minutes[-1] + 1, 30))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{9 + int(x) // 60:02}:{int(x) % 60:02}"))


def _lines(figure: Figure, box: Box, height: float, panel: dict[str, Any], minutes: list[int]) -> None:
    unit, series = panel["fieldConfig"]["defaults"]["unit"], panel["series"]
    rows = -(-sum(len(name) + 6 for name in series) // int(box[2] * WIDTH * 13))
    axes = _inner(figure, box, height, 0.75, 0.3 + 0.17 * rows)
    axes.grid(axis="y", color="#ececee", linewidth=0.7)
    for number, (name, values) in enumerate(series.items()):
        numbers = [float("nan") if value is None else value for value in values]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(minutes, numbers, color=colour, linewidth=1.2, label=name, marker="." if _lonely(values) else "")
        axes.fill_between(minutes, numbers, color=colour, alpha=0.1, linewidth=0)
    axes.set_ylim(bottom=0)
    if axes.get_ylim()[1] < 1e-9 or all(not value for values in series.values() for value in values):
        axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value, unit)))
    _hours(axes, minutes)
    _legend(figure, box, height, panel["series"], rows)


def _lonely(values: list[float | None]) -> bool:
    return sum(value is not None for value in values) < 3


def _legend(figure: Figure, box: Box, height: float, series: dict[str, Any], rows: int) -> None:
    """In lines from the left, as Grafana's list."""
    x, row = box[0] + 0.008, 0
    for number, name in enumerate(series):
        width = (len(name) * 0.068 + 0.3) / WIDTH
        if x + width > box[0] + box[2] and x > box[0] + 0.01:
            x, row = box[0] + 0.008, row + 1
        y = box[1] + (0.1 + 0.17 * max(0, rows - 1 - row)) / height
        figure.text(x, y, "–", fontsize=11, va="center", color=COLOURS[number % len(COLOURS)], fontweight="bold")
        figure.text(x + 0.01, y, name, fontsize=7.5, va="center", color="#52545c")
        x += width


def _bars(figure: Figure, box: Box, height: float, panel: dict[str, Any], _: list[int]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    found = {name: _last(values) for name, values in panel["series"].items()}
    axes = _inner(figure, box, height, 0.2 + 0.075 * max(map(len, found)), 0.1)
    axes.set_axis_off()
    most = max(found.values()) or 1
    for number, (name, value) in enumerate(found.items()):
        axes.barh(-number, most * 1.25, height=0.62, color="#f0f1f2")
        axes.barh(-number, value, height=0.62, color=NAMED["green"])
        axes.text(-most * 0.02, -number, name, ha="right", va="center", fontsize=8, color="#24292e")
        axes.text(most * 1.23, -number, text(value, unit), ha="right", va="center", fontsize=8, color="#24292e")
    axes.set_xlim(0, most * 1.25)
    axes.set_ylim(-len(found) + 0.4, 0.6)


def _states(figure: Figure, box: Box, height: float, panel: dict[str, Any], minutes: list[int]) -> None:
    names = list(panel["series"])
    axes = _inner(figure, box, height, 0.2 + 0.075 * max(map(len, names)), 0.3)
    step = minutes[1] - minutes[0]
    for number, name in enumerate(names):
        colours = _mapping(panel, name)
        for value, run in itertools.groupby(enumerate(panel["series"][name]), key=lambda point: point[1]):
            places = [place for place, _ in run]
            if value is not None:
                colour = NAMED[colours[f"{value:g}"]["color"]]
                axes.barh(-number, step * len(places), left=minutes[places[0]], height=0.75, color=colour, linewidth=0)
    axes.set_yticks(range(0, -len(names), -1), names)
    axes.set_ylim(-len(names) + 0.4, 0.6)
    axes.spines["left"].set_visible(False)
    _hours(axes, minutes)


def _mapping(panel: dict[str, Any], name: str) -> dict[str, dict[str, str]]:
    """Of values to colours: the last override whose regular expression the name matches, or the default."""
    found = panel["fieldConfig"]["defaults"]["mappings"]
    for override in panel["fieldConfig"]["overrides"]:
        if re.search(override["matcher"]["options"].strip("/"), name):
            found = next((p["value"] for p in override["properties"] if p["id"] == "mappings"), found)
    options: dict[str, dict[str, str]] = found[0]["options"]
    return options


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.draw", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="what `python -m dashboards` has evaluated")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--format", default="svg", help="svg (default) or png, to look at")
    arguments = parser.parse_args()
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vernal", "font.family": "sans-serif"})
    data = json.loads(arguments.data.read_text())
    for name, board in data["boards"].items():
        target = arguments.folder / f"{name}.{arguments.format}"
        draw(board["title"], board["panels"], data["minutes"], board["digest"], target)


if __name__ == "__main__":
    main()
