"""The report of the benchmarks: what it shows, that it notices what is stale, and that what is committed agrees."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from sru_asr.decoding import Decoding
from sru_asr.metrics import ErrorCounts
from sru_asr.scorer import Scorer
from sru_asr.text import CharTokenizer
from sru_asr.tuning import Setting

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report = load("report")
RUN = {
    "date": "2026-11-25T14:23:04+00:00",
    "commit": "abc1234",
    "command": "python benchmarks/layer.py --json benchmarks/results/layer.json",
    "machine": {"cpu": "Some CPU", "cores": 4, "flags": []},
    "torch": "2.14.1",
    "kernel": "avx2",
    "repetitions": 30,
}
PEERS = {"ours bfloat16": 1.0, "ours float32": 5.9, "LSTM float32": 53.0, "sru package": 7.0}
TRAINING = {"ours bfloat16": 1.0, "LSTM float32": 20.8, "ours / products": 1.23}


def row(table: str, ratios: dict[str, float], threads: int = 1, width: int = 512, **sizes: int) -> dict[str, Any]:
    return {**RUN, "table": table, "threads": threads, "width": width, **sizes, "ratios": ratios}


ROWS = [
    row("stack", {**PEERS, "LSTM float32": 22.4}, batch=8, frames=250),
    row("stack", PEERS, batch=1, frames=250),
    row("stack", {**PEERS, "LSTM float32": 11.1}, width=320, batch=1, frames=250),
    row("product", {"bfloat16": 0.7, "float32": 1.06}, batch=1, frames=250),
    row("product", {"bfloat16": 1.38, "float32": 1.05}, width=320, batch=8, frames=250),
    row("training", TRAINING, batch=8, frames=250),
    row("live", {"1 frames": 1.0, "2 frames": 0.96, "32 frames": 1.01}),
]


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """A JSON file, a page that shows it, and a file that has what --check asks of a chart."""
    found = {"json": tmp_path / "layer.json", "page": tmp_path / "benchmarks.md", "chart": tmp_path / "chart.svg"}
    found["json"].write_text(json.dumps(ROWS))
    rows = report.read(found["json"])
    markers = (report.BEGIN, report.END, report.GPU_BEGIN, report.GPU_END)
    empty = "\n".join(["# Title", "", *markers, "", "The end.", ""])
    found["page"].write_text(report.with_parts(empty, rows, []))
    found["chart"].write_text(f"<svg>{report.description(rows)}</svg>")
    return found


def run(paths: dict[str, Path], *arguments: str) -> None:
    gpu = paths["json"].with_name("gpu.json")  # which need not be there
    words = (word for name, path in paths.items() for word in (f"--{name}", str(path)))
    report.main([*arguments, "--gpu-json", str(gpu), *words])


def part(rows: list[dict[str, Any]], tmp_path: Path) -> list[str]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return report.page_part(report.read(path)).splitlines()


def test_tables_hold_the_ratios_in_their_places(tmp_path: Path) -> None:
    lines = part(ROWS, tmp_path)
    expected = [
        # product: the cells that were not measured stay empty
        "| batch x frames | 2 x 320, bfloat16 | 2 x 320, float32 | 2 x 512, bfloat16 | 2 x 512, float32 |",
        "| 8 x 250 | 1.38 | 1.05 |  |  |",
        "| 1 x 250 |  |  | 0.70 | 1.06 |",
        # stack: of one width, smaller batches first, ours in bfloat16 is the unit and no row
        "| batch x frames | 1 x 250 | 8 x 250 |",
        "| LSTM float32 | 53.0 | 22.4 |",
        "| sru package | 7.0 | 7.0 |",
        "| ours float32 | 5.9 | 5.9 |",
        # training
        "| batch x frames | 8 x 250 |",
        "| LSTM float32 | 20.8 |",
        "| ours bfloat16, against its three products | 1.23 |",
    ]
    assert [line for line in lines if line.startswith("| ") and "---" not in line] == expected
    assert any(line.endswith("as one frame (1 thread): 2 frames 0.96, 32 frames 1.01.") for line in lines)
    assert lines[-1] == (
        "Some CPU, 4 cores, avx2 kernels, torch 2.14.1, 1 thread, medians of 30 repetitions; "
        "2026-11-25, commit abc1234: `python benchmarks/layer.py --json benchmarks/results/layer.json`"
    )


def test_more_threads_are_further_columns_of_the_stack_alone(tmp_path: Path) -> None:
    two = [row("stack", {**PEERS, "LSTM float32": 31.0}, threads=2, batch=1, frames=250)]
    two += [row("training", {**TRAINING, "LSTM float32": 99.9}, threads=2, batch=8, frames=250)]
    lines = part(two + ROWS, tmp_path)
    assert "| batch x frames | 1 x 250, 1 thread | 8 x 250, 1 thread | 1 x 250, 2 threads |" in lines
    assert "| LSTM float32 | 53.0 | 22.4 | 31.0 |" in lines
    assert "1 and 2 threads" in lines[-1]
    assert "99.9" not in "\n".join(lines)


@pytest.mark.parametrize("table", ["product", "stack", "training", "live"])
def test_a_table_that_was_not_measured_is_left_out(table: str, tmp_path: Path) -> None:
    titles = {
        "product": "matrix product alone",
        "stack": "Five bidirectional",
        "training": "training step",
        "live": "live window",
    }
    text = "\n".join(part([row for row in ROWS if row["table"] != table], tmp_path))
    assert {name for name, title in titles.items() if title in text} == titles.keys() - {table}


def test_full_tables_stay_compact(tmp_path: Path) -> None:
    names = [f"{kind} {dtype}" for kind in ("LSTM", "GRU") for dtype in ("float32", "int8", "bfloat16")]
    shapes = [(batch, frames) for batch in (1, 8, 32) for frames in (250, 1000)]
    rows = []
    for threads in (1, 2):
        for width in (320, 512, 1024):
            for batch, frames in shapes:
                sizes = {"threads": threads, "width": width, "batch": batch, "frames": frames}
                rows += [row("product", {"bfloat16": 1.0, "float32": 1.0}, **sizes)]
                rows += [row("stack", {**PEERS, **dict.fromkeys(names, 2.0)}, **sizes)]
                rows += [row("training", {**TRAINING, "LSTM bfloat16": 2.0, "ours float32": 2.0}, **sizes)]
    assert sum(line.startswith("| ---") for line in part(rows, tmp_path)) == 3
    assert sum(line.startswith("| ") for line in part(rows, tmp_path)) - 2 * 3 <= 20


def test_check_passes_what_is_up_to_date(paths: dict[str, Path]) -> None:
    run(paths, "--check")


@pytest.mark.parametrize("stale", ["page", "chart"])
def test_check_notices_what_is_stale(paths: dict[str, Path], stale: str) -> None:
    text = paths[stale].read_text()
    assert "53.0" in text
    paths[stale].write_text(text.replace("53.0", "54.0"))
    with pytest.raises(SystemExit, match=f"{paths[stale].name}.* run python benchmarks/report.py") as error:
        run(paths, "--check")
    assert isinstance(error.value.code, str)  # which is printed, and the status is 1
    assert "54.0" in paths[stale].read_text()  # it only looks


def test_check_notices_new_figures_and_a_missing_chart(paths: dict[str, Path]) -> None:
    paths["json"].write_text(json.dumps([*ROWS, row("stack", PEERS, batch=32, frames=250)]))
    with pytest.raises(SystemExit, match=r"benchmarks\.md does not show"):
        run(paths, "--check")
    paths["json"].write_text(json.dumps(ROWS))
    paths["chart"].unlink()
    with pytest.raises(SystemExit, match=r"chart\.svg is missing"):
        run(paths, "--check")


@pytest.mark.parametrize(
    "page",
    ["no markers\n", f"{report.BEGIN}\n", f"{report.END}\n{report.BEGIN}\n", f"{report.BEGIN}\n{report.END}\n" * 2],
)
def test_markers_must_be_there_once_and_in_order(paths: dict[str, Path], page: str) -> None:
    paths["page"].write_text(page)
    for arguments in ([], ["--check"]):
        with pytest.raises(SystemExit, match="page must have <!-- benchmarks: begin --> once"):
            run(paths, *arguments)
    assert paths["page"].read_text() == page


def test_a_gpus_figures_are_shown_once_there_are_any(paths: dict[str, Path]) -> None:
    assert "not yet measured" in paths["page"].read_text()
    about = {"gpu": "GPU 9000", "date": "2026-11-25", "commit": "0123456", "command": "python benchmarks/gpu.py"}
    sizes = {"batch": 4, "frames": 1500, "width": 1024, "torch": "2.11", "repetitions": 50}
    rows = [
        {**about, **sizes, "table": "recurrence", "ratios": {"forward": 0.91}},
        {**about, **sizes, "table": "training", "ratios": {"LSTM float16": 7.5}},
    ]
    paths["json"].with_name("gpu.json").write_text(json.dumps(rows))
    with pytest.raises(SystemExit, match="does not show the JSON's figures"):
        run(paths, "--check")
    shown = report.gpu_part(rows)
    assert "GPU 9000" in shown
    assert "| recurrence, forward: share of a copy's bandwidth | 0.91 |" in shown
    assert "| training step, LSTM float16: times as long as ours | 7.5 |" in shown


def test_no_rows_is_an_error(paths: dict[str, Path]) -> None:
    paths["json"].write_text("[]")
    with pytest.raises(SystemExit, match="has no rows"):
        run(paths)


def test_without_matplotlib_nothing_is_written_and_the_error_says_how_to_get_it(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # importing it fails
    before = paths["page"].read_text().replace("53.0", "54.0")
    paths["page"].write_text(before)
    with pytest.raises(SystemExit, match=r'needs matplotlib: pip install --editable "\.\[bench\]"'):
        run(paths)
    assert paths["page"].read_text() == before


def test_the_chart_has_text_and_is_the_same_every_time(paths: dict[str, Path]) -> None:
    pytest.importorskip("matplotlib", reason="the chart needs the extra `bench`")
    run(paths)
    first = paths["chart"].read_bytes()
    run(paths)
    assert paths["chart"].read_bytes() == first
    for text in (">LSTM float32</text>", ">53.0</text>", ">22.4</text>", ">20.8</text>"):
        assert text.encode() in first
    assert b">11.1</text>" not in first  # of another width
    run(paths, "--check")


def test_the_committed_page_and_chart_show_the_committed_figures() -> None:
    report.main(["--check"])


def test_weights_are_counted_on_speakers_that_they_were_not_chosen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # where its `context` is
    lm = load("lm")
    speakers = ["B", "A", "C", "A", "D"]
    cuts = [SimpleNamespace(id=str(n), supervisions=[SimpleNamespace(speaker=s)]) for n, s in enumerate(speakers)]
    parts = lm.halves(cuts)
    assert parts == ([1, 2, 3], [0, 4])  # A and C, B and D

    model = SimpleNamespace(tokenizer=CharTokenizer())
    heard = [(str(n), torch.zeros(1, model.tokenizer.vocab_size)) for n in range(len(speakers))]
    chosen_on = []

    def tune(_: Any, some: list[tuple[str, torch.Tensor]], *rest: Any) -> list[Setting]:
        chosen_on.append([text for text, _ in some])
        return [Setting(0.3, float(len(some)), ErrorCounts())]

    counted = []

    def count(_: Any, some: list[tuple[str, torch.Tensor]], decoding: Decoding) -> ErrorCounts:
        counted.append(([text for text, _ in some], decoding.scorer.word_bonus))
        return ErrorCounts(hits=len(some))

    monkeypatch.setattr(lm, "tune", tune)
    monkeypatch.setattr(lm, "count_errors", count)
    assert lm.count_tuned(heard, parts, Scorer(), model) == ErrorCounts(hits=5)
    assert chosen_on == [["0", "4"], ["1", "2", "3"]]
    assert counted == [(["1", "2", "3"], 2.0), (["0", "4"], 3.0)]
