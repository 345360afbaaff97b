"""The benchmarks' own parts: workers, rounds, ratios, tables. Not what is fast, but that it is reported right."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import asked, machine, tables
from benchmarks.engines import by_length, in_groups, in_order, padded
from benchmarks.peers import GGML, NATIVE, OURS, TORCH, WHEEL, Model, Peers, Settings, cosine
from benchmarks.processes import ROOT, Worker, WorkerError, job
from benchmarks.rounds import interleaved, median, quickest, ratio
from benchmarks.speed import PAGE, main, rows_of
from benchmarks.texts import ROWS, Row, natural_lengths, token_ids
from benchmarks.worker import timed
from refembed import Embedder

pytestmark = pytest.mark.system

IDS = [[5, 9, 3], [6, 11, 12, 13, 9], [4, 8], [7] * 20]


@pytest.fixture(scope="module")
def worker(tiny: Path) -> Iterator[Worker]:
    """refembed with a small model, in a process of its own."""
    with Worker("refembed") as w:
        w.open("Refembed", model=str(tiny), threads=1)
        yield w


# -- rounds and ratios ------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """2/1, 2/2, 20/2; the third round has only one of them."""
    assert ratio([2, 2, 5, 20], [1, 2, None, 2]) == (2.0, 1.0, 10.0, 3)
    assert ratio([10, 1], [5, 1]) == (1.5, 1.0, 2.0, 2)
    with pytest.raises(ValueError, match="no round has both"):
        ratio([None, 1], [1, None])


def test_the_quickest_is_by_the_median_and_some_do_not_count() -> None:
    seconds: dict[str, list[float | None]] = {
        "a": [1.0, None, 9.0, 9.0],
        "b": [5.0, 5.0, 5.0, 50.0],
        "c": [1.0, 1.0, 1.0, 1.0],
    }
    assert median(seconds["a"]) == 9
    assert quickest(seconds) == "c"
    assert quickest(seconds, but=("c",)) == "b"
    assert quickest(seconds, but=("a", "b", "c")) is None


def test_engines_take_turns_and_the_slow_ones_run_in_every_third_round() -> None:
    said: list[str] = []

    def run(name: str) -> float:
        said.append(name)
        return float(len(said))

    runs = {n: (lambda n=n: run(n)) for n in ("a", "b", "slow")}
    found = interleaved(runs, {"a": 1, "b": 2, "slow": 2.1}, seconds=60, least=3, most=4, pause=0)
    assert said == ["a", "b", "slow", "a", "b", "a", "b", "a", "b", "slow"]
    assert found == {"a": [1, 4, 6, 8], "b": [2, 5, 7, 9], "slow": [3, None, None, 10]}
    assert len(interleaved(runs, {"a": 1, "b": 1, "slow": 1}, seconds=0, least=2, pause=0)["a"]) == 2


def test_a_run_is_repeated_until_the_time_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = itertools.count(0, 3), list[int]()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 1000)
    seconds, repeats = timed(lambda: calls.append(1), 0.01)
    assert len(calls) == repeats == 4
    assert seconds == pytest.approx(0.003)
    assert timed(lambda: None, 0)[1] == 1


# -- texts ------------------------------------------------------------------------------------------------------------


def test_texts_have_the_lengths_their_row_says_and_are_always_the_same() -> None:
    for row in ROWS.values():
        ids = token_ids(row, 30522)
        assert len(ids) == row.count
        assert ids == token_ids(row, 30522)
        assert {len(i) for i in ids} == ({row.length} if row.length else set(natural_lengths(row.count)))
        assert all(i[0] == 101 and i[-1] == 102 and max(i) < 30522 for i in ids)
    assert [len(i) for i in token_ids(Row(2, 64, ""), 262144, 2, None)] == [64, 64]


def test_natural_lengths_are_5_to_300_with_a_mean_of_about_60() -> None:
    lengths = natural_lengths(512)
    assert min(lengths) >= 5
    assert max(lengths) <= 300
    assert np.mean(lengths) == pytest.approx(60, abs=4)
    assert np.median(lengths) < np.mean(lengths)


def test_groups_hold_all_texts_and_no_more_tokens_than_fit() -> None:
    ids = token_ids(ROWS["mixed"], 30522)
    groups = in_groups(ids, 512, 8)
    assert [i for g in groups for i in g] == list(range(len(ids)))
    assert all(sum(len(ids[i]) for i in g) <= 512 and len(g) <= 8 for g in groups)
    assert len(in_groups([[1] * 4] * 8, 16, 64)) == 2


def test_padded_engines_get_the_longest_first_and_their_vectors_come_back_in_order() -> None:
    groups = by_length(IDS, 2)
    assert groups == [[3, 1], [0, 2]]
    x = padded(IDS, groups[1])
    assert x["input_ids"].tolist() == [[5, 9, 3], [4, 8, 0]]
    assert x["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert in_order(groups, [["d", "b"], ["a", "c"]]) == ["a", "b", "c", "d"]


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_computes_what_the_engine_computes(worker: Worker, tiny: Path) -> None:
    assert worker.ask("give", row="x", ids=IDS) == {"ways": [""]}
    found = worker.ask("run", row="x", way="", least=0.01)
    assert found["seconds"] * found["repeats"] >= 0.01
    assert np.array_equal(worker.vectors("x", ""), Embedder.load(tiny).embed(IDS))
    worker.ask("give", row="x", ids=IDS[:1])
    assert worker.vectors("x", "").shape[0] == 1


def test_what_a_worker_cannot_do_is_one_sentence_and_it_goes_on(worker: Worker) -> None:
    with pytest.raises(WorkerError, match=r"^refembed: KeyError: 'never given'$"):
        worker.ask("run", row="never given", way="", least=0)
    with pytest.raises(WorkerError, match="refembed: no such request: '__init__'"):
        worker.ask("__init__")
    worker.ask("give", row="bad", ids=[[10**6]])
    with pytest.raises(WorkerError, match="refembed: RequestError: input 0: token id 1000000 is not in the vocabulary"):
        worker.ask("run", row="bad", way="", least=0)
    worker.ask("give", row="x", ids=IDS)


def test_an_absent_result_is_not_a_wrong_one() -> None:
    with Worker("x") as w, pytest.raises(WorkerError, match="AttributeError") as e:
        w.open("NoEngine")
    assert not e.value.absent
    with pytest.raises(WorkerError, match="cannot be started: No such file") as e:
        Worker("PyTorch", "/nowhere/python")
    assert e.value.absent


@pytest.mark.limit(300)
def test_a_worker_that_dies_gives_a_sentence(tmp_path: Path) -> None:
    with Worker("llama.cpp") as w:
        w.process.kill()
        with pytest.raises(WorkerError, match=r"llama\.cpp: its process ended with SIGKILL when asked to open$"):
            w.open("LlamaCpp")
    shell = script(tmp_path, "read line; echo no memory left >&2; exit 7")
    words = "PyTorch: its process ended with exit status 7 when asked to open: no memory left"
    with Worker("PyTorch", shell) as w, pytest.raises(WorkerError, match=words):
        w.open("SentenceTransformers")


@pytest.mark.limit(300)
def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    shell = script(tmp_path, "exec sleep 60")
    with Worker("x", shell, timeout=0.2) as w, pytest.raises(WorkerError, match="ended with SIGKILL when asked to job"):
        w.ask("job", name="resident", options={})


def script(folder: Path, commands: str) -> str:
    """An "interpreter" that does something else."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{commands}\n")
    python.chmod(0o755)
    return str(python)


