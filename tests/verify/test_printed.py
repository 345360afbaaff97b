"""Printed runs end to end: a healthy one is within rounding, a faulty one has its first wrong tensor named.

Live llama.cpp runs the model, or the model with something changed in its file; `printed` prints what it computed.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, RequestError
from refembed.gguf import open_gguf
from refembed.model.trace import Trace, TracedTensor
from refembed.testing.synthetic import synthetic
from refembed.verify.engines.base import open_engine
from refembed.verify.report.text import text_report
from refembed.verify.run import verify
from tests.copies import copied
from tests.tiny import tiny_bert
from tests.verify.printed import printed

pytestmark = pytest.mark.system

TEXT = "hello world, the cat sat on a mat"
RECORDED = Path(__file__).parents[1] / "data" / "eval-callback-tiny.txt.gz"


@pytest.fixture(scope="module")
def recorded():
    """What llama.cpp's own printer wrote."""
    return gzip.decompress(RECORDED.read_bytes()).decode()


def judged(model, text, tmp_path, texts=(TEXT,)):
    """The verdict on a printed run."""
    path = tmp_path / "dump.txt"
    path.write_text(text)
    return verify(model, open_engine(str(path), model), list(texts) if texts else None)


def live(path, prompt=True, **options):
    """What llama.cpp computes of TEXT, printed."""
    with open_engine("llamacpp", path, **options) as engine:
        return printed(engine.trace(TEXT), prompt)


def altered(path, target, keys=None, tensors=None):
    """The file with some values of its metadata, some tensors, changed."""
    f = open_gguf(path)
    given = {key: (value, f.metadata.type_name(key)) for key, value in (keys or {}).items()}
    changed = {name: change(f.tensors[name].dequantize()) for name, change in (tensors or {}).items()}
    return copied(path, target, given, changed)


# -- what llama.cpp's own printer wrote ------------------------------------------------------------------------------


def test_a_healthy_dump_is_within_rounding(tiny, recorded, tmp_path):
    v = judged(tiny, recorded, tmp_path)
    assert (v.kind, v.cause, v.first_wrong_tensor, v.exit_code) == ("within rounding", "", None, 0)
    assert len(v.evidence.tensors) == 52
    assert "noise floor: how far exact, fast and ggml arithmetic are apart, tensor by tensor" in " ".join(
        text_report(v).split()
    )


@pytest.mark.parametrize("name", ["inp_embd", "kq_soft_max-1", "Vcur-0", "ffn_gelu-0", "result_embd_pooled"])
def test_one_number_that_is_off_is_found(tiny, recorded, tmp_path, name):
    """The last that is printed of that tensor, by 0.02; what comes behind is left as it was."""
    head = recorded.index(f" {name} = ")
    m = list(re.finditer(r"-?\d+\.\d{4}", recorded[head : recorded.index("sum =", head)]))[-1]
    spoiled = recorded[: head + m.start()] + f"{float(m[0]) + 0.02:.4f}" + recorded[head + m.end() :]
    v = judged(tiny, spoiled, tmp_path)
    assert (v.exit_code, v.first_wrong_tensor) == (3, name)


def test_a_sum_that_is_off_is_found(tiny, recorded, tmp_path):
    """Elements that are not printed show in the sum of all."""
    head = recorded.index("ffn_inp-1 = ")
    m = re.compile(r"sum = (-?[\d.]+)").search(recorded, head)
    spoiled = recorded[: m.start(1)] + f"{float(m[1]) + 3:.6f}" + recorded[m.end(1) :]
    v = judged(tiny, spoiled, tmp_path)
    assert (v.kind, v.first_wrong_tensor) == ("unexplained", "ffn_inp-1")


def test_a_number_that_is_not_finite_is_found(tiny, recorded, tmp_path):
    head = recorded.index("ffn_out-0 = ")
    m = re.compile(r"-?\d+\.\d{4}").search(recorded, head)
    v = judged(tiny, recorded[: m.start()] + "nan" + recorded[m.end() :], tmp_path)
    assert v.first_wrong_tensor.startswith("ffn_out-0")


# -- live llama.cpp, with a fault in its file ------------------------------------------------------------------------


@pytest.mark.oracle
def test_printed_is_what_llama_cpp_prints(tiny, recorded):
    """Line for line, but for the sizes of weights, which a trace does not have."""
    sizes = re.compile(r"\{\d+(, \d+)*\}(?=[,}])")
    log = re.compile(r"^[\d.]+ [IWED] ", re.MULTILINE)
    theirs = [re.sub(r"\s+", " ", log.sub("", x)).strip() for x in recorded.splitlines()]
    ours = [re.sub(r"\s+", " ", x).strip() for x in live(tiny, prompt=False).splitlines()]
    kept = [sizes.sub("", x) for x in theirs if x[:1] in "[].c s" or x.startswith(("...", "sum"))]
    assert [sizes.sub("", x) for x in ours] == [x for x in kept if x]


