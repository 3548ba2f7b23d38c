"""A run's timeline as an SVG document: workers, pressure and rows a second in three panels, one below the other.

The document stands by itself: no script, no font, no link. It has a background of its own and follows the viewer's
light or dark mode. A line has as many points as there are columns, so its size does not grow with the run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Final

from rivet_dagster.export.journal_entries import JournalEntry
from rivet_dagster.export.timeline import Held, Timeline, duration_text, time_marks, timeline_of
from rivet_dagster.export.width import FULL, HIGH, LOW

COLUMNS: Final = 360

_WIDTH, _LEFT, _RIGHT = 820, 62, 26
_TOP, _PANEL, _GAP, _BOTTOM = 44, 90, 30, 46
_ROOM = _WIDTH - _LEFT - _RIGHT
_END = _TOP + 3 * _PANEL + 2 * _GAP
_HEIGHT = _END + _BOTTOM
_ZONES: Final = (LOW, HIGH, FULL)
_KINDS: Final = (("retry", "orange", "a window is tried again"), ("failed", "red", "a failure"))
_MOST_TITLES = 40
_LONGEST_TEXT = 90
_TIME_MARKS = 9
# What XML cannot hold.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE: Final = (
    "svg{--ink:#1c2530;--dim:#66717f;--rule:#d9dee5;--paper:#fff;--a:#2563eb;--b:#b45309;--c:#0f766e;--bad:#c81e1e;"
    "font:11px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6eaf0;--dim:#9aa5b4;--rule:#38414d;--paper:#151a21;--a:#7aa7ff;"
    "--b:#f0b35c;--c:#4fd1c1;--bad:#ff7b72}}"
    ".p{fill:var(--paper)}text{fill:var(--dim)}.h{fill:var(--ink);font-size:13px;font-weight:600}"
    ".n{fill:var(--ink)}.r{stroke:var(--rule);fill:none}.z{stroke:var(--dim);stroke-dasharray:3 3;fill:none}"
    ".w,.u,.s{fill:none;stroke-width:1.6;stroke-linejoin:round}.w{stroke:var(--a)}.u{stroke:var(--b)}"
    ".s{stroke:var(--c);fill:var(--c);fill-opacity:.18}.g{fill:var(--dim);fill-opacity:.25}"
    ".f{stroke:var(--bad);stroke-width:2}.t{stroke:var(--b);stroke-width:2}.e{text-anchor:end}.m{text-anchor:middle}"
)


@dataclass(frozen=True)
class _Panel:
    """Where a panel is, and what its height stands for."""

    top: int
    full: float

    def y(self, value: float) -> str:
        return f"{self.top + _PANEL * (1 - min(value / self.full, 1.0)):.1f}"


def svg_document(entries: Sequence[JournalEntry], title: str = "", *, columns: int = COLUMNS) -> str:
    """The last try of a run as an SVG document of less than 60 KB.

    Args:
        entries: of its journal.
        title: what the picture shows.
        columns: points of a line, at most 400.
    """
    found = timeline_of(entries, columns)
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
            f' height="{_HEIGHT}" role="img">',
            f"<title>{_text(title)}</title><style>{_STYLE}</style>",
            f'<rect class="p" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
            f'<text class="h" x="{_LEFT}" y="20">{_text(title)}</text>',
            *_gates(found),
            *_panels(found),
            *_marks(found),
            *_time_axis(found),
            "</svg>",
        ]
    )


def _panels(found: Timeline) -> Iterator[str]:
    tops = [_TOP + number * (_PANEL + _GAP) for number in range(3)]
    workers = _Panel(tops[0], max(found.workers, 1))
    pressure = _Panel(tops[1], max(1.2, *(value or 0.0 for value in found.pressure)))
    rows = _Panel(tops[2], _round_up(max(found.rows)))
    yield from _frame(workers, "workers that may read", {0: "0", workers.full: f"{workers.full:g}"})
    yield _line("w", found.width, workers)
    yield from _frame(
        pressure, "pressure on the source (1 is full load)", {0: "0", **{zone: f"{zone:g}" for zone in _ZONES}}
    )
    for zone in _ZONES:
        yield f'<path class="z" d="M{_LEFT} {pressure.y(zone)}h{_ROOM}"/>'
    yield _line("u", found.pressure, pressure)
    if all(value is None for value in found.pressure):
        yield f'<text class="m" x="{_LEFT + _ROOM // 2}" y="{pressure.top + 14}">not looked at</text>'
    yield from _frame(rows, "rows/s", {0: "0", rows.full: f"{rows.full:,.10g}"})
    yield f'<path class="s" d="M{_LEFT} {rows.y(0)}{_stairs(found.rows, rows, joined=True)}V{rows.y(0)}z"/>'


def _frame(panel: _Panel, name: str, scale: dict[float, str]) -> Iterator[str]:
    """The axes of a panel with its name."""
    yield f'<text class="n" x="{_LEFT}" y="{panel.top - 7}">{name}</text>'
    yield f'<path class="r" d="M{_LEFT} {panel.top}v{_PANEL}h{_ROOM}"/>'
    for value, text in scale.items():
        yield f'<text class="e" x="{_LEFT - 6}" y="{float(panel.y(value)) + 4:.1f}">{text}</text>'


def _line(style: str, values: Sequence[float | None], panel: _Panel) -> str:
    """A line with a gap where a value is not known."""
    return f'<path class="{style}" d="{_stairs(values, panel)}"/>'


def _stairs(values: Sequence[float | None], panel: _Panel, *, joined: bool = False) -> str:
    """A level for each column; equal ones that follow each other are one. `joined` begins where the path is."""
    drawn: list[str] = []
    before: str | None = "" if joined else None
    for index, value in enumerate(values):
        level = None if value is None else panel.y(value)
        end = f"H{_x(index + 1, len(values))}"
        if level is not None and level == before:
            drawn[-1] = end
        elif level is not None:
            drawn += [f"M{_x(index, len(values))} {level}" if before is None else f"V{level}", end]
        before = level
    return "".join(drawn)


def _x(part: float, whole: float) -> str:
    """The place of a part of a whole on the axis of time."""
    return f"{_LEFT + _ROOM * min(part / whole, 1.0):.1f}"


def _gates(found: Timeline) -> Iterator[str]:
    """Where windows were held, through all panels. What is nearer than a column is drawn as one."""
    for number, held in enumerate(_merged(found.held, found.step)):
        left, right = (float(_x(t, found.step * len(found.rows))) for t in (held.begin, held.end))
        width = max(right - left, 1.5)
        what = f"<title>{_text(_said(held))}</title>" if number < _MOST_TITLES else ""
        yield f'<rect class="g" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{_END - _TOP}">{what}</rect>'


def _said(held: Held) -> str:
    return f"held for {duration_text(held.end - held.begin)}: {'; '.join(held.reasons)}"


def _merged(held: Iterable[Held], step: float) -> list[Held]:
    merged: list[Held] = []
    for each in held:
        if merged and each.begin - merged[-1].end < step:
            merged[-1] = replace(merged[-1], end=each.end)
        else:
            merged.append(each)
    return merged


def _marks(found: Timeline) -> Iterator[str]:
    """Retries and failures, one a column, above the axis of time."""
    for kind, style in (("retry", "t"), ("failed", "f")):
        columns = sorted(
            {min(int(mark.t / found.step), len(found.rows) - 1) for mark in found.marks if mark.kind == kind}
        )
        if columns:
            places = "".join(f"M{_x(column + 0.5, len(found.rows))} {_END - 8}v8" for column in columns)
            yield f'<path class="{style}" d="{places}"/>'


def _time_axis(found: Timeline) -> Iterator[str]:
    for t in time_marks(found.seconds, _TIME_MARKS):
        x = _x(t, found.step * len(found.rows))
        yield f'<path class="r" d="M{x} {_END}v5"/><text class="m" x="{x}" y="{_END + 17}">{duration_text(t)}</text>'
    legend = ["time since the run began", *(["grey: windows were held"] if found.held else [])]
    kinds = {mark.kind for mark in found.marks}
    legend += [f"{colour} mark: {name}" for kind, colour, name in _KINDS if kind in kinds]
    yield f'<text x="{_LEFT}" y="{_END + 36}">{" · ".join(legend)}</text>'


def _round_up(value: float) -> float:
    """The next number of one digit or two: 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9))


def _text(text: str) -> str:
    """Text as XML writes it, not too long."""
    kept = text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
    return escape(_UNWRITABLE.sub("�", kept))
