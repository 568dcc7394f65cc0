"""The results as pictures, for the README."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot: there is no screen
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

__all__ = ["draw_charts"]

_Results = Sequence[dict[str, Any]]
_OURS, _THEIRS, _GOAL = "#1f6f8b", "#b8b8b8", "#c0392b"
#: Metadata without a date or a version, so that the same figures make the same file.
_METADATA = {"Software": None}


def draw_charts(results: _Results, folder: Path) -> list[Path]:
    """One PNG for each chart whose figures were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = [result for result in results if "failed" not in result]
    return [file for name, draw in _CHARTS.items() if (file := _draw(folder / f"{name}.png", draw, measured))]


def _draw(file: Path, draw: Callable[[Axes, _Results], bool], results: _Results) -> Path | None:
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    try:
        if not draw(axes, results):
            file.unlink(missing_ok=True)
            return None
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, dpi=110, metadata=_METADATA)
        return file
    finally:
        plt.close(figure)


def _rates(axes: Axes, results: _Results) -> bool:
    raced = [result for result in results if "copy_rows_per_s" in result]
    for place, result in enumerate(raced):
        axes.bar(place - 0.2, result["copy_rows_per_s"], 0.4, color=_THEIRS)
        axes.bar(place + 0.2, result["events_per_s"], 0.4, color=_OURS)
        for goal in result["goals"]:
            if goal["goal"].startswith("ratio >="):
                limit = float(goal["goal"].split()[-1]) * result["copy_rows_per_s"]
                axes.hlines(limit, place - 0.4, place + 0.4, color=_GOAL)
    axes.set_xticks(range(len(raced)), [f"{result['name']}\n{result['broker']}" for result in raced])
    axes.set_ylabel("events/s")
    axes.set_title("Penstock (blue) beside raw COPY of the same rows (grey); red: the goal")
    return bool(raced)


def _peers(axes: Axes, results: _Results) -> bool:
    for result in results:
        if result["name"] == "peers" and result["peers"]:
            rates = {"Penstock": result["events_per_s"]}
            rates |= {peer["what"]: peer["events_per_s"] for peer in result["peers"].values()}
            names = sorted(rates, key=lambda name: rates[name])
            bars = axes.barh(names, [rates[name] for name in names], color=[_THEIRS] * len(names))
            bars[names.index("Penstock")].set_color(_OURS)
            axes.bar_label(bars, [f"{rates[name]:,}" for name in names], padding=3)
            axes.set_xscale("log")
            axes.set_xlim(left=10 ** math.floor(math.log10(min(rates.values()))))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("events/s (logarithmic)")
            axes.set_title(f"The same {result['events']:,} events, 2 cores for everything")
            return True
    return False


def _growth(axes: Axes, results: _Results) -> bool:
    for result in results:
        if result["name"] == "growth":
            sizes = result["sizes"]
            axes.plot([one["rows"] for one in sizes], [one["us_per_event"] for one in sizes], marker="o", color=_OURS)
            axes.axhline(1.5 * sizes[0]["us_per_event"], color=_GOAL, linewidth=1)
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_ylim(bottom=0)
            axes.set_xlabel("rows in the table before")
            axes.set_ylabel("us an event")
            axes.set_title("What an event costs when the table has grown; red: the goal")
            return True
    return False


def _scale(axes: Axes, results: _Results) -> bool:
    for result in results:
        if result["name"] == "scale":
            workers, predicted = result["workers"], result["predicted"]
            axes.plot([one["workers"] for one in workers], [one["events_per_s"] for one in workers], "o", color=_OURS)
            counts = [one["workers"] for one in predicted]
            axes.plot(
                counts, [one["together_events_per_s"] for one in predicted], "--", color=_OURS, label="model, these cores"
            )
            for cores in predicted[0]["apart_by_database_cores"]:
                rates = [one["apart_by_database_cores"][cores]["events_per_s"] for one in predicted]
                axes.plot(counts, rates, "--", label=f"model, own machines, PostgreSQL with {cores} cores")
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("workers")
            axes.set_ylabel("events/s")
            axes.set_title("Measured (dots) and predicted (lines)")
            axes.legend(fontsize="small")
            return True
    return False


def _publish(axes: Axes, results: _Results) -> bool:
    for result in results:
        if result["name"] == "publish":
            modes = result["modes"]
            for place, figures in enumerate(modes.values()):
                axes.bar(place - 0.2, figures["p50_us"], 0.4, color=_OURS)
                axes.bar(place + 0.2, figures["p99_us"], 0.4, color=_THEIRS)
            axes.set_xticks(range(len(modes)), [name.replace("_", ", broker ") for name in modes])
            axes.set_yscale("log")
            axes.set_ylabel("us (logarithmic)")
            axes.set_title("publish() in its caller, 4 threads: median (blue) and 99th percentile (grey)")
            return True
    return False


_CHARTS: dict[str, Callable[[Axes, _Results], bool]] = {
    "rates": _rates,
    "peers": _peers,
    "publish": _publish,
    "growth": _growth,
    "scale": _scale,
}
