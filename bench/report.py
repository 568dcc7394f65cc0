"""RESULTS.md: what was measured, on what, beside what was to be reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.charts import draw_charts

__all__ = ["markdown", "write_report"]

_Results = Sequence[dict[str, Any]]

_HEAD = """\
# What was measured

Made by `make bench` on {at}, in {minutes} minutes; the same figures and more are in [results.json](results.json). Do not edit.

{machine}

Every comparison is made side by side in one run, its contenders in turn; figures are medians of the rounds, lowest and highest
in brackets. Penstock runs with its shipped settings, its ledger on (there is no fence yet). After each round rows and checksums
were compared.
"""


def write_report(told: dict[str, Any], folder: Path) -> None:
    """Charts and the page that shows them."""
    charts = draw_charts(told["results"], folder / "charts")
    (folder / "RESULTS.md").write_text(markdown(told, [chart.name for chart in charts]))


def markdown(told: dict[str, Any], charts: Sequence[str] = ()) -> str:
    """The page."""
    results: _Results = told["results"]
    measured = [result for result in results if "failed" not in result]
    parts = [_HEAD.format(at=told["at"][:10], minutes=told["minutes"], machine=_machine(measured))]
    parts += ["## Goals", _goals(measured)]
    parts += ["## Rates, beside raw COPY", _rates(measured)]
    for title, make in _SECTIONS.items():
        body = make(measured)
        if body:
            parts += [f"## {title}", body]
    parts += ["## Tables", _tables(measured)]
    failed = [[f"{result['name']}, {result['broker']}", result["failed"]] for result in results if "failed" in result]
    if failed:
        parts += ["## Not measured", table(["what", "why"], failed)]
    if charts:
        parts += ["## Charts", "\n".join(f"![{Path(name).stem}](charts/{name})" for name in charts)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _machine(results: _Results) -> str:
    if not results:
        return "Nothing was measured."
    one, brokers = results[0], sorted({result["versions"]["broker"] for result in results})
    versions = {name: version for name, version in one["versions"].items() if name != "broker"}
    loads = [result["load_at_start"] for result in results]
    times = [result.get("at", "")[:16].replace("T", " ") for result in results]
    return (
        f"{one['cores']} cores for service, broker, worker and PostgreSQL together; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {', '.join(brokers)}. "
        f"fsync {one['fsync']}, synchronous_commit {one['synchronous_commit']}, full_page_writes {one['full_page_writes']}. "
        f"Load of the machine before each bench: {min(loads)} to {max(loads)} (of the bench before it, too). "
        f"Measured at the commits {', '.join(sorted({str(result.get('commit')) for result in results}))}, between "
        f"{min(times)} and {max(times)} UTC."
    )


def _goals(results: _Results) -> str:
    rows = [
        [result["name"], result["broker"], goal["goal"], _number(goal["value"]), _mark(goal["reached"])]
        for result in results
        for goal in result["goals"]
    ]
    return table(["bench", "broker", "goal", "measured", ""], rows)


def _mark(reached: bool | None) -> str:
    return {True: "reached", False: "**not reached**", None: "not measured"}[reached]


def _rates(results: _Results) -> str:
    rows = []
    for result in results:
        if result["name"] == "limit":
            spread = result["spread"]
            events = f"{result['events']:,}"
            rows.append(
                ["COPY, 1 connection", "", events, _with_spread(result["events_per_s"], spread["events_per_s"]), "", "1"]
            )
            two = _with_spread(result["rows_per_s_2_connections"], spread["rows_per_s_2_connections"])
            rows.append(["COPY, 2 connections", "", events, two, "", _number(result["ratio_2_connections"])])
        elif "copy_rows_per_s" in result:
            spread = result["spread"]
            rows.append(
                [
                    result["name"],
                    result["broker"],
                    f"{result['events']:,}",
                    _with_spread(result["events_per_s"], spread["events_per_s"]),
                    _with_spread(result["copy_rows_per_s"], spread["copy_rows_per_s"]),
                    _with_spread(result["ratio"], spread["ratio"]),
                ]
            )
            if "envelope_events_per_s" in result:
                rate = _with_spread(result["envelope_events_per_s"], spread["envelope_events_per_s"])
                rows.append(["small, Penstock's envelopes", result["broker"], f"{result['events']:,}", rate, "", ""])
    return table(["bench", "broker", "events", "events/s", "COPY of the same rows, rows/s", "ratio"], rows)


def _publish(results: _Results) -> str:
    rows = [
        [mode, *(_with_spread(figures[name], figures["spread"][name]) for name in ("p50_us", "p99_us", "events_per_s"))]
        for result in results
        if result["name"] == "publish"
        for mode, figures in result["modes"].items()
    ]
    return f"{_PUBLISH}\n\n{table(['mode', 'median, us', '99 %, us', 'events/s'], rows)}" if rows else ""


_PUBLISH = """\
Four threads of a service take turns in publishing bursts of 25 whole records, 4,000 events a second in all, which is why the
rate of these modes is no capability; "saturated" is all four without a pause, each in the others' way. "Away" is a broker that
was stopped. A journal runs as shipped, without fsync."""


def _latency(results: _Results) -> str:
    rows = [
        [result["broker"], *(_with_spread(result[name], result["spread"][name]) for name in ("p50_ms", "p99_ms", "look_ms"))]
        for result in results
        if result["name"] == "latency"
    ]
    return table(["broker", "median, ms", "99 %, ms", "one look, ms"], rows) if rows else ""


def _memory(results: _Results) -> str:
    rows = [
        [f"{one['events']:,}", one["resident_mb"], one["proportional_mb"], f"{one['events_per_s']:,}"]
        for result in results
        if result["name"] == "memory"
        for one in result["backlogs"]
    ]
    return table(["backlog", "resident, MB, all processes", "shared pages once, MB", "events/s"], rows) if rows else ""


def _growth(results: _Results) -> str:
    rows = [
        [
            f"{one['rows']:,}",
            f"{one['table_mb']:,}",
            f"{one['indexes_mb']:,}",
            one["us_per_event"],
            _with_spread(one["events_per_s"], one["spread"]),
        ]
        for result in results
        if result["name"] == "growth"
        for one in result["sizes"]
    ]
    return table(["rows before", "table, MB", "indexes, MB", "us an event", "events/s"], rows) if rows else ""


def _scale(results: _Results) -> str:
    for result in results:
        if result["name"] == "scale":
            return "\n\n".join([_scale_measured(result), _scale_model(result), _scale_predicted(result)])
    return ""


def _scale_measured(result: dict[str, Any]) -> str:
    rows = [
        [
            one["workers"],
            _with_spread(one["events_per_s"], one["spread"]),
            *(one["cpu_us_per_event"][part] for part in ("main", "children", "postgres", "broker")),
            f"{one['model_events_per_s']:,}",
            f"{one['model_error']:+.1%}",
        ]
        for one in result["workers"]
    ]
    head = ["workers", "events/s", "main, CPU us an event", "children", "PostgreSQL", "broker", "model", "its error"]
    return table(head, rows)


def _scale_model(result: dict[str, Any]) -> str:
    model = result["model"]
    parts = "; ".join(
        f"{part} {costs['cpu_us_per_event']:g} ({costs['per_doubling']:+g} for every doubling)"
        for part, costs in model["parts"].items()
    )
    return (
        f"The model's inputs, CPU us an event: {parts}; {model['used_share_of_cores']:.0%} of the cores' time was used; "
        f"{result['wal_bytes_per_event']} WAL bytes an event. What it leaves out stands in [model.py](model.py)."
    )


def _scale_predicted(result: dict[str, Any]) -> str:
    cores = list(result["predicted"][0]["apart_by_database_cores"])
    rows = []
    for one in result["predicted"]:
        apart = [one["apart_by_database_cores"][count] for count in cores]
        told = [f"{part['events_per_s']:,} ({part['used_up']}; {part['wal_mb_per_s']:,} MB WAL/s)" for part in apart]
        rows.append([one["workers"], f"{one['together_events_per_s']:,}", *told])
    head = [
        "workers",
        "predicted on these cores",
        *(f"on machines of their own, PostgreSQL with {count} cores" for count in cores),
    ]
    return table(head, rows)


def _pressure(results: _Results) -> str:
    rows = []
    for result in results:
        if result["name"] == "pressure":
            single = result["one_insert_an_event"]
            counts = [_number(result["transactions_per_1000_events"]), f"{result['wal_bytes_per_1000_events']:,.0f}"]
            rows.append(["Penstock", *counts, f"{result['events_per_s']:,.0f}"])
            counts = [_number(single["transactions"]), f"{single['wal_bytes']:,.0f}"]
            rows.append(["one INSERT an event", *counts, f"{single['events_per_s']:,.0f}"])
    return table(["per 1,000 events", "transactions", "WAL bytes", "events/s"], rows) if rows else ""


def _peers(results: _Results) -> str:
    for result in results:
        if result["name"] == "peers":
            ours = _with_spread(result["events_per_s"], result["spread"]["events_per_s"])
            rows = [["Penstock, `drain`", f"{result['events']:,}", ours, "1"]]
            for name, peer in result["peers"].items():
                what = f"[{peer['what']}]({peer['file'].removeprefix('bench/')})"
                rate = _with_spread(peer["events_per_s"], peer["spread"])
                rows.append([what, f"{peer['events']:,}", rate, _number(result["times"][name])])
            rows += [[name, "", f"skipped: {why}", ""] for name, why in result["skipped"].items()]
            return table(["who", "events", "events/s", "Penstock's rate is so many times it"], rows)
    return ""


def _retention(results: _Results) -> str:
    rows = [
        [
            f"{result['purged_rows']:,}",
            _with_spread(result["events_per_s_alone"], result["spread"]["events_per_s_alone"]),
            _with_spread(result["events_per_s"], result["spread"]["events_per_s"]),
            _with_spread(result["ratio"], result["spread"]["ratio"]),
            f"{result['purged_rows_per_s']:,}",
            f"{result['longest_lock_ms']:g} ({result['transactions_over_100_ms']} of {result['transactions']:,} above 100)",
            f"{result['drop']['seconds']:g} ({result['drop']['rows']:,} rows)",
        ]
        for result in results
        if result["name"] == "retention"
    ]
    head = [
        "rows purged",
        "events/s alone",
        "events/s beside",
        "ratio",
        "purged rows/s",
        "longest lock, ms",
        "a month dropped, s",
    ]
    return table(head, rows) if rows else ""


def _bad_input(results: _Results) -> str:
    rows = [
        [
            f"{result['bad_events']:,} beside {result['events']:,}",
            f"{result['events_per_s_beside_good']:,}",
            f"{result['events_per_s_beside_bad']:,}",
            _with_spread(result["ratio"], result["spread"]["ratio"]),
        ]
        for result in results
        if result["name"] == "bad-input"
    ]
    return table(["a neighbour's events", "good neighbour: events/s", "bad neighbour: events/s", "ratio"], rows) if rows else ""


_SECTIONS = {
    "What `publish()` costs its caller": _publish,
    "From `publish()` to visible, 1,000 events a second": _latency,
    "Memory of the worker": _memory,
    "Growth of the table": _growth,
    "More workers": _scale,
    "What the database bears": _pressure,
    "Peers": _peers,
    "Ingestion beside a purge": _retention,
    "A bad producer beside a good one": _bad_input,
}


def _tables(results: _Results) -> str:
    rows = [
        [
            f"{result['name']}, {result['broker']}",
            f"{result['rows']:,}" if "rows" in result else "",
            result.get("bytes_per_row", ""),
            result.get("conflict_ratio", ""),
            len(result["indexes"]),
        ]
        for result in results
        if "indexes" in result
    ]
    return table(["bench", "rows", "bytes a row, as COPY's text", "conflict ratio", "indexes and foreign keys"], rows)


def _with_spread(value: float, limits: Sequence[float]) -> str:
    return f"{_number(value)} [{_number(limits[0])}, {_number(limits[1])}]"


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
