"""The report of the governor's benchmark: tables, and a picture a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from tests.benchmarks.foreground import Transaction, percentile
from tests.benchmarks.governor_findings import ALLOWED, BACK, IDLE_COST, SETTLING_S, TICKS, Finding

_WIDTH, _LEFT, _RIGHT, _TOP, _PANEL, _GAP = 820, 62, 20, 40, 150, 44
_ROOM = _WIDTH - _LEFT - _RIGHT
_HEIGHT = _TOP + 2 * _PANEL + _GAP + 40
_STYLE = (
    "svg{--ink:#1c2530;--dim:#66717f;--rule:#d9dee5;--paper:#fff;--a:#2563eb;--b:#c2410c;--c:#66717f;"
    "font:12px system-ui,sans-serif}@media(prefers-color-scheme:dark){svg{--ink:#e6eaf0;--dim:#9aa5b4;--rule:#38414d;"
    "--paper:#151a21;--a:#7aa7ff;--b:#ff9d6b;--c:#9aa5b4}}text{fill:var(--dim)}.n{fill:var(--ink)}"
    "path{fill:none}.r{stroke:var(--rule)}.a{stroke:var(--a)}.b{stroke:var(--b)}.c{stroke:var(--c)}"
    ".a,.b,.c{stroke-width:1.8;stroke-linejoin:round}.e{text-anchor:end}.m{text-anchor:middle}"
    ".l{fill:var(--dim);fill-opacity:.13}"
)


def markdown(findings: Sequence[Finding], conditions: Mapping[str, str]) -> str:
    """The page."""
    lines = [
        "# What the governor saves others",
        "",
        "Made by `make bench-governor`. A table whose rows cost the server time is exported with four workers while",
        "others run transactions at a fixed rate for a while: quiet, loaded, quiet. Each transaction's time runs from",
        "the moment that it should have begun. The exporting process has the lowest priority, because it would run",
        "on a machine of its own; what remains is what it does through the server. What the governor does is in",
        "[kind to the source](../explanation/kind-to-the-source.md).",
        "",
        "Before the governor has noticed a load, and its workers have come to the end of their windows, others wait as",
        "long as without it: some seconds at the beginning, which p99 over the whole load shows.",
        "",
        "## Conditions",
        "",
        *(f"- {name}: {value}" for name, value in conditions.items() if value),
        "",
    ]
    for found in findings:
        lines += _of_server(found)
    return "\n".join(lines)


def _of_server(found: Finding) -> Iterator[str]:
    yield from (f"## {found.product}", "", f"![Transactions of others beside an export]({image(found)})", "")
    yield (
        f"{found.load.rate} transactions a second of {found.load.sessions} sessions, for {found.loaded_s:.0f} s; alone,"
        f" for {found.phases.alone:.0f} s before the exports and once more behind them."
    )
    yield from ("", "| foreground | median ms | p95 ms | p99 ms | p99 / alone |", "|---|---|---|---|---|")
    rows = (("alone", found.baseline), ("beside a free export", found.free.transactions))
    for title, transactions in (*rows, ("beside a governed export", found.held.transactions)):
        figures = [1000 * percentile(transactions, share) for share in (0.5, 0.95, 0.99)]
        ratio = percentile(transactions, 0.99) / percentile(found.baseline, 0.99)
        yield f"| {title} | {' | '.join(f'{each:.1f}' for each in figures)} | {ratio:.2f} |"
    fell, back = found.ticks_to_fall(), found.back_after()
    free, governed = (median(each[place] for each in found.idle) for place in (0, 1))
    yield from ("", "| limit | measured | |", "|---|---|---|")
    for what, value, holds in (
        (
            f"p99 governed, at most {ALLOWED} of alone, over the whole load",
            f"{found.ratio(found.held):.2f}",
            found.ratio(found.held) <= ALLOWED,
        ),
        (
            f"the same from {SETTLING_S:.0f} s after the load began",
            f"{found.settled_ratio(found.held):.2f}",
            found.settled_ratio(found.held) <= ALLOWED,
        ),
        (
            "p99 free, visibly worse than governed, in the same seconds",
            f"{found.settled_ratio(found.free):.2f}",
            found.is_worse_when_free,
        ),
        (f"looks until the width falls, at most {TICKS}", str(fell), fell is not None and fell <= TICKS),
        (
            f"seconds after the load until {BACK:.0%} of the width are back",
            "never" if back is None else f"{back:.1f}",
            back is not None,
        ),
        (
            f"idle: governed / free, at most {IDLE_COST} ({governed:.2f} / {free:.2f} s, {len(found.idle)} pairs)",
            f"{found.idle_cost:.3f}",
            found.idle_cost <= IDLE_COST,
        ),
        (
            f"idle: times that the width fell, in {found.idle_looks} ticks with a look",
            str(found.idle_sheds),
            found.idle_sheds == 0 and found.idle_looks > 0,
        ),
    ):
        yield f"| {what} | {value} | {'pass' if holds else 'MISS'} |"
    yield ""


def image(found: Finding) -> str:
    """Where the picture is, from the page."""
    return f"../images/governor-{found.product.lower()}.svg"


def picture(found: Finding) -> str:
    """Foreground's p99 by the second in all three rides, and the width of the governed one, from load to load's end."""
    until = found.loaded_s + found.relief_s
    series = [
        (kind, title, _by_second(transactions, began))
        for kind, title, transactions, began in (
            ("c", "alone", found.alone[0], min(each.at for each in found.alone[0])),
            ("b", "beside a free export", found.free.transactions, found.free.began),
            ("a", "beside a governed export", found.held.transactions, found.held.began),
        )
    ]
    most = max(value for _, _, line in series for _, value in line)
    begin = -found.quiet_s
    scale = lambda at: _LEFT + _ROOM * (at - begin) / (until - begin)  # noqa: E731
    lower = _TOP + _PANEL + _GAP
    width = [(at, float(each)) for at, each, _ in found.looks() if begin <= at <= until]
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
            f' height="{_HEIGHT}" role="img"><title>{found.product}</title><style>{_STYLE}</style>',
            f'<rect fill="var(--paper)" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>',
            f'<rect class="l" x="{scale(0):.1f}" y="{_TOP}" width="{scale(found.loaded_s) - scale(0):.1f}"'
            f' height="{2 * _PANEL + _GAP}"/>',
            *_panel(_TOP, f"{found.product}: p99 of others' transactions, ms", 1000 * most),
            *(f'<path class="{kind}" d="{_path(line, scale, _TOP, most)}"/>' for kind, _, line in series),
            *_legend(series),
            *_panel(lower, "workers of the governed export", 4),
            f'<path class="a" d="{_stairs(width, scale, lower, 4.0)}"/>',
            *(
                f'<text class="m" x="{scale(at):.1f}" y="{_HEIGHT - 18}">{at:.0f} s</text>'
                for at in range(0, int(until) + 1, 10 if until < 120 else 30)
            ),
            "</svg>",
        ]
    )


def _by_second(transactions: Sequence[Transaction], began: float) -> list[tuple[float, float]]:
    seconds: dict[int, list[Transaction]] = {}
    for each in transactions:
        seconds.setdefault(int(each.at - began), []).append(each)
    return [(second + 0.5, percentile(found, 0.99)) for second, found in sorted(seconds.items())]


def _panel(top: int, title: str, most: float) -> Iterator[str]:
    yield f'<text class="n" x="{_LEFT}" y="{top - 10}">{title}</text>'
    yield f'<path class="r" d="M{_LEFT} {top}v{_PANEL}h{_ROOM}"/>'
    yield f'<text class="e" x="{_LEFT - 6}" y="{top + 10}">{most:.0f}</text>'
    yield f'<text class="e" x="{_LEFT - 6}" y="{top + _PANEL}">0</text>'


def _legend(series: Sequence[tuple[str, str, object]]) -> Iterator[str]:
    for number, (kind, title, _) in enumerate(series):
        x = _WIDTH - _RIGHT - 170
        yield f'<path class="{kind}" d="M{x} {_TOP + 12 + 16 * number}h18"/>'
        yield f'<text x="{x + 24}" y="{_TOP + 16 + 16 * number}">{title}</text>'


def _path(line: Sequence[tuple[float, float]], scale: Callable[[float], float], top: int, most: float) -> str:
    points = [f"{scale(at):.1f} {top + _PANEL * (1 - value / most):.1f}" for at, value in line]
    return "M" + "L".join(points)


def _stairs(line: Sequence[tuple[float, float]], scale: Callable[[float], float], top: int, most: float) -> str:
    steps = []
    for number, (at, value) in enumerate(line):
        y = f"{top + _PANEL * (1 - value / most):.1f}"
        steps.append(f"M{scale(at):.1f} {y}" if number == 0 else f"H{scale(at):.1f}V{y}")
    return "".join(steps)


def write(findings: Sequence[Finding], conditions: Mapping[str, str], page: Path) -> None:
    """Write the page and its pictures."""
    page.write_text(markdown(findings, conditions))
    for found in findings:
        (page.parent / image(found)).resolve().write_text(picture(found))