@pytest.mark.oracle
@pytest.mark.slow
def test_a_fault_in_one_layer_of_minilm_is_found(minilm, tmp_path):
    bad = altered(minilm, tmp_path / "bad.gguf", tensors={"blk.3.attn_v.bias": lambda x: 0 * x})
    v = judged(minilm, live(bad), tmp_path, texts=None)
    assert (v.kind, v.first_wrong_tensor) == ("unexplained", "Vcur-3[1]")
    bad = altered(minilm, tmp_path / "bad.gguf", {"bert.attention.layer_norm_epsilon": 1e-5})
    v = judged(minilm, live(bad), tmp_path, texts=None)
    assert [c.id for c in v.causes] == ["eps-1e-05"]


@pytest.mark.oracle
@pytest.mark.parametrize("outtype", ["f32", "q4_0"])
@pytest.mark.parametrize("fast", [False, True])
def test_minilm_is_within_rounding(outtype, fast, tmp_path):
    from refembed import hub

    path = hub.resolve("minilm", outtype=outtype)
    v = judged(path, live(path, flash_attn=fast, extra_buffer_types=fast), tmp_path, texts=None)
    assert (v.kind, v.first_wrong_tensor) == ("within rounding", None), v.cause
    assert len(v.evidence.tensors) == (120 if fast else 144)


@pytest.mark.oracle
@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "lfm2", "t5encoder", "nomic-bert-moe"])
def test_small_models_are_within_rounding(arch, tmp_path):
    """With a cache the scores printed are of 256 cells, of which only the first hold tokens."""
    X = 4 if arch == "nomic-bert-moe" else 0
    path = synthetic(tmp_path / "m.gguf", arch, pooling=1, X=X)
    v = judged(path, live(path), tmp_path, texts=None)
    assert (v.kind, v.first_wrong_tensor) == ("within rounding", None), v.cause


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("keys", "tensors", "cause", "first"),
    [
        ({"bert.attention.layer_norm_epsilon": 1e-3}, {}, "eps-0.001", "norm-0"),
        ({}, {"token_types.weight": lambda x: x[::-1].copy()}, "segment-1", "inp_embd"),
        ({}, {"blk.1.attn_v.bias": lambda x: 0 * x}, "tensor", "Vcur-1[1]"),
        ({}, {f"blk.{i}.attn_k.bias": lambda x: 0 * x for i in range(2)}, "attn_k-bias-missing", "Kcur-0[1]"),
        ({}, {"blk.1.ffn_down.bias": lambda x: 0 * x}, "tensor", "ffn_out-1"),
        ({}, {"token_embd.weight": lambda x: x + np.float32(0.01)}, "tensor", "embd"),
    ],
)
def test_a_fault_in_the_file_is_named(tiny, tmp_path, keys, tensors, cause, first):
    v = judged(tiny, live(altered(tiny, tmp_path / "bad.gguf", keys, tensors)), tmp_path, texts=None)
    assert v.exit_code == 3
    assert v.first_wrong_tensor == first
    assert [c.id for c in v.causes] == [cause]


@pytest.mark.oracle
def test_another_base_of_rope_is_named(tmp_path):
    good = synthetic(tmp_path / "good.gguf", "qwen3", K=2, pooling=3)
    bad = synthetic(tmp_path / "bad.gguf", "qwen3", K=2, pooling=3, keys={"rope.freq_base": (1e6, "FLOAT32")})
    v = judged(good, live(bad), tmp_path, texts=None)
    assert (v.kind, v.first_wrong_tensor) == ("differs", "Qcur-0[1]")
    assert [c.id for c in v.causes] == ["rope-base-1e+06"]


def test_gelu_in_its_other_form_is_named(minilm, tmp_path):
    """4e-4 off at the most, of which four decimals show enough."""
    from conformance.verify_faults import FAULTS

    broken = next(f for f in FAULTS if f.id == "gelu-erf").broken(Embedder.load(minilm, numerics="fast"))
    ours = broken.trace(TEXT)
    nodes = [{"type": "f32", "sources": [], "view_of": None} for _ in ours.tensors]
    taps = [TracedTensor(t.name, np.atleast_2d(t.array), "ADD") for t in ours.tensors]
    v = judged(minilm, printed(Trace(taps, {"nodes": nodes})), tmp_path)
    assert (v.kind, v.first_wrong_tensor) == ("differs", "ffn_gelu-0")
    assert [c.id for c in v.causes] == ["gelu-erf"]


# -- what cannot be compared -----------------------------------------------------------------------------------------


