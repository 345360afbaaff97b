"""The text dump of llama.cpp's eval-callback: read back, and compared in the places that it shows.

data/eval-callback-tiny.txt.gz is what common/debug.cpp of llama.cpp itself printed (its build 11434, compiled against
the pinned wheel) of `tests.tiny.tiny_bert` on TEXT, flash attention off: 86 nodes, 11 tokens, 32 channels.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError
from refembed.model.trace import Trace, TracedTensor
from refembed.verify.engines.base import open_engine
from refembed.verify.engines.dump import HALF, compare_shown, is_dump, places, read_dump, total
from refembed.verify.engines.recorded import RecordedDump

TEXT = "hello world, the cat sat on a mat"
RECORDED = Path(__file__).parents[2] / "data" / "eval-callback-tiny.txt.gz"

# written by hand in the printer's format: ne {8, 2}, {1}, a node that is quantized, an older printer
BY_HAND = """\
0.00.123.456 I main: something else
common_debug_cb_eval:                 inp_embd = (f32)        ADD(node_1{8, 2, 1, 1}, token_types{8, 1, 1, 1}}) = {8, 2, 1, 1}
    [
        [
            [      1.0000,       2.0000,       3.0000,    ...,       6.0000,       7.0000,      -8.5000  ],
            [     -0.0001,         -inf,          nan,    ...,       0.0000,       0.0000,       1.0000  ],
        ],
    ]
    sum = nan
common_debug_cb_eval:      Kcur-0 (view) (copy) = (q8_0)     CPY(Kcur-0{8, 2, 1, 1}, }) = {8, 2, 1, 1}
common_debug_cb_eval:                     last = (f32)      SCALE(inp_embd{8, 2, 1, 1}, }) = {1, 1, 1, 1}
    [
        [
            [     42.1250  ],
        ],
    ]
    sum = 42.125000
"""  # noqa: E501 - the printer's own lines


@pytest.fixture(scope="module")
def text():
    return gzip.decompress(RECORDED.read_bytes()).decode()


@pytest.fixture(scope="module")
def dump(text):
    return read_dump(text, "recorded")


def trace(tiny, **options):
    return Embedder.load(tiny, **options).trace(TEXT)


def test_every_number_of_the_text_is_read(text, dump):
    assert is_dump(text)
    assert len(dump) == len(re.findall("common_debug_cb_eval", text)) == 86
    numbers = sorted(float(x) for x in re.findall(r"(?<=[\[ ])-?\d+\.\d{4}(?=[ ,])", text))
    read = sorted(float(x) for t in dump.tensors for x in t.array[np.isfinite(t.array)])
    assert read == numbers
    assert dump["inp_embd"].shape == (11, 32)
    assert dump["kq-0"].shape == dump["kq_soft_max-0"].shape


def test_what_is_not_shown_is_nan(dump):
    x = dump["inp_embd"]
    assert np.isnan(x[:, 3:-3]).all()
    assert np.isnan(x[3:-3]).all()
    assert np.isfinite(x[np.ix_(*places(x.shape))]).all()


@pytest.mark.parametrize("numerics", ["ggml", "exact"])
def test_our_run_agrees_in_every_place_shown(tiny, dump, numerics):
    """ggml to the last printed digit, sums included; exact but for float32 and ggml's F16 table of GELU."""
    ours = trace(tiny, numerics=numerics, **({"flash_attn": False} if numerics == "ggml" else {}))
    found = compare_shown(ours, dump)
    assert len(found) == 52
    if numerics == "ggml":
        assert all(d.within for d in found), [d for d in found if not d.within]
        assert all(abs(d.sum_ours - d.sum_theirs) <= 0.6e-6 for d in found)
    else:
        assert max(d.excess for d in found) < 0.02
        first = next(d for d in found if d.excess > 1e-4)
        assert first.name == "ffn_gelu-0"


@pytest.mark.oracle
def test_it_is_what_llama_cpp_computes(tiny, dump):
    """Node for node: name, operation, sources, printed numbers, sums as the printer adds them up."""
    live = open_engine("llamacpp", tiny).trace(TEXT)
    assert [(t.name, t.op, t.array.shape) for t in dump.tensors] == [
        (t.name, t.op, t.array.shape) for t in live.tensors
    ]
    for a, b, x, y in zip(dump.tensors, live.tensors, dump.meta["nodes"], live.meta["nodes"], strict=True):
        shown = np.ix_(*places(a.array.shape))
        assert [f"{v:.4f}" for v in a.array[shown].flat] == [f"{v:.4f}" for v in b.array[shown].flat]
        assert f"{x['sum']:.6f}" == f"{total(b.array):.6f}"
        assert x["sources"] == y["sources"][:2]  # the printer names two


def changed(ours, name, at, by):
    """A trace with one element moved."""
    taps = [TracedTensor(t.name, t.array.copy(), t.op) for t in ours.tensors]
    next(t for t in taps if t.name == name).array[at] += by
    return Trace(taps, ours.meta)


def test_a_shown_element_that_differs_is_found(tiny, dump):
    ours = trace(tiny, numerics="ggml", flash_attn=False)
    wrong = [d for d in compare_shown(changed(ours, "ffn_inp-1", (9, 31), 3e-4), dump) if not d.within]
    assert [(d.name, d.worst) for d in wrong] == [("ffn_inp-1", (9, 31))]
    assert wrong[0].max_abs == pytest.approx(3e-4, abs=HALF)


