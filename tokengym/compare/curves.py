"""The results as a picture: learning curves over sampled tokens, and what is left at their end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .run import score
from .tables import ranked

# Okabe and Ito's colours, which people who are colour-blind tell apart; beyond them lines differ by their dashes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6000", "#000000")
DASHES = ("-", "--", ":", "-.")


def require_matplotlib() -> None:
    """Refuse to begin what could not be drawn at its end.

    Raises:
        ImportError: names the extra.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError('a comparison draws its curves with matplotlib: pip install "tokengym[compare]"') from error


def style(index: int) -> tuple[str, str]:
    """Colour and dashes of the agent of that number."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def plot(results: Mapping[str, Any], *paths: Path) -> None:
    """Draw to each of `paths`, in the form that its suffix says."""
    # Figures of its own, without pyplot: a program that shows windows keeps its backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = list(results["terms"]["agents"])
    names = [name for name in ranked(results) if results["summary"][name]["runs"]]
    rows = -(-len(names) // 7)  # of the legend
    height = max(4.2, 1.4 + 0.34 * len(names)) + 0.3 * rows
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    for name in names:
        colour, dashes = style(order.index(name))
        curve = results["summary"][name]["curve"]
        points = [(x / 1000, e) for x, e in zip(results["points"], curve) if e["value"] is not None]
        xs = [x for x, _ in points]
        left.plot(xs, [e["value"] for _, e in points], dashes, color=colour, marker="o", markersize=3.5, label=name)
        banded = [(x, e["low"], e["high"]) for x, e in points if e["low"] is not None]
        if banded:
            x, low, high = zip(*banded)
            left.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    if results["threshold"] is not None:
        left.axhline(results["threshold"], color="0.5", linewidth=0.8, linestyle=(0, (4, 4)))
    left.set_xlabel("sampled tokens (thousands)")
    left.set_ylabel(f"{results['metric']} on held-out problems")
    left.set_title(f"Learning curves on {results['terms']['env']}", loc="left", fontsize=11)
    last = results["points"][-1] / 1000
    left.set_xlim(-0.02 * last, 1.02 * last)
    left.grid(alpha=0.25)
    if not names:
        left.text(0.5, 0.05, "No run has come to its end.", ha="center", transform=left.transAxes)
    else:
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=7, frameon=False, fontsize=9)

    for row, name in enumerate(reversed(names)):
        colour, _ = style(order.index(name))
        final = results["summary"][name]["final"]
        right.barh(row, final["value"] or 0.0, color=colour, alpha=0.75, height=0.66)
        if final["low"] is not None:
            above = [row + 0.15] * 2
            right.plot([final["low"], final["high"]], above, "|-", color="0.15", linewidth=1.6, markersize=6)
        scores = [score(r["evaluations"][-1]) for r in results["runs"] if r["agent"] == name and r["status"] == "done"]
        right.plot(
            scores, [row - 0.13] * len(scores), "o", color="white", markeredgecolor="0.15", markersize=4, zorder=3
        )
    right.set_yticks(range(len(names)), list(reversed(names)))
    right.set_xlabel(f"final {results['metric']}")
    right.set_title("At the end: mean, 95 % interval, runs", loc="left", fontsize=11)
    if results["metric"] == "pass@1":
        right.set_xlim(0, 1.02)
    right.grid(alpha=0.25, axis="x")
    right.set_axisbelow(True)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    for path in paths:
        figure.savefig(path, dpi=140)