def test_another_model_is_said_to_be_one(recorded, tmp_path):
    wide = tiny_bert(tmp_path / "wide.gguf", C=64)
    v = judged(wide, recorded, tmp_path)
    assert (v.kind, v.exit_code) == ("differs", 3)
    assert v.cause == "the engine shows embd with 32 channels, where the reference has 64: another model"
    decoder = synthetic(tmp_path / "decoder.gguf", "qwen3", pooling=1)
    v = judged(decoder, f"token ids: 7, 101\n{recorded}", tmp_path, texts=None)
    assert v.cause == "the engine has token 101, where the reference's vocabulary ends at 100: another model"


def test_another_text_is_refused(tiny, recorded, tmp_path):
    with pytest.raises(EngineError, match="is a run of 11 tokens, the text has 3: another text, or another tokenizer"):
        judged(tiny, recorded, tmp_path, ["hello"])
    with pytest.raises(RequestError, match=r"is a run of one text, 2 were given"):
        judged(tiny, recorded, tmp_path, ["hello", "world"])
    with pytest.raises(RequestError, match="names neither its text nor its token ids"):
        judged(tiny, recorded, tmp_path, None)


def test_a_dump_that_is_cut_proves_nothing(tiny, recorded, tmp_path):
    """Where it agrees as far as it goes; a wrong tensor in it is reported all the same."""
    at = recorded.index("ffn_out-0 = ")
    cut = recorded[: at + 400]
    with pytest.raises(
        EngineError, match=r"ends in the middle of ffn_out-0 \(line \d+\): the \d+ tensors before it agree"
    ):
        judged(tiny, cut, tmp_path)
    m = re.compile(r"-?\d+\.\d{4}").search(cut, cut.index("ffn_inp-0 = "))
    v = judged(tiny, cut[: m.start()] + "9.0000" + cut[m.end() :], tmp_path)
    assert (v.exit_code, v.first_wrong_tensor) == (3, "ffn_inp-0")
    assert any("it ends in the middle of ffn_out-0" in r for r in v.evidence.remarks)


def test_tokens_that_differ_come_first(tiny, recorded, tmp_path):
    ids = Embedder.load(tiny).tokenize(TEXT)
    printed = f'{recorded}Input prompt: "{TEXT}"\nToken ids ({len(ids)}):\n'
    printed += "".join(f"x({i}) " for i in [*ids[:3], ids[3] + 1, *ids[4:]])
    v = judged(tiny, printed, tmp_path, None)
    assert (v.kind, v.first_wrong_tensor) == ("differs", "inp_tokens")
    assert [c.id for c in v.causes] == ["tokens"]
    assert len(v.evidence.ids) == 1


# -- the commands ----------------------------------------------------------------------------------------------------


def ask(*arguments):
    """Exit code and everything said."""
    done = subprocess.run([sys.executable, "-m", "refembed", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_refembed_verify(tiny, recorded, tmp_path):
    dump, texts = tmp_path / "dump.txt", tmp_path / "texts.txt"
    dump.write_text(recorded)
    texts.write_text(TEXT + "\n")
    code, said = ask("verify", tiny, "--against", dump, "--texts", texts)
    assert (code, "WITHIN ROUNDING" in said) == (0, True)
    dump.write_text(recorded.replace("sum = ", "sum = 9", 1))
    assert ask("verify", tiny, "--against", dump, "--texts", texts)[0] == 3
    page = tmp_path / "report.html"
    assert ask("verify", tiny, "--against", dump, "--texts", texts, "--html", page)[0] == 3
    assert page.stat().st_size > 1000


def test_refembed_diff(tiny, recorded, tmp_path):
    """A printed run agrees with a whole one to its last digit; one digit off is found."""
    dump, run = tmp_path / "dump.txt", tmp_path / "run.npz"
    dump.write_text(recorded)
    Embedder.load(tiny, numerics="ggml", flash_attn=False).trace(TEXT).save(run)
    assert ask("diff", run, dump, "--common")[0] == 0
    assert ask("diff", dump, run, "--common")[0] == 0
    assert ask("diff", dump, dump)[0] == 0
    m = re.compile(r"-?\d+\.\d{4}").search(recorded, recorded.index("ffn_inp-1 = "))
    dump.write_text(recorded[: m.start()] + f"{float(m[0]) + 0.0003:.4f}" + recorded[m.end() :])
    code, said = ask("diff", run, dump, "--common")
    assert code == 3
    assert "the first is ffn_inp-1" in said


@pytest.mark.parametrize("content", ["", "   \n\n", "no tensor here\n"])
def test_an_empty_dump_is_one_sentence(tiny, tmp_path, content):
    dump, texts = tmp_path / "dump.txt", tmp_path / "texts.txt"
    dump.write_text(content)
    texts.write_text(TEXT + "\n")
    with pytest.raises(EngineError) as e:
        open_engine(str(dump), tiny)
    assert e.value.exit_code == 1
    assert re.search("no recorded run|nothing recorded is recognized", str(e.value))
