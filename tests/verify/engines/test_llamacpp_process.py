"""The worker process: llama.cpp's crashes are errors here, and whatever ends, nothing is left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from refembed.errors import EngineError, RequestError
from refembed.verify.engines import llamacpp
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.child import answer_to_code

pytestmark = pytest.mark.oracle

TEXT = "Hello, llama!"
resource = pytest.importorskip("resource", reason="signals and limits are POSIX")


def alive(pid):
    """Whether a process exists, a zombie included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ended(pid):
    """Whether a process that is not our child runs no more; until init reaps it, it is a zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip()[:1] in ("", "Z")


def ends(pid, seconds=10.0):
    """Whether it ends within some time."""
    limit = time.monotonic() + seconds
    while not ended(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    return ended(pid)


def test_an_abort_is_an_error_that_says_what_was_asked_and_what_llamacpp_said(minilm, tmp_path, monkeypatch):
    """600 positions where the model has 512: ggml asserts. No core file, no zombie, no hang."""
    monkeypatch.chdir(tmp_path)
    with LlamaCpp(minilm, n_ctx=1024) as engine:
        pid = engine.worker.pid
        with pytest.raises(EngineError) as e:
            engine.embed([[101] * 600])
        assert "llama.cpp ended with SIGABRT when asked to embed 1 text(s), the first: 600 token ids [101, " in str(
            e.value
        )
        assert "  | " in str(e.value)
        assert "GGML_ASSERT" in str(e.value)
        assert not alive(pid)
        assert not list(tmp_path.iterdir())
        with pytest.raises(EngineError, match=r"asked to tokenize .* this engine is closed"):
            engine.tokenize(TEXT)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux knows the limits of another process")
def test_the_worker_may_write_no_core_file(minilm):
    with LlamaCpp(minilm, vocab_only=True) as engine:
        assert resource.prlimit(engine.worker.pid, resource.RLIMIT_CORE) == (0, 0)


@pytest.mark.limit(300)
def test_a_worker_that_is_killed_is_an_error(minilm):
    with LlamaCpp(minilm, vocab_only=True) as engine:
        engine.worker.kill()
        with pytest.raises(EngineError, match="ended with SIGKILL when asked to tokenize 1 text"):
            engine.tokenize(TEXT)
        assert not alive(engine.worker.pid)


@pytest.mark.limit(300)
def test_a_worker_that_hangs_is_ended_when_its_time_is_up(minilm):
    with LlamaCpp(minilm, vocab_only=True) as engine:
        os.kill(engine.worker.pid, signal.SIGSTOP)
        engine.timeout = 0.3
        begin = time.monotonic()
        with pytest.raises(EngineError, match=r"gave no answer in 0.3 s when asked to tokenize 1 text"):
            engine.tokenize(TEXT)
        assert time.monotonic() - begin < 5
        assert not alive(engine.worker.pid)


def test_closing_leaves_no_process_and_no_thread(minilm):
    before = threading.active_count()
    engine = LlamaCpp(minilm, vocab_only=True)
    pid = engine.worker.pid
    engine.tokenize(TEXT)
    engine.close()
    engine.close()
    assert not alive(pid)
    assert threading.active_count() == before
    with pytest.raises(EngineError, match="closed"):
        engine.tokenize(TEXT)


def test_an_engine_that_is_forgotten_is_closed(minilm):
    engine = LlamaCpp(minilm, vocab_only=True)
    pid = engine.worker.pid
    del engine
    gc.collect()
    assert not alive(pid)


@pytest.mark.limit(300)
@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)"])
def test_the_worker_dies_with_its_parent(minilm, end):
    """However the parent ends, and although the worker is in the middle of work."""
    code = f"""