def test_what_libraries_print_does_not_come_between_answers(worker: Worker) -> None:
    code = (
        "import os, sys, benchmarks.jobs as j\n"
        "j.loud = lambda: (print('noise'), os.write(1, b'more noise\\n'), 3)[2]\n"
        "from benchmarks.worker import main; main()"
    )
    line = json.dumps({"do": "job", "name": "loud", "options": {}})
    done = subprocess.run([sys.executable, "-c", code], input=line + "\n", cwd=ROOT, capture_output=True, text=True)
    assert json.loads(done.stdout) == {"value": 3}
    assert "noise" in done.stderr


# -- engines side by side ---------------------------------------------------------------------------------------------


def settings(**more: Any) -> Settings:
    return Settings(seconds=0, least=2, most=2, alone=0.01, **more)


def test_refembed_stands_alone_where_no_peer_is_there(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    s = settings(only=(OURS, NATIVE))
    with Peers(Model("tiny-f32", str(tiny), first=None, last=None), s) as peers:
        row = peers.row("x", Row(6, 7, ""), 40)
    assert list(row["engines"]) == [OURS]
    assert row["tokens"] == 42
    assert len(row["engines"][OURS]["seconds"]) == 2
    assert asked.against_best(row) is None
    assert s.skipped == {NATIVE: "no folder of its libraries: --native DIR or REFEMBED_NODE_LLAMA_CPP=DIR"}
    assert "without llama.cpp, native: no folder" in capsys.readouterr().out


@pytest.mark.oracle
def test_llama_cpp_in_batches_computes_what_refembed_does(tiny: Path) -> None:
    with Peers(Model("tiny-f32", str(tiny), first=None, last=None), settings(only=(OURS, GGML, WHEEL))) as peers:
        row = peers.row("x", Row(80, 9, ""), 40)  # two batches
    assert set(row["engines"]) == {OURS, GGML, WHEEL}
    assert row["disagree"] == {}
    assert row["engines"][WHEEL]["cosine"] > 0.99999
    assert row["engines"][WHEEL]["way"] in {f"flash {f}, batch {n}" for f in ("off", "on") for n in (512, 1024)}


def test_who_computes_something_else_is_not_timed(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peers(Model("tiny-f32", str(tiny), first=None, last=None), settings(only=(OURS, GGML))) as peers:
        peers.workers[GGML].vectors = lambda row, way: peers.workers[OURS].vectors(row, way)[::-1]  # type: ignore[method-assign]
        row = peers.row("x", Row(6, 7, ""), 40)
    assert list(row["engines"]) == [OURS]
    assert row["disagree"][GGML] < 0.99999
    assert "refembed ggml computes something else here (cosine" in capsys.readouterr().out


@pytest.mark.limit(300)
def test_an_engine_that_dies_leaves_the_others(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Peers(Model("tiny-f32", str(tiny), first=None, last=None), settings(only=(OURS, GGML))) as peers:
        dying = peers.workers[GGML]
        peers.way(GGML, "x", IDS, IDS)
        dying.process.kill()
        row = peers.row("x", Row(6, 7, ""), 40)
    assert list(row["engines"]) == [OURS]
    assert (
        "without refembed ggml from here on: refembed ggml: its process ended with SIGKILL" in capsys.readouterr().out
    )


def test_the_cosine_is_the_worst_and_nothing_passes_for_a_vector() -> None:
    a = np.array([[1.0, 0.0], [3.0, 4.0]], np.float32)
    b = np.array([[2.0, 0.0], [4.0, 3.0]], np.float32)
    assert cosine(a, a) == 1
    assert cosine(a, b) == pytest.approx(24 / 25)
    assert cosine(a, b[:1]) == -1
    assert cosine(a, b * np.float32(np.nan)) == -1


# -- the machine ------------------------------------------------------------------------------------------------------

OLD = ["sse4_2", "avx", "f16c"]
HASWELL = [*OLD, "fma", "avx2", "bmi2"]
SKYLAKE = [*HASWELL, "avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"]
ZEN4 = [*SKYLAKE, "avx512vbmi", "avx512_vnni", "avx512_bf16"]


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ([], "x64"),
        (["sse4_2"], "sse42"),
        (OLD, "ivybridge"),
        (HASWELL, "haswell"),
        ([*HASWELL, "avx_vnni"], "alderlake"),
        (SKYLAKE, "skylakex"),
        ([f for f in SKYLAKE if f != "avx512vl"], "haswell"),
        ([*SKYLAKE, "avx512_vnni"], "cascadelake"),
        (ZEN4, "zen4"),
        ([*ZEN4, "amx_int8", "avx_vnni"], "sapphirerapids"),
    ],
)
def test_the_cpu_backend_is_the_one_for_the_processor(flags: list[str], best: str) -> None:
    assert machine.variant(machine.VARIANTS, set(flags)) == best


def test_a_score_is_one_and_a_bit_for_each_feature() -> None:
    assert machine.score("haswell", set(HASWELL)) == 1 + 1 + 2 + 4 + 8 + 16 + 32
    assert machine.score("zen4", set(HASWELL)) == 0
    assert machine.variant(["zen4", "unheard-of"], set(HASWELL)) is None
    assert machine.variant(["zen4", "haswell"], set(HASWELL)) == "haswell"


@pytest.mark.oracle
@pytest.mark.skipif("REFEMBED_NODE_LLAMA_CPP" not in os.environ, reason="REFEMBED_NODE_LLAMA_CPP names no folder")
def test_scores_are_those_of_llama_cpp_itself() -> None:
    folder = Path(os.environ["REFEMBED_NODE_LLAMA_CPP"])
    code = (
        "import ctypes, sys; ctypes.CDLL(sys.argv[1] + '/libggml-base.so', ctypes.RTLD_GLOBAL)\n"
        "print(ctypes.CDLL(sys.argv[2]).ggml_backend_score())"
    )
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    for name in machine.backends(folder):
        command = [sys.executable, "-c", code, str(folder), str(folder / f"libggml-cpu-{name}.so")]
        theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert int(theirs) == machine.score(name, machine.flags()), name


def test_the_processor_is_read_from_cpuinfo() -> None:
    text = (
        "processor\t: 0\nmodel name\t: Some CPU @ 2.6GHz\nflags\t\t: fma avx2\n\nprocessor\t: 1\nmodel name\t: Other\n"
    )
    info = machine.cpuinfo(text)
    assert info["model name"] == "Some CPU @ 2.6GHz"
    assert info["flags"].split() == ["fma", "avx2"]
    assert machine.cpuinfo("") == {}
    said = {"processor": "Intel(R) Xeon(R) Processor @ 2.6GHz, family 6 model 1", "cores": "2"}
    assert machine.slug(said) == f"intel-xeon-2-cores-{sys.platform}"


# -- tables -----------------------------------------------------------------------------------------------------------


def row(texts: int = 8, **engines: list[float | None]) -> dict[str, Any]:
    named = {"ours": OURS, "ggml": GGML, "wheel": WHEEL, "torch": TORCH}
    found = {named[n]: {"way": "w", "cosine": 1.0, "seconds": s} for n, s in engines.items()}
    return {"texts": texts, "tokens": 100 * texts, "engines": found, "disagree": {}}


def results(**more: Any) -> dict[str, Any]:
    return {"name": "n", "when": "today", "machine": {"cores": "2"}, "builds": {"NumPy": "2"}, "skipped": {}} | more


def line(found: dict[str, Any], begins: str) -> asked.Line:
    return next(x for x in asked.lines(found) if x.asked.startswith(begins))


def test_the_best_peer_is_no_numerics_of_ours() -> None:
    peer, found = asked.against_best(row(ours=[1.0, 2.0], ggml=[0.5, 0.5], wheel=[4.0, 6.0], torch=[2.0, 3.0])) or (
        "",
        None,
    )
    assert peer == TORCH
    assert found == (1.75, 1.5, 2.0, 2)


@pytest.mark.parametrize(("seconds", "met"), [(1.1, True), (1.09, False)])
def test_every_type_must_reach_what_was_asked(seconds: float, met: bool) -> None:
    rows = {f"{m}/256x32": row(ours=[1.0], wheel=[2.0]) for m in asked.MINILM}
    rows["minilm-q4_0/256x32"] = row(ours=[1.0], wheel=[seconds])
    said = line(results(rows=rows), "MiniLM, 256")
    assert said.met is met
    assert f"Q4_0 {seconds:.2f} (llama.cpp, wheel)" in said.measured
    del rows["minilm-f16/256x32"]
    assert line(results(rows=rows), "MiniLM, 256").met is (None if met else False)


def test_asked_figures_are_judged_by_what_was_measured() -> None:
    found = results(
        cold={"import refembed": [0.02, 0.2, 0.1], "refembed embed hi": [0.9, 0.7, 0.85]},
        loading={"minilm-f32": {"ready": 0.05}, asked.GEMMA: {"ready": 0.7}},
        memory={"minilm-q8_0": {"fast, budget 0": {"peak": 130}, "llama.cpp": {"peak": 100}},
                asked.GEMMA: {"fast, budget 0": {"peak": 131}, "llama.cpp": {"peak": 100}}},
        sgemm={"minilm": [{"gflops": {"refembed": [80.0, 95.0, 96.0], "sgemm": [100.0, 100.0, 100.0]}}]},
        growth={"texts": 10, "tokens_a_second": [100.0] * 9 + [89.0], "resident": [100 << 20] * 9 + [110 << 20]},
    )  # fmt: skip
    assert line(found, "`import").met is True
    assert line(found, "`import").measured == "100 ms"
    assert line(found, "`refembed embed").met is False
    assert line(found, "MiniLM ready").met is True
    assert line(found, "Gemma-3-270M ready").met is False
    assert line(found, "Peak memory, MiniLM") == (
        "Peak memory, MiniLM Q8_0, weights mapped: 1.3 x llama.cpp's",
        "1.30 x",
        True,
    )
    assert line(found, "Peak memory, Gemma").met is False
    assert line(found, "Linear").met is True
    assert line(found, "Speed of the last").met is False
    assert line(found, "Speed of the last").measured == "-11.0%, of 10 texts"
    assert line(found, "Memory flat").met is True
    assert all(x.met is None for x in asked.lines(results()))


def test_speeds_are_tokens_a_second_or_the_time_of_one_text() -> None:
    both = {"minilm-f32/256x32": row(ours=[0.5, 1.0, 0.5], wheel=[2.0, None, 1.0]),
            "minilm-f32/1x8": row(texts=1, ours=[0.002], wheel=[0.001])}  # fmt: skip
    text = tables.TABLES["minilm"](results(rows=both))
    assert text.splitlines()[0] == "| texts | refembed | llama.cpp, wheel | best peer | refembed / best peer |"
    assert "| F32, 256 texts of 32 tokens | 1,600 | 533 | llama.cpp, wheel | 3.00 (2.00 to 4.00) |" in text
    assert "| F32, one text of 8 | 2.00 ms | 1.00 ms | llama.cpp, wheel | 0.50 (0.50 to 0.50) |" in text


def test_every_table_can_be_made_of_nothing() -> None:
    for make in tables.TABLES.values():
        assert make({"machine": {}, "builds": {}})


def test_other_machines_stand_next_to_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    assert tables.others(results()) == "None has been measured."
    for name in ("n", "elsewhere"):
        facts = {"processor": f"a CPU of {name}", "features": "avx2"}
        rows = {"minilm-f32/256x32": row(ours=[1.0], torch=[1.5 if name == "n" else 2.0])}
        (tmp_path / f"{name}.json").write_text(json.dumps(results(name=name, machine=facts, rows=rows)))
    for name in ("tradeoff-n", "scale-n"):
        (tmp_path / f"{name}.json").write_text('{"machine": {}}')
    found = tables.others(results())
    assert "a CPU of elsewhere" in found
    assert "2.00 (2.00 to 2.00)" in found
    assert "a CPU of n" not in found


def test_only_what_is_between_markers_is_replaced() -> None:
    page = "# a\n<!-- table: machine -->\nold\n<!-- end of table -->\nb\n<!-- table: sgemm -->\n<!-- end of table -->\n"
    new = tables.filled(page, results())
    assert new.startswith("# a\n<!-- table: machine -->\n\n|  | of these figures |\n| --- | --- |\n| cores | 2 |")
    assert "old" not in new
    assert new.endswith("<!-- end of table -->\nb\n<!-- table: sgemm -->\n\nNot measured.\n\n<!-- end of table -->\n")
    assert tables.filled(new, results()) == new
    with pytest.raises(tables.TableError, match="p: a table's marker is unknown or has no end: nonsense"):
        tables.filled("<!-- table: nonsense -->\n<!-- end of table -->", results(), "p")
    with pytest.raises(tables.TableError, match="no end"):
        tables.filled("<!-- table: machine -->\n", results())


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    tables.replace(path, "one")
    with pytest.raises(UnicodeEncodeError):
        tables.replace(path, "two \ud800")
    assert path.read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["page.md"]


def test_the_page_says_what_the_kept_measurements_say() -> None:
    """docs/performance.md is what its results make of it: no table was touched by hand."""
    page = PAGE.read_text(encoding="utf-8")
    named = [word for word in page.split("`") if word.startswith("benchmarks/results/")]
    found = json.loads((ROOT / named[0]).read_text(encoding="utf-8")) if named else {"machine": {}, "builds": {}}
    assert tables.filled(page, found) == page


# -- the command ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="--only minilm-f99: nothing of that name; --list shows them all"):
        main(["--only", "minilm-f99"])
    with pytest.raises(SystemExit):
        main(["--native", "/nowhere"])
    assert "--native /nowhere: there is no such thing" in capsys.readouterr().err
    main(["--list"])
    assert "minilm-q4_0/mixed" in capsys.readouterr().out.split()
    assert len(rows_of(gemma=True)) == 22


def test_a_job_measures_growth_by_tenths(tiny: Path) -> None:
    found = job("growth", model=str(tiny), count=20, length=6, threads=1, ends=(None, None))
    assert len(found["tokens_a_second"]) == len(found["resident"]) == 10
    assert min(found["tokens_a_second"]) > 0


def test_a_profile_has_all_of_the_time(tiny: Path) -> None:
    found = job("profile", model=str(tiny), pooling="native", rows={"x": IDS}, least=0.0)["x"]
    assert found["tokens"] == sum(map(len, IDS))
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"])
    assert any(k.startswith("product ") for k in found["parts"])
    per_row = found["flops"]
    assert sum(per_row.values()) > 0
    assert set(per_row) <= set(found["parts"])


def test_products_are_compared_with_sgemm(tiny: Path) -> None:
    (found,) = job("sgemm", env={"OPENBLAS_NUM_THREADS": "1"}, shapes=[(384, 384)], rows=64, rounds=2)
    assert {n: len(r) for n, r in found["gflops"].items()} == {"refembed": 2, "sgemm": 2}
    assert min(found["gflops"]["sgemm"]) > 0.1
