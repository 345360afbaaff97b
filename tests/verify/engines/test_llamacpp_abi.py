"""A layout is believed only when the library fills it as documented; a wrong one is refused by name.

The library is loaded in processes of their own here too.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from refembed.errors import EngineError
from refembed.verify.engines.llamacpp_layouts import CONTEXT_LAYOUTS
from refembed.verify.engines.llamacpp_lib import INSTALL, PINNED, wheel_file

PRELUDE = """
import ctypes as ct
from refembed.errors import EngineError
from refembed.verify.engines import llamacpp_abi as abi
from refembed.verify.engines import llamacpp_lib
from refembed.verify.engines.llamacpp_lib import Library

def fields(layouts):
    return list(next(iter(layouts.values())))

def without(rows, name):
    return [r for r in rows if r[0] != name]

def place(rows, name):
    return [r[0] for r in rows].index(name)

context, model = fields(llamacpp_lib.CONTEXT_LAYOUTS), fields(llamacpp_lib.MODEL_LAYOUTS)
tensor, batch = list(abi.GgmlTensor._fields_), list(abi.Batch._fields_)
"""
TRY = """
try:
    lib = Library()
    print("accepted", lib.layouts["context"])
except EngineError as e:
    print("refused", e)
"""


def library(change=""):
    """What loading the wheel says after a change to the layouts."""
    run = subprocess.run([sys.executable, "-c", PRELUDE + change + TRY], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.oracle
def test_the_pinned_wheel_has_the_newest_layout():
    assert library() == f"accepted {next(iter(CONTEXT_LAYOUTS))}\n"


@pytest.mark.oracle
def test_layouts_are_tried_in_order():
    """Those that do not fit come first here."""
    change = "llamacpp_lib.CONTEXT_LAYOUTS = dict(reversed(llamacpp_lib.CONTEXT_LAYOUTS.items()))"
    assert library(change) == f"accepted {next(iter(CONTEXT_LAYOUTS))}\n"


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('context = without(context, "moe_cache_size")', "168 bytes, the layout has 160; offload_kqv is 0"),
        ('context.insert(0, ("new", ct.c_uint32, 0))', "new is 512, not 0; n_ctx is 2048, not 512"),
        ('context = without(context, "n_rs_seq")', "n_outputs_max_per_seq is 0, not 1"),
        ('context.insert(place(context, "kv_unified"), ("new", ct.c_uint8, 1))', "new is 0, not 1"),
        ('context.append(("new", ct.c_void_p, None))', "the library writes 168 bytes, the layout has 176"),
        ('context = without(context, "ctx_other")', "the library writes 168 bytes, the layout has 160"),
        ('context[1], context[2] = context[2], context[1]', "n_ubatch is 2048, not 512; n_batch is 512, not 2048"),
        ('model = without(model, "lazy_mode")', "main_gpu is 1, not 0"),
        ('model.insert(place(model, "vocab_only"), ("new", ct.c_uint8, 0))', "use_extra_bufts is 0, not 1"),
        ('tensor[8], tensor[9] = tensor[9], tensor[8]', "of this llama.cpp build has another layout: view_src is "),
        ('tensor[place(tensor, "op_params")] = ("op_params", ct.c_int32 * 12)', "src is "),
        ('tensor[place(tensor, "src")] = ("src", ct.c_void_p * 8)', "view_src is "),
        ('tensor[place(tensor, "ne")] = ("ne", ct.c_int32 * 4)', "ne is [5, 0, 3, 0], not [5, 3, 1, 1]"),
        ('batch.insert(1, ("new", ct.c_void_p))', "llama_batch of this llama.cpp build has another layout: token is"),
        ('batch[2], batch[3] = batch[3], batch[2]', "pos is NULL; embd is not NULL"),
    ],
)  # fmt: skip
def test_a_wrong_layout_is_refused(change, message):
    """Each change moves, drops or adds a field."""
    use = """
llamacpp_lib.CONTEXT_LAYOUTS = {"changed": context}
llamacpp_lib.MODEL_LAYOUTS = {"changed": model}
abi.GgmlTensor = type("GgmlTensor", (ct.Structure,), {"_fields_": tensor})
abi.Batch = type("Batch", (ct.Structure,), {"_fields_": batch})
llamacpp_lib.FUNCTIONS["llama_batch_init"] = (abi.Batch, *llamacpp_lib.FUNCTIONS["llama_batch_init"][1:])
llamacpp_lib.FUNCTIONS["llama_batch_free"] = (None, abi.Batch)
"""
    said = library(change + use)
    assert said.startswith("refused")
    assert message in said
    if change.startswith(("context", "model")):
        assert "fits no layout known here\n  layout " in said
        assert "hint: compare" in said


@pytest.mark.oracle
def test_a_library_that_is_not_llamacpp_is_refused():
    said = library("from refembed.verify.engines import llamacpp_lib as l; import pathlib, _ctypes\n"
                   "l.wheel_file = lambda: pathlib.Path(_ctypes.__file__)")  # fmt: skip
    assert "not a llama.cpp this engine can drive; missing: llama_backend_init, llama_log_set" in said


def test_a_missing_wheel_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="the wheel xllamacpp carries it") as e:
        wheel_file()
    assert e.value.hint == INSTALL == f'pip install "xllamacpp=={PINNED}"'