import os, signal, sys, threading, time
from refembed.verify.engines import llamacpp
from refembed.verify.engines.llamacpp import LlamaCpp
engine = LlamaCpp({os.fspath(minilm)!r})
print(engine.worker.pid, flush=True)
threading.Thread(target=lambda: engine.embed([[101] * 512] * 500), daemon=True).start()
time.sleep(0.3)
{end}
"""
    root = os.fspath(Path(__file__).parents[3])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert ends(int(run.stdout)), run.stderr


def test_an_interrupted_request_ends_the_worker(minilm, monkeypatch):
    """Its answer must not be taken for the next one's."""

    def interrupted(source):
        raise KeyboardInterrupt

    engine = LlamaCpp(minilm, vocab_only=True)
    monkeypatch.setattr(llamacpp, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.tokenize("hello")
    monkeypatch.undo()
    assert not alive(engine.worker.pid)
    with pytest.raises(EngineError, match="closed"):
        engine.tokenize("world")


def test_control_c_is_the_parents_to_handle(minilm):
    """A terminal sends it to both."""
    with LlamaCpp(minilm, vocab_only=True) as engine:
        os.kill(engine.worker.pid, signal.SIGINT)
        time.sleep(0.1)
        assert engine.tokenize(TEXT)[0] == 101


def test_two_engines_stand_apart(minilm):
    """One crash does not touch the other."""
    with LlamaCpp(minilm, n_ctx=1024) as a, LlamaCpp(minilm) as b:
        want = b.embed([TEXT])[0].tobytes()
        with pytest.raises(EngineError):
            a.embed([[101] * 600])
        assert b.embed([TEXT])[0].tobytes() == want


def test_threads_may_share_an_engine(minilm):
    """One request after the other, each answer to its own."""
    with LlamaCpp(minilm, vocab_only=True) as engine:
        found = {}

        def ask(word):
            found[word] = [engine.tokenize(word) for _ in range(20)]

        threads = [threading.Thread(target=ask, args=(w,)) for w in ("hello", "world", "llama")]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert found == {w: [engine.tokenize(w)] * 20 for w in ("hello", "world", "llama")}


def test_a_file_that_is_not_there_is_refused_before_a_process_starts(tmp_path):
    with pytest.raises(EngineError, match=r"missing\.gguf: no such file"):
        LlamaCpp(tmp_path / "missing.gguf")


def test_a_file_that_is_no_model_is_refused_with_llamacpps_reason(tmp_path):
    file = tmp_path / "junk.gguf"
    file.write_bytes(b"GGUFjunk" * 10)
    with pytest.raises(EngineError, match=r"junk\.gguf: llama\.cpp cannot load this model(\n  \| .*)+"):
        LlamaCpp(file)


def test_a_folder_without_libraries_is_refused(tmp_path, minilm):
    with pytest.raises(EngineError, match=r"no libllama\.so in it, and no file .*\n  hint: give the folder"):
        LlamaCpp(minilm, lib=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling='max': must be one of 'native', 'none', 'mean'"),
        ({"flash_attn": 1}, "flash_attn=1: must be one of True, False, 'auto'"),
        ({"type_kv": "q8_0"}, "type_kv='q8_0': must be one of None, 'f32', 'f16'"),
        ({"n_ctx": 0}, "n_ctx=0: must be a positive whole number"),
        ({"threads": True}, "threads=True: must be a positive whole number"),
        ({"n_seq_max": 1.5}, "n_seq_max=1.5: must be a positive whole number"),
    ],
)
def test_options_that_mean_nothing_are_refused(minilm, options, message):
    with pytest.raises(RequestError, match=message):
        LlamaCpp(minilm, **options)


def test_no_pool_of_threads_comes_with_the_worker():
    """Numba, the model code and the other engines stay out of the process that runs llama.cpp."""
    code = "import sys, refembed.verify.engines.llamacpp_worker; print(*sys.modules)"
    loaded = set(answer_to_code(code).split())
    assert not loaded & {"numba", "gguf", "refembed.model", "refembed.gguf", "refembed.tokenizer", "refembed.embedder"}


def test_a_batch_that_does_not_divide_among_its_texts_is_rounded_up(minilm):
    """llama.cpp aborts on mean pooling where n_seq_max does not divide n_ubatch."""
    with LlamaCpp(minilm, n_batch=256, n_seq_max=3) as e:
        assert e.embed([TEXT])[0].shape == (384,)