def test_an_element_that_is_not_shown_betrays_itself_by_the_sum(tiny, dump):
    ours = trace(tiny, numerics="ggml", flash_attn=False)
    wrong = [d for d in compare_shown(changed(ours, "ffn_inp-1", (5, 16), 0.5), dump) if not d.within]
    assert [d.name for d in wrong] == ["ffn_inp-1"]
    assert wrong[0].excess == 0
    assert not wrong[0].sums_agree


def test_places_shown():
    """Three at each end, all of an axis up to six; of four axes the outermost is printed whole."""
    assert places((7, 6)) == [[0, 1, 2, 4, 5, 6], [0, 1, 2, 3, 4, 5]]
    assert places((9, 8, 1, 2))[:2] == [list(range(9)), [0, 1, 2, 5, 6, 7]]


def test_a_dump_by_hand():
    found = read_dump(BY_HAND, "x")
    assert [(t.name, t.op, t.array.shape) for t in found.tensors] == [
        ("inp_embd", "ADD", (2, 8)),
        ("last", "SCALE", (1, 1)),
    ]
    assert found["inp_embd"][0].tolist()[:3] == [1.0, 2.0, 3.0]
    assert found["inp_embd"][0, -1] == -8.5
    assert found["inp_embd"][1, 1] == -np.inf
    assert found["last"][0, 0] == 42.125
    assert found.meta["nodes"][1] == {"type": "f32", "sources": [0], "view_of": None, "sum": 42.125}
    assert found.meta["partial"] is True
    older = read_dump(BY_HAND.replace("common_debug_cb_eval", "ggml_debug"), "x")
    assert [t.name for t in older.tensors] == ["inp_embd", "last"]


def test_older_builds_add_up_what_they_show():
    """2024's printer summed inside its loop: the sum of 1, 2, 3, 6, 7, 8 is 27, of 1 to 8 is 36."""
    row = "      [  1.0000,  2.0000,  3.0000, ...,  6.0000,  7.0000,  8.0000 ],\n"
    head = "ggml_debug:   x = (f32)  ADD(a{8, 1, 1, 1}, b{8, 1, 1, 1}}) = {8, 1, 1, 1}\n"
    ours = Trace([TracedTensor("x", np.arange(1, 9, dtype=np.float32)[None])])
    for printed in (27, 36):
        (found,) = compare_shown(ours, read_dump(f"{head}{row}      sum = {printed}.000000\n", "x"))
        assert found.within
    (found,) = compare_shown(ours, read_dump(f"{head}{row}      sum = 35.000000\n", "x"))
    assert not found.sums_agree


def test_the_same_infinity_is_no_difference():
    found = read_dump(BY_HAND.replace("nan,    ...", "0.0000,    ..."), "x")
    ours = Trace([TracedTensor("inp_embd", np.nan_to_num(found["inp_embd"], nan=0.0, neginf=-np.inf))])
    assert compare_shown(ours, found)[0].max_abs == 0
    ours.tensors[0].array[1, 1] = 1.0
    assert compare_shown(ours, found)[0].max_abs == np.inf


def test_the_engine(tmp_path, text, tiny):
    path = tmp_path / "run.log"
    path.write_text(text)
    engine = open_engine(str(path), tiny)
    assert isinstance(engine, RecordedDump)
    assert (engine.can_trace, engine.can_tokenize, engine.can_take_ids) == (True, False, False)
    assert engine.info["partial"] is True
    assert engine.info["resolution"] == HALF
    assert len(engine.trace(TEXT)) == 86
    with pytest.raises(EngineError, match="shows six numbers of each row, no whole vector"):
        engine.embed([TEXT])


def test_ids_that_the_text_tells(tmp_path, text, tiny):
    """llama-debug writes them to a file of its own, ...-prompt.txt; the two put together are understood."""
    path = tmp_path / "run.txt"
    path.write_text(f"prompt: {TEXT}\nn_tokens: 3\ntoken ids: 2, 12, 3\n" + text)
    engine = open_engine(str(path), tiny)
    assert engine.info["texts"] == [[2, 12, 3]]
    assert engine.trace([2, 12, 3])
    with pytest.raises(EngineError, match=r"is a run of \[2, 12, 3\], not of \[2, 3\]"):
        engine.trace([2, 3])


def test_llama_debugs_prompt_and_ids(tmp_path, text, tiny):
    """As `print_tokenized_prompt` writes them behind the run: piece(id), one after the other."""
    path = tmp_path / "run.log"
    behind = (
        'Model add_bos: true\nInput prompt: "the (5) "cat""\nToken ids (4):\n[CLS](2)  the(12)  cat(14) [SEP](3) \n\n'
    )
    path.write_text(text + behind)
    engine = open_engine(str(path), tiny)
    assert engine.info["texts"] == ['the (5) "cat"']
    assert engine.tokenize('the (5) "cat"') == [2, 12, 14, 3]
    assert engine.trace([2, 12, 14, 3])
    with pytest.raises(EngineError, match="not of 'another'"):
        engine.trace("another")


def test_a_text_that_ends_early(text):
    """The last tensor is left out when it is cut; one that is cut in the middle of the text is an error."""
    half = text[: len(text) // 2]
    found = read_dump(half, "x")
    assert 0 < len(found) < 86
    assert len(found) in (half.count("common_debug_cb_eval"), half.count("common_debug_cb_eval") - 1)
    lines = text.splitlines(keepends=True)
    with pytest.raises(EngineError, match=r"x, line 1: 'embd' is not printed as its shape \[32, 11, 1, 1\] says"):
        read_dump("".join(lines[:3] + lines[4:]), "x")
    with pytest.raises(EngineError, match="no tensor is shown whole"):
        read_dump("".join(lines[:3]), "x")
    with pytest.raises(EngineError, match="no line of llama"):
        read_dump("nothing", "x")
