"""`python -m conformance run --engine`: its questions, known failures, exit codes and errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from conformance.__main__ import main
from conformance.cases import Text, load_texts
from conformance.external import as_json
from conformance.external_cases import Known, Measure, Result, cases_for, load_known, questions
from conformance.external_checks import KINDS, digits, ids_apart
from conformance.external_engine import ExternalEngine, NotAskedError, numbers_in, spoken, takes
from refembed.errors import RequestError

MODEL = "minilm-f32"
# -- the questions ----------------------------------------------------------------------------------------------------


def test_every_kind_of_question_has_cases_and_every_case_a_check() -> None:
    assert {c.kind for c in cases_for(MODEL)} == set(KINDS)


def test_ids_are_unique_and_those_of_the_suite() -> None:
    found = [t.id for t in questions(cases_for(MODEL))]
    assert len(set(found)) == len(found)
    assert {"embed/minilm-f32/mean::rare-word", "pooling/minilm-f32/cls::empty", "input/minilm-f32/bad::too-long"} <= {
        *found
    }


def test_another_model_is_asked_the_same(tiny: Path) -> None:
    names = {c.id.split("/")[1] for c in cases_for(str(tiny))}
    assert names == {"tiny"}
    assert len(cases_for(str(tiny))) == len(cases_for(MODEL)) == len(cases_for("minilm-q8_0"))


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(RequestError, match="no test has an id like 'embed/minilm-q9'"):
        questions(cases_for(MODEL), ["embed/minilm-q9"])


# -- known failures ---------------------------------------------------------------------------------------------------


def known_of(tmp_path: Path, text: str) -> Known:
    path = tmp_path / "theirs.txt"
    path.write_text(text)
    return load_known(path, questions(cases_for(MODEL)))


def test_known_failures_have_a_reason(tmp_path: Path) -> None:
    known = known_of(tmp_path, "# mine\n\nembed/minilm-f32/mean::nul | texts end at NUL\ninput/* | no checks yet\n")
    tests = {t.id: t for t in questions(cases_for(MODEL))}
    assert known.reason(tests["embed/minilm-f32/mean::nul"]) == "texts end at NUL"
    assert known.reason(tests["input/minilm-f32/bad::too-long"]) == "no checks yet"
    assert known.reason(tests["embed/minilm-f32/mean::hello"]) == ""


@pytest.mark.parametrize("line", ["embed/minilm-f32/mean::nul", "embed/minilm-f32/mean::nul |", "embed"])
def test_a_line_without_a_reason_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"theirs.txt:1: not `id \| reason`"):
        known_of(tmp_path, line)


def test_an_id_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"theirs.txt:2: no test has the id 'embed/minilm-f32/mean::nil'"):
        known_of(tmp_path, "embed/* | a\nembed/minilm-f32/mean::nil | b")


def test_a_file_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.txt: .*No such file"):
        load_known(tmp_path / "none.txt", [])


def test_a_known_failure_that_passes_is_reported(tmp_path: Path) -> None:
    known = known_of(tmp_path, "embed/minilm-f32/mean::nul | a\nembed/minilm-f32/mean::hello | b\nids/* | c")
    tests = {t.id: t for t in questions(cases_for(MODEL))}
    results = [
        Result(tests["embed/minilm-f32/mean::nul"], "ok"),
        Result(tests["embed/minilm-f32/mean::hello"], "known"),
        Result(tests["ids/minilm-f32/text::hello"], "not asked"),
    ]
    (line,) = known.idle(results)
    assert "theirs.txt:1" in line


# -- parts ------------------------------------------------------------------------------------------------------------


def test_ids_are_counted_where_they_differ() -> None:
    assert ids_apart([1, 2, 3], [1, 2, 3]).value == 0
    assert ids_apart([1, 2], [1, 5, 3]) == Measure("different ids", 2, 0.0, "id 1: [2], not [5]")


def test_json_has_no_infinity() -> None:
    test = questions(cases_for(MODEL))[0]
    data = as_json([Result(test, "differs", [Measure("x", math.inf, 1.0)])], {}, [])
    assert json.loads(json.dumps(data, allow_nan=False))["results"][0]["measures"][0]["value"] == "inf"


def test_bytes_that_are_no_text_cannot_be_asked() -> None:
    with pytest.raises(NotAskedError, match="no UTF-8"):
        spoken(load_texts()["invalid-utf-8"])


class Numbers:
    """An engine that gives these numbers."""

    def __init__(self, x: Any) -> None:
        self.engine, self.x = self, x

    def check_length(self, text: Text) -> None:
        """Every text is short enough."""

    def vector(self, text: Text) -> Any:
        """The numbers, in double."""
        return np.asarray(self.x, np.float64)


@pytest.mark.parametrize("scale", [0.05, 1.0, 300.0])
def test_rounded_numbers_stand_out(scale: float) -> None:
    x = (np.random.default_rng(0).standard_normal(384) * scale).astype(np.float32)
    test = questions(cases_for(MODEL), ["length/*/single"])[0]

    def share(y: Any) -> float:
        return next(digits(Numbers(y), test)).value  # type: ignore[arg-type]

    assert share(x) < 0.1
    assert share(x.astype(np.float16)) == 1
    assert share((x.view(np.uint32) & 0xFFFF0000).view(np.float32)) == 1
    assert share([float(f"{v:.4e}") for v in x.astype(np.float64)]) == 1
    if scale == 0.05:
        assert share(np.round(x.astype(np.float64), 6)) == 1


def test_what_a_function_takes() -> None:
    assert takes(lambda text, add_special, parse_special: 0, "add_special", "parse_special")
    assert takes(lambda text, **options: 0, "add_special")
    assert not takes(lambda text, add_special: 0, "add_special", "parse_special")


def test_numbers_are_found_in_any_shape() -> None:
    assert numbers_in([{"embedding": [[0.5, 1]]}])
    assert not numbers_in({"data": [], "usage": {"n": 3}})
    assert not numbers_in({"embedding": [None, 1.0]})


# -- the command ------------------------------------------------------------------------------------------------------


def command(*args: Any) -> tuple[int, str]:
    """Exit code and output, errors too, as `python -m conformance run` gives them."""
    from conformance.__main__ import command as whole

    runner = CliRunner()
    result = runner.invoke(main, ["run", *map(str, args)], standalone_mode=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["conformance", "run", *map(str, args)])
            with pytest.raises(SystemExit) as e:
                whole()
        return int(str(e.value.code)), getattr(result.exception, "message", str(result.exception))
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an author's own engine is; modules that it leaves behind are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("ours", "nothing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def engine_file(folder: Path, change: str = "v") -> str:
    """`ours:embed`, which changes each vector v before it gives it."""
    lines = ["import numpy as np", "from refembed import Embedder", "E = Embedder.load('minilm')", "def embed(texts):"]
    lines += ["    if not all(isinstance(t, str) for t in texts): raise TypeError('texts are strings')"]
    (folder / "ours.py").write_text("\n".join([*lines, f"    return [{change} for v in E.embed(texts)]\n"]))
    sys.modules.pop("ours", None)
    return "ours:embed"


ASK = (
    "--oracle",
    "recorded",
    "--case",
    "embed/*::hello",
    "--case",
    "embed/*::invalid-utf-8",
    "--case",
    "pooling/*::empty",
)


@pytest.mark.usefixtures("minilm")
def test_a_right_callable_agrees_and_what_it_cannot_is_not_asked(folder: Path) -> None:
    code, said = command("--engine", engine_file(folder), *ASK, "--json", folder / "run.json")
    assert code == 0, said
    rows = {r["id"]: r for r in json.loads((folder / "run.json").read_text())["results"]}
    assert rows["embed/minilm-f32/mean::hello"]["status"] == "ok"
    assert rows["embed/minilm-f32/mean::invalid-utf-8"]["status"] == "not asked"
    assert rows["pooling/minilm-f32/mean::empty"]["status"] == "ok"
    assert rows["pooling/minilm-f32/cls::empty"]["note"] == "embed of this kind is not on record"
    assert "2 ok" in said
    assert "no UTF-8" in said


@pytest.mark.usefixtures("minilm")
def test_a_wrong_callable_differs_and_may_be_excused(folder: Path) -> None:
    spec = engine_file(folder, "v + 1e-3 * np.roll(v, 1)")
    code, said = command("--engine", spec, *ASK)
    assert code == 3
    assert "embed/minilm-f32/mean::hello  differs: 1 - cos" in said
    excuses = folder / "theirs.txt"
    excuses.write_text("embed/* | rolls\npooling/*/mean::empty | likewise\n")
    code, said = command("--engine", spec, *ASK, "--xfails", excuses)
    assert code == 0, said
    assert "2 known" in said


@pytest.mark.usefixtures("minilm")
def test_an_excuse_that_is_not_needed_fails(folder: Path) -> None:
    excuses = folder / "theirs.txt"
    excuses.write_text("embed/*::hello | it was wrong once\n")
    code, said = command("--engine", engine_file(folder), *ASK, "--xfails", excuses)
    assert code == 3
    assert "theirs.txt:1: 'embed/*::hello' is listed as a known failure, and passes" in said


@pytest.mark.usefixtures("minilm")
def test_nothing_to_ask_is_no_pass(folder: Path) -> None:
    code, said = command("--engine", engine_file(folder), "--oracle", "recorded", "--case", "forward")
    assert code == 1
    assert "nothing that was chosen can be asked" in said


@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nothing:embed"], 1, "importing nothing failed"),
        (["no such engine"], 1, "stands for no engine"),
        (["http://127.0.0.1:9"], 1, "cannot be reached"),
        (["ours:embed", "--numerics", "fast"], 1, "no --numerics"),
        (["ours:embed", "--model", "minilm-f32", "--model", "minilm-f16"], 1, "has one --model"),
        (["ours:embed", "--model", "model.gguf"], 1, "no such file, and no such model"),
        (["ours:embed", "--xfails", "none.txt"], 1, "none.txt"),
        (["ours:embed", "--case", "embed/none"], 1, "no test has an id like"),
        (["ours:embed", "--json", "none/run.json"], 1, "there is no such folder"),
        (["ours:embed", "--pooling", "max"], 1, "the suite asks for vectors"),
        (["ours:embed", "--model", "broken.gguf"], 2, "broken.gguf"),
    ],
)
def test_bad_requests_are_one_error(folder: Path, args: list[str], code: int, message: str) -> None:
    engine_file(folder)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    found, said = command("--engine", *args, "--oracle", "recorded")
    assert (found, message in said) == (code, True), said


def test_options_of_engines_need_an_engine() -> None:
    code, said = command("--normalize", "2", "tokenizer/minilm/f16")
    assert code == 1
    assert "--normalize goes with --engine" in said


# -- a server that is wrong about bad input ---------------------------------------------------------------------------


@pytest.fixture
def careless() -> Iterator[str]:
    """A server of OpenAI's API that answers the same vector to whatever it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"data": [{"embedding": [0.6, 0.8], "index": 0}]}).encode()
            self.send_response(200 if self.path == "/v1/embeddings" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/embeddings"
    server.shutdown()
    server.server_close()


def test_a_server_that_takes_anything_is_reported(careless: str, tiny: Path) -> None:
    engine = ExternalEngine(careless, tiny)
    for what in ("bad-null", "bad-object", "bad-in-list", "bad-missing", "bad-empty-list", "bad-json"):
        assert engine.provoke(what).startswith("answered {"), what
    assert engine.provoke("bad-surrogate") == ""
    engine.close()


def test_a_function_that_takes_anything_is_reported(tiny: Path) -> None:
    engine = ExternalEngine(lambda texts: [[1.0, 2.0] for _ in texts], tiny)
    assert engine.provoke("bad-null") == "gave 1 vectors for [None]"
    assert engine.provoke("bad-empty-list") == ""
    with pytest.raises(NotAskedError, match="no bodies"):
        engine.provoke("bad-json")
    engine.close()
