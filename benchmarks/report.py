"""What benchmarks/layer.py and gpu.py measured, as tables in docs/benchmarks.md and, on the CPU, as a chart.

    python benchmarks/report.py
    python benchmarks/report.py --check

Its parts between markers are rewritten, and docs/benchmarks.svg is drawn. Every figure is a ratio from the
JSON; what was not measured is left out, and where no GPU was, that is said.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
GPU_BEGIN, GPU_END = "<!-- gpu benchmarks: begin -->", "<!-- gpu benchmarks: end -->"
WIDTH = 512  # of a direction; where one width is shown, it is the nearest that was measured
REFERENCE, PRODUCTS = "ours bfloat16", "ours / products"  # as layer.py names them
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Rows of layer.py, in the order in which tables show them."""
    rows = json.loads(path.read_text())
    if not rows:
        raise ValueError(f"{path} has no rows; python benchmarks/layer.py --json {path} measures some")
    return sorted(rows, key=lambda row: (row["threads"], row["width"], row.get("batch", 0), row.get("frames", 0)))


def of_table(rows: list[Row], table: str, any_width: bool = False, any_threads: bool = False) -> list[Row]:
    """Rows of one of layer.py's tables; unless asked for any, of the width nearest to WIDTH and the fewest threads."""
    rows = [row for row in rows if row["table"] == table]
    if rows and not any_width:
        width = min((row["width"] for row in rows), key=lambda width: abs(width - WIDTH))
        rows = [row for row in rows if row["width"] == width]
    if rows and not any_threads:
        fewest = min(row["threads"] for row in rows)
        rows = [row for row in rows if row["threads"] == fewest]
    return rows


