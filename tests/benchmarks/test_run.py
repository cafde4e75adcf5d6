from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks import registry, report, run
from benchmarks.measure import Kernel, Limits, Record, Timing

from .cases import CPU, MODEL, SCAN

SECONDS = 1e-3


def test_results_are_written_and_read_again(tmp_path):
    missing = dataclasses.replace(MODEL, model="not_a_model")
    records = run.run_cases("mixed", [SCAN, MODEL, missing], CPU, (), [""], SECONDS, tmp_path)
    assert [r.status for r in records] == ["measured"] * 8 + ["skipped"] * 2

    content = json.loads((tmp_path / "mixed-compare-none.json").read_text())
    assert content["environment"]["torch"] == torch.__version__.partition("+")[0]
    assert [row["case"] for row in content["rows"]] == [r.case for r in records]
    assert content["rows"][0]["time_ms"] == records[0].time_ms._asdict()
    assert content["rows"][0]["errors"]["y"]["limit"] == records[0].errors["y"].limit

    markdown = (tmp_path / "mixed-compare-none.md").read_text()
    assert all(record.case in markdown for record in records)
    assert "no registered model has this name" in markdown
    assert (tmp_path / "mixed-compare-none.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png"}


def test_filter_leaves_rows_and_names_the_files(tmp_path):
    texts = ["summed | eager | bwd", "summed | eager | fwd"]
    peers = registry.peer_names()
    records = run.run_cases("mixed", [SCAN], CPU, peers, texts, SECONDS, tmp_path)
    assert {r.contender for r in records} == {"visionssm, routes summed"}
    assert [r.quantity for r in records] == ["fwd", "bwd"]
    assert (tmp_path / "mixed-summed-eager-bwd-summed-eager-fwd.json").is_file()


def test_a_peer_of_the_same_run_sets_the_goal():
    peer, ours = (
        dataclasses.replace(MODEL, label=label, training=False, as_fast_as=rival)
        for label, rival in (("peer", None), ("ours", MODEL.model))
    )
    limits = Limits(1.0, 1.0, "float32", None)
    (first,) = run.tasks_of(peer, CPU, ())
    (second,) = run.tasks_of(ours, CPU, ())
    record = run.run_task(first, CPU, limits, SECONDS, [])
    record.other_cores = 0.0
    assert run.run_task(second, CPU, limits, SECONDS, [record]).goal == record.images_per_s
    record.other_cores = 1.0
    assert run.run_task(second, CPU, limits, SECONDS, [record]).goal is None
    assert run.run_task(second, CPU, limits, SECONDS, []).goal is None


def test_rows_without_a_result_fit_into_the_table_and_the_plot():
    row = ("case", "x", "eager", "fwd", "float32")
    records = [
        Record(*row, "failed", "RuntimeError: a | b\nmore"),
        Record(
            *row, "measured", time_ms=Timing(2.0, 1.0, 3.0, 5), goal=1.0, goal_unit="ms", met=False
        ),
    ]
    lines = report.table(records).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "failed: RuntimeError: a / b |" in lines[2]
    assert "2 (1 to 3)" in lines[3]
    limits = Limits(1.0, 1.0, "float32", None)
    for rows in (records, records[:1]):
        assert report.to_png(report.Results("ops", {"device": "x"}, limits, rows))


def test_where_the_time_goes_is_told_of_rows_that_miss_their_goal():
    row, kernels = ("case", "x", "eager", "fwd", "float32", "measured"), [Kernel("k<int>", 1.5, 2)]
    missed, met = (Record(*row, kernels=kernels, met=met) for met in (False, True))
    results = report.Results("ops", {"device": "x"}, Limits(1.0, 1.0, "float32", None), [met])
    assert "k<int>" not in report.to_markdown(results)
    results.records.append(missed)
    assert "| `k<int>` | 1.500 | 2 |\n| all | 1.500 | 2 |" in report.to_markdown(results)
    rows = json.loads(report.to_json(results))["rows"]
    assert rows[0]["kernels"] == [{"name": "k<int>", "milliseconds": 1.5, "launches": 2}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["nothing"], (), [""], 1.0), "suite: expected one of"),
        ((["cpu"], ["nobody"], [""], 1.0), "compare: expected some of"),
        ((["cpu"], (), ["no such row"], 1.0), "filter: expected text of a row"),
        ((["cpu"], (), [""], 0.0), "seconds: expected a positive number"),
        ((["cpu"], (), [""], float("nan")), "seconds: expected a positive number"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(ValueError, match=message):
        run.check_arguments(*arguments)
    suites, compare, filter, seconds = arguments
    options = ["--suite", *suites, "--compare", *compare]
    with pytest.raises(SystemExit):
        run.main([*options, "--filter", *filter, "--seconds", str(seconds)])
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("suite", ["ops", "blocks", "models", "dense"])
def test_suites_of_a_gpu_say_so(suite):
    with pytest.raises(ValueError, match="needs a CUDA device"):
        run.run_suite(suite, ())


def test_command_line_measures_a_suite(tmp_path, monkeypatch):
    case = dataclasses.replace(MODEL, training=False)
    monkeypatch.setitem(registry.SUITES, "cpu", (case,))
    assert (
        run.main(["--suite", "cpu", "--compare", "--seconds", "0.001", "--out", str(tmp_path)]) == 0
    )
    assert (tmp_path / "cpu-compare-none.md").is_file()


def test_files_are_named_after_what_is_not_the_default():
    defaults = {"models": ("a", "b"), "batch": 4, "embed_dim": 8}
    assert report.stem("suite", {**defaults, "models": ["a", "b"]}, defaults) == "suite"
    chosen = {"models": ["a"], "batch": 4, "embed_dim": 16}
    assert report.stem("suite x", chosen, defaults) == "suite-x-models-a-embed-dim-16"