def count(n: int, noun: str) -> str:
    """A number and its noun."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def thread_counts(rows: list[Row]) -> str:
    """With how many threads rows were measured."""
    counts = sorted({row["threads"] for row in rows})
    return " and ".join([*map(str, counts[:-1]), count(counts[-1], "thread")])


def shape(row: Row) -> str:
    """Batch and frames, as heads of columns and rows say them."""
    return f"{row['batch']} x {row['frames']}"


def others(row: Row) -> dict[str, float]:
    """How many times as long as ours in bfloat16 each of the others takes; ours in float32 is the last."""
    names = [name for name in row["ratios"] if name not in (REFERENCE, PRODUCTS)]
    return {name: row["ratios"][name] for name in sorted(names, key=lambda name: name.startswith("ours"))}


def table(title: str, corner: str, columns: dict[str, dict[str, str]]) -> list[str]:
    """A title and a Markdown table, given as columns of named cells; a cell that is not there stays empty."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    lines = [[corner, *columns], ["---", *["---:"] * len(columns)]]
    lines += [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    return [title, "", *(f"| {' | '.join(line)} |" for line in lines), ""]


def product_table(rows: list[Row]) -> list[str]:
    """One layer as a multiple of its own matrix product."""
    rows = of_table(rows, "product", any_width=True)
    if not rows:
        return []
    columns: dict[str, dict[str, str]] = {}
    for row in rows:
        for dtype, ratio in row["ratios"].items():
            columns.setdefault(f"2 x {row['width']}, {dtype}", {})[shape(row)] = f"{ratio:.2f}"
    title = "One bidirectional layer without gradients: times as long as its matrix product alone"
    return table(f"{title} ({thread_counts(rows)}).", "batch x frames", columns)


def stack_table(rows: list[Row]) -> list[str]:
    """Five layers of the others as multiples of ours, for every number of threads."""
    rows = of_table(rows, "stack", any_threads=True)
    if not rows:
        return []
    several = len({row["threads"] for row in rows}) > 1
    columns = {}
    for row in rows:
        head = f"{shape(row)}, {count(row['threads'], 'thread')}" if several else shape(row)
        columns[head] = {name: str(ratio) for name, ratio in others(row).items()}
    title = f"Five bidirectional layers of 2 x {rows[0]['width']} without gradients: times as long as ours in bfloat16"
    return table(f"{title} ({thread_counts(rows)}).", "batch x frames", columns)


def training_table(rows: list[Row]) -> list[str]:
    """A training step of the others as multiples of ours."""
    rows = of_table(rows, "training")
    if not rows:
        return []
    columns = {shape(row): {name: str(ratio) for name, ratio in others(row).items()} for row in rows}
    for row in rows:
        if PRODUCTS in row["ratios"]:
            columns[shape(row)]["ours bfloat16, against its three products"] = str(row["ratios"][PRODUCTS])
    title = f"A training step of one layer of 2 x {rows[0]['width']}: times as long as ours in bfloat16"
    return table(f"{title} ({thread_counts(rows)}).", "batch x frames", columns)


def live_line(rows: list[Row]) -> list[str]:
    """What a live window costs, as a multiple of one frame."""
    rows = of_table(rows, "live")
    if not rows:
        return []
    costs = ", ".join(f"{name} {ratio}" for name, ratio in rows[0]["ratios"].items() if name != "1 frames")
    layers = f"five layers of 2 x {rows[0]['width']} in bfloat16"
    return [f"A live window, {layers}: times as long as one frame ({thread_counts(rows)}): {costs}.", ""]


def origins(rows: list[Row]) -> list[str]:
    """Where the figures come from: a line for each run of layer.py, so one."""
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        runs.setdefault((row["date"], row["commit"], row["command"]), []).append(row)
    lines = []
    for (date, commit, command), of_run in runs.items():
        machine = f"{of_run[0]['machine']['cpu']}, {count(of_run[0]['machine']['cores'], 'core')}"
        versions = f"{of_run[0]['kernel']} kernels, torch {of_run[0]['torch']}"
        repetitions = ", ".join(str(n) for n in sorted({row["repetitions"] for row in of_run}))
        medians = f"{thread_counts(of_run)}, medians of {repetitions} repetitions"
        lines.append(f"{machine}, {versions}, {medians}; {date[:10]}, commit {commit}: `{command}`")
    return lines


def page_part(rows: list[Row]) -> str:
    """All that stands between the markers."""
    tables = [*product_table(rows), *stack_table(rows), *training_table(rows), *live_line(rows)]
    return "\n".join(tables) + "\n" + "\n\n".join(origins(rows))


def gpu_part(rows: list[Row]) -> str:
    """All that stands between the GPU's markers."""
    if not rows:
        return "On GPUs: not yet measured. `make gpu-check` on a machine with one tests the kernels and measures them."
    columns: dict[str, dict[str, str]] = {}
    names = {
        "recurrence": "recurrence, {}: share of a copy's bandwidth",
        "layer": "layer, {}: times as long",
        "training": "training step, {}: times as long as ours",
    }
    for row in rows:
        cells = columns.setdefault(f"batch {row['batch']}", {})
        for name, ratio in row["ratios"].items():
            cells[names[row["table"]].format(name)] = str(ratio)
    about = rows[0]
    title = f"{about['gpu']}, bfloat16, {about['frames']} frames, 2 x {about['width']}"
    origin = (
        f"torch {about['torch']}, medians of {about['repetitions']}; {about['date'][:10]}, commit {about['commit']}"
    )
    return "\n".join(table(f"{title}.", "", columns)) + f"\n{origin}: `{about['command']}`"


def with_part(page: str, part: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with `part` between its markers."""
    if (page.count(begin), page.count(end)) != (1, 1) or page.index(end) < page.index(begin):
        raise ValueError(f"the page must have {begin} once and, behind it, {end} once")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{part}\n{end}{rest.split(end)[1]}"


def with_parts(page: str, rows: list[Row], gpu_rows: list[Row]) -> str:
    """The page as it ought to be."""
    return with_part(with_part(page, page_part(rows)), gpu_part(gpu_rows), GPU_BEGIN, GPU_END)


def panels(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Bars of the chart: five layers at the two smallest batches, then a training step, at the fewest frames."""
    found = {}
    for name, what, last in (("stack", "five layers", 2), ("training", "training step", 1)):
        of_name = of_table(rows, name)
        fewest = min((row["frames"] for row in of_name), default=0)
        for row in [row for row in of_name if row["frames"] == fewest][:2][-last:]:
            sizes = f"batch {row['batch']}, {row['frames']} frames, width {row['width']}"
            found[f"{what}, {count(row['threads'], 'thread')}\n{sizes}"] = others(row)
    return found


def description(rows: list[Row]) -> str:
    """The chart in words; the file carries them, so that --check knows a stale one without drawing."""
    bars = (f"{title}: {', '.join(f'{n} {r}' for n, r in bars.items())}" for title, bars in panels(rows).items())
    return "Times as long as ours in bfloat16. " + ". ".join(bars).replace("\n", ", ") + "."


def draw(rows: list[Row], path: Path) -> None:
    """The chart; the same rows give the same file."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f'the chart needs matplotlib: pip install --editable ".[bench]" ({error})') from error
    drawn = panels(rows)
    if not drawn:
        raise ValueError("nothing to draw: the chart needs rows of the tables `stack` or `training`")
    ratios = [ratio for bars in drawn.values() for ratio in bars.values()]
    most = max(len(bars) for bars in drawn.values())
    # text stays text, and names inside the file do not change from run to run
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sru_asr", "font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=(3.6 * len(drawn), 3), layout="constrained")
        for axes, (title, bars) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
            colours = ["tab:blue" if name.startswith("ours") else "tab:gray" for name in bars]
            container = axes.barh(list(bars), [ratio - 1 for ratio in bars.values()], left=1, color=colours)
            axes.bar_label(container, [str(ratio) for ratio in bars.values()], padding=3)
            axes.axvline(1, color="black", linewidth=0.8)
            axes.set(title=title, xscale="log", xlim=(min(1, *ratios) / 1.1, 3 * max(ratios)), ylim=(most - 0.5, -0.5))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
            axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel("times as long as ours in bfloat16 (logarithmic)", fontsize=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None, "Description": description(rows)})


def check(rows: list[Row], gpu_rows: list[Row], page: Path, chart: Path) -> None:
    """Raises ValueError where the page or the chart is not what the rows give."""
    text = page.read_text()
    if with_parts(text, rows, gpu_rows) != text:
        raise ValueError(f"{page} does not show the JSON's figures; run python benchmarks/report.py")
    if not chart.exists() or escape(description(rows)) not in chart.read_text():
        raise ValueError(f"{chart} is missing or does not show the JSON's figures; run python benchmarks/report.py")


def main(arguments: list[str] | None = None) -> None:
    """Write the page's part and the chart, or check them."""
    parser = argparse.ArgumentParser(
        description="Show what benchmarks/layer.py and gpu.py measured on a page and in a chart.",
        epilog="example: python benchmarks/report.py --json benchmarks/results/layer.json --check",
    )
    default = ROOT / "benchmarks/results/layer.json"
    parser.add_argument("--json", type=Path, default=default, metavar="FILE", help="(default: results/layer.json)")
    default = ROOT / "benchmarks/results/gpu.json"
    parser.add_argument("--gpu-json", type=Path, default=default, metavar="FILE", help="(default: results/gpu.json)")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/benchmarks.md", metavar="FILE", help="(default: docs/benchmarks.md)"
    )
    chart = ROOT / "docs/benchmarks.svg"
    parser.add_argument("--chart", type=Path, default=chart, metavar="FILE", help="(default: docs/benchmarks.svg)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if either is not up to date")
    options = parser.parse_args(arguments)
    try:
        rows = read(options.json)
        gpu_rows = json.loads(options.gpu_json.read_text()) if options.gpu_json.exists() else []
        if options.check:
            check(rows, gpu_rows, options.page, options.chart)
        else:
            text = with_parts(options.page.read_text(), rows, gpu_rows)
            draw(rows, options.chart)
            options.page.write_text(text)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
