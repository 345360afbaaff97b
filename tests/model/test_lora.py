"""LoRA adapters on small random models against live llama.cpp, and against the matrices that they stand for.

Largest error of one operation on llama.cpp's own inputs, over the largest value, in `exact` and `fast`: as in
tests/model (xllamacpp 2026.10.11549).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import EngineError, GGUFError, ModelError, RefembedError, RequestError
from refembed.gguf import GGUFWriter, Tensor, open_gguf
from refembed.model import lora
from refembed.model.lora import EMBEDDING, AdaptedOps, Pair, load_adapter, read_spec
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_lora import synthetic_lora
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.copies import copied
from tests.heads_live import Headed
from tests.model.bits import some_ids

LOCAL, LOCAL_ROPE, LOCAL_GELU = 1e-6, 3e-6, 1.2e-3
WIDE = {"C": 64, "F": 96, "H": 4}
BIASES = {"attn_q.bias", "attn_v.bias", "ffn_up.bias", "attn_output.bias"}
HEAD = {"cls.weight", "cls.bias", "cls.output.weight"}
OUTPUT = {"output.weight"}
CAPPED = ("gemma3n", "gemma4")  # logits, which are capped in nodes without names behind the hidden states
CACHED = (
    "deepseek2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "gpt2", "gptneox", "k2-horizon", "llama", "olmo2",
    "qwen2moe", "qwen3",
)  # fmt: skip
ONE: list[dict[str, Any]] = [{}]
THREE = [{"seed": 0}, {"seed": 1, "rank": 3}, {"seed": 2, "alpha": None}]
SCALES = (0.7, 1.3, -0.45)


def typed(name: str) -> dict[str, Any]:
    """A model whose matrices are of that type."""
    return WIDE | {"type_name": name}


# model, its sizes, its adapters
# fmt: off
VARIANTS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "bert":                         ("bert", {"optional": BIASES}, ONE),
    "bert, fused qkv, two":         ("bert", {"optional": {"attn_qkv.weight", "attn_qkv.bias"}}, THREE[:2]),
    "jina-bert-v3, three tasks":    ("jina-bert-v3", {"optional": {"token_types.weight"}}, THREE),
    "jina-bert-v2":                 ("jina-bert-v2", {}, [{"rank": 1}]),
    "modern-bert":                  ("modern-bert", {}, ONE),
    "nomic-bert-moe":               ("nomic-bert-moe", {"X": 4}, THREE[:2]),
    "t5encoder":                    ("t5encoder", {}, ONE),
    "qwen3":                        ("qwen3", {"K": 2, "optional": OUTPUT}, [{"rank": 7}]),
    "gemma3":                       ("gemma3", {"K": 2, "optional": OUTPUT}, ONE),
    "gemma-embedding":              ("gemma-embedding", {"K": 2, "n_layer": 7}, ONE),
    "gemma3n":                      ("gemma3n", {"K": 2, "n_layer": 2, "optional": OUTPUT}, ONE),
    "gemma4, experts":              ("gemma4", {"K": 2, "X": 3, "optional": OUTPUT | {"ffn_gate_up_exps.weight"}}, ONE),
    "gpt-oss, two":                 ("gpt-oss", {"K": 2, "X": 3, "optional": BIASES}, THREE[:2]),
    "qwen2moe":                     ("qwen2moe", {"K": 2, "X": 3}, ONE),
    "gemma-embedding2":             ("gemma-embedding2", {"K": 2, "n_layer": 7}, ONE),
    "deepseek2":                    ("deepseek2", {"X": 3, "optional": OUTPUT}, ONE),
    "k2-horizon, experts":          ("k2-horizon", {"K": 2, "X": 3, "optional": OUTPUT | {"attn_gate.weight"}}, ONE),
    "llama, experts":               ("llama", {"K": 2, "X": 3, "optional": OUTPUT}, ONE),
    "gpt2":                         ("gpt2", {"optional": OUTPUT}, ONE),
    "gptneox":                      ("gptneox", {}, ONE),
    "olmo2, fused":                 ("olmo2", {"window": 0, "optional": {"attn_qkv.weight"}}, ONE),
    "bert Q8_0, Q8_0":              ("bert", typed("Q8_0"), [{"type_name": "Q8_0", "rank": 32}]),
    "bert Q4_0, F16":               ("bert", typed("Q4_0"), [{"type_name": "F16", "rank": 8}]),
    "bert Q4_0, Q4_0":              ("bert", typed("Q4_0"), [{"type_name": "Q4_0", "rank": 32}]),
    "bert BF16, BF16":              ("bert", typed("BF16"), [{"type_name": "BF16", "rank": 32}]),
}
# fmt: on


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, tuple[tuple[Path, float], ...]]]:
    """A variant's model, and its adapters with their scales; written when first asked for."""
    folder, made = tmp_path_factory.mktemp("lora"), {}

    def pair(name: str) -> tuple[Path, tuple[tuple[Path, float], ...]]:
        if name not in made:
            arch, sizes, about = VARIANTS[name]
            model = synthetic(folder / f"{len(made)}.gguf", arch, seed=len(name), P=256, pooling=1, **sizes)
            paths = [synthetic_lora(folder / f"{len(made)}-{i}.gguf", model, **a) for i, a in enumerate(about)]
            made[name] = model, tuple(zip(paths, SCALES, strict=False))
        return made[name]

    return pair


@pytest.mark.oracle
@pytest.mark.parametrize("variant", VARIANTS)
def test_adapted_models_are_llama_cpps(variant: str, files: Any) -> None:
    """`ggml`: every bit, alone and together; every named tensor has its partner, and is right on its own inputs."""
    model, adapters = files(variant)
    for switched in (False, True):  # flash attention, and repacked weights
        here = Headed(model, flash_attn=switched, repack=switched, lora=adapters)
        with here.engine() as engine:
            here = here.adding_as(engine)
            assert here.differing(engine) == {}
            if not switched:
                theirs = engine.trace(some_ids(19))
                if VARIANTS[variant][0] not in CAPPED:
                    assert here.unpaired(theirs) == []
                assert here.wrong(theirs) == []
    if "type_name" in VARIANTS[variant][1]:
        return
    for numerics in ("exact", "fast"):
        for d in replace(here, numerics=numerics).local(theirs):
            bound = LOCAL_ROPE if d.op == "ROPE" else LOCAL_GELU if "GELU" in d.op or "GEGLU" in d.op else LOCAL
            if VARIANTS[variant][0] in CACHED and d.name.startswith("kq"):  # the cache's 16 bits
                bound = max(bound, LOCAL_GELU)
            assert d.difference.rel_peak <= bound, f"{d.name}[{d.k}] {d.op}, {numerics}: {d.difference}"


def merged(model: Path, adapters: Any, to: Path) -> Path:
    """A model whose matrices are W + sum of scale alpha/r B A, stored as float32."""
    f, opened = open_gguf(model), [(open_gguf(file), scale) for file, scale in adapters]
    tensors = {}
    for name, t in f.tensors.items():
        x = t.dequantize().astype(np.float64)
        for g, scale in opened:
            if f"{name}.lora_a" in g.tensors:
                a, b = (g.tensors[f"{name}.lora_{end}"].dequantize().astype(np.float64) for end in "ab")
                alpha = g.metadata.float("adapter.lora.alpha", 0.0)
                x += scale * (alpha / b.shape[-1] if alpha else 1) * (a @ b.T if name == EMBEDDING else b @ a)
        tensors[name] = x.astype(np.float32)
    return copied(model, to, tensors=tensors)


@pytest.mark.parametrize("variant", ["bert", "jina-bert-v3, three tasks", "nomic-bert-moe", "llama, experts"])
def test_an_adapter_is_the_matrix_it_stands_for(variant: str, files: Any, tmp_path: Path) -> None:
    """W x + s B (A x) = (W + s B A) x: by an ordinary model, but for the float32 in which its matrices are stored."""
    model, adapters = files(variant)
    whole = Embedder.load(merged(model, adapters, tmp_path / "merged.gguf"), numerics="exact")
    for numerics, bound in (("exact", 2e-6), ("fast", 2e-5)):
        e = Embedder.load(model, numerics=numerics, lora=[f"{file}:{scale}" for file, scale in adapters])
        plain = Embedder.load(model, numerics=numerics)
        x, y, z = (m.embed([some_ids(40)], normalize=-1)[0] for m in (whole, e, plain))
        assert np.abs(x - y).max() <= bound * np.abs(x).max()
        assert np.abs(z - y).max() > 0.05 * np.abs(x).max()


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_a_texts_bits_do_not_depend_on_its_batch(numerics: str, files: Any) -> None:
    model, adapters = files("jina-bert-v3, three tasks")
    e = Embedder.load(model, numerics=numerics, lora=[f"{file}:{scale}" for file, scale in adapters])
    texts = [some_ids(n) for n in (9, 1, 33, 2, 17)]
    together = e.embed(texts)
    assert all(np.array_equal(e.embed([t])[0], v) for t, v in zip(texts, together, strict=True))
    assert np.array_equal(e.embed(texts[::-1])[::-1], together)


# --- faults, each of which the comparison has to see ----------------------------------------------------------------


def scale_without(what: str) -> Callable[..., Any]:
    """A scale in which something is left out, or wrong."""

    def scale_of(self: AdaptedOps, adapter: Any, pair: Pair) -> Any:
        s, alpha, r = np.float32(adapter.scale), np.float32(adapter.alpha), np.float32(pair.rank)
        return {
            "alpha": s,
            "r": s * alpha,
            "the user's": alpha / r,
            "the other axis": s * alpha / np.float32(pair.a.shape[-1]),
            "an ulp": np.nextafter(s * alpha / r, np.float32(9)),
        }[what]

    return scale_of


def linear_of(kind: str) -> Callable[..., Any]:
    """A product in which something stands in another place."""

    def linear(self: AdaptedOps, x: Any, w: Tensor, b: Any = None, tap: Any = lora.NO_TAP, product: str = "") -> Any:
        if w.name not in self.pairs:
            return self.base.linear(x, w, b, tap, product)
        (scale, p), *_ = self.pairs[w.name]
        y, bias = self.base.linear(x, w), 0 if b is None else self.bias(b)
        if kind == "scale first":
            return y + self.side.linear(self.side.linear(x * scale, p.a), p.b) + bias
        if kind == "scale between":
            return y + self.side.linear(self.side.linear(x, p.a) * scale, p.b) + bias
        if kind == "after the bias":
            return (y + bias) + self.side.linear(self.side.linear(x, p.a), p.b) * scale
        return y * (1 - scale) + self.side.linear(self.side.linear(x, p.a), p.b) * scale + bias

    return linear


def rows_without(self: AdaptedOps, w: Tensor, ids: Any) -> Any:
    """Token embeddings without their adapter."""
    return self.base.get_rows(w, ids)


def rows_of_all(self: AdaptedOps, w: Tensor, ids: Any) -> Any:
    """Kinds of token adapted too."""
    x = self.base.get_rows(w, ids)
    return x + np.float32(1e-3) if w.name == "token_types.weight" else ADAPTED_ROWS(self, w, ids)


def changed(change: Callable[[list[Any]], list[Any]]) -> Callable[..., Any]:
    """Something else than the adapters in their order of addition."""
    return lambda adapters, order: change(IN_ORDER(adapters, order))


def with_fields_of_next(*names: str) -> Callable[[list[Any]], list[Any]]:
    """Each adapter with these fields of the one after it."""
    return lambda found: [
        replace(a, **{n: getattr(b, n) for n in names}) for a, b in zip(found, found[1:] + found[:1], strict=True)
    ]


ADAPTED_ROWS, IN_ORDER = AdaptedOps.get_rows, lora.in_order
TASKS = "jina-bert-v3, three tasks"
ORDERS = list(permutations(range(3)))

# fmt: off
FAULTS: dict[str, tuple[str, Any, str, Any]] = {
    "alpha left out":           ("bert", AdaptedOps, "scale_of", scale_without("alpha")),
    "r left out":               ("bert", AdaptedOps, "scale_of", scale_without("r")),
    "the user's scale left out": ("bert", AdaptedOps, "scale_of", scale_without("the user's")),
    "r is the other axis":      ("bert", AdaptedOps, "scale_of", scale_without("the other axis")),
    "scale off by an ulp":      ("bert", AdaptedOps, "scale_of", scale_without("an ulp")),
    "scale before the product": ("bert", AdaptedOps, "linear", linear_of("scale first")),
    "scale between":            ("bert", AdaptedOps, "linear", linear_of("scale between")),
    "added after the bias":     ("bert", AdaptedOps, "linear", linear_of("after the bias")),
    "mixed, not added":         ("bert", AdaptedOps, "linear", linear_of("mixed")),
    "no token embeddings":      ("bert", AdaptedOps, "get_rows", rows_without),
    "kinds of token too":       (TASKS, AdaptedOps, "get_rows", rows_of_all),
    "order turned round":       (TASKS, lora, "in_order", changed(lambda found: found[::-1])),
    "the last two swapped":     (TASKS, lora, "in_order", changed(lambda found: [found[0], found[2], found[1]])),
    "an adapter added twice":   (TASKS, lora, "in_order", changed(lambda found: [*found, found[0]])),
    "an adapter left out":      (TASKS, lora, "in_order", changed(lambda found: found[1:])),
    "one adapter for all":      (TASKS, lora, "in_order", changed(lambda found: found[:1] * 3)),
    "another adapter's scale":  (TASKS, lora, "in_order", changed(with_fields_of_next("scale"))),
    "another adapter's alpha":  (TASKS, lora, "in_order", changed(with_fields_of_next("alpha"))),
    "experts forgotten":        ("nomic-bert-moe", AdaptedOps, "experts", lambda self, *a: self.base.experts(*a)),
}
# fmt: on


@pytest.mark.oracle
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault: str, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    variant, where, name, broken = FAULTS[fault]
    model, adapters = files(variant)
    with Headed(model, lora=adapters).engine() as engine:
        here, theirs = Headed(model, lora=adapters).adding_as(engine), engine.trace(some_ids(19))
    assert here.wrong(theirs) == []
    monkeypatch.setattr(where, name, broken)
    assert replace(here).wrong(theirs) != []


@pytest.mark.oracle
@pytest.mark.parametrize("given", ORDERS)
def test_the_order_of_addition_is_read_from_the_graph(given: tuple[int, ...], files: Any) -> None:
    """llama.cpp's order is chance; adapters given in every order make it add in several. Each is ours, and only it."""
    model, adapters = files(TASKS)
    with Headed(model, lora=tuple(adapters[i] for i in given)).engine() as engine:
        order = tuple(given[i] for i in engine.lora_order)  # as places in `adapters`
        theirs = engine.embed([some_ids(33)])[0].tobytes()
    assert [o for o in ORDERS if vector(model, adapters, o).tobytes() == theirs] == [order]
    ordered = [f"{file}:{scale}" for file, scale in (adapters[i] for i in order)]
    e = Embedder.load(model, numerics="ggml", flash_attn=False, repack=False, lora=ordered)
    assert e.embed([some_ids(33)], normalize=-1)[0].tobytes() == theirs


def vector(model: Path, adapters: Any, order: tuple[int, ...]) -> Any:
    """Of one text, the adapters added in this order."""
    return Headed(model, lora=adapters, lora_order=order).vectors([some_ids(33)])[0]


@pytest.mark.oracle
def test_the_order_of_adapters_that_are_switched_off_or_the_same_file(files: Any) -> None:
    """A scale of 0 stands last; one file twice is two adapters, distinguished by their addresses."""
    model, ((a, _), (b, _), _) = files(TASKS)
    with LlamaCpp(model, lora=[(a, 0.0), (b, 0.5), (a, 1.5)]) as engine:
        assert sorted(engine.lora_order) == [0, 1, 2]
        assert engine.lora_order[-1] == 0
        names = {s for node in engine.trace([1, 2]).meta["nodes"] for s in node["sources"] if "lora_b" in str(s)}
        assert {name.split(":")[0] for name in names} == {"lora 1", "lora 2"}
    here = Headed(model, lora=((a, 0.7), (a, -0.2)))
    with here.engine() as engine:
        assert sorted(engine.lora_order) == [0, 1]
        assert here.adding_as(engine).differing(engine) == {}


def test_an_order_of_addition_names_each_place_once(bert: Path, tmp_path: Path) -> None:
    adapters = [load_adapter(synthetic_lora(tmp_path / f"{i}.gguf", bert, seed=i), open_gguf(bert), i) for i in (0, 1)]
    assert lora.in_order(adapters, None) == adapters
    assert lora.in_order(adapters, (1, 0)) == adapters[::-1]
    for wrong in ((0,), (0, 0), (1, 2), (0, 1, 1)):
        with pytest.raises(RequestError, match="2 adapters have the places 0 to 1\n  hint: name each place once"):
            lora.in_order(adapters, wrong)


@pytest.mark.oracle
def test_repacked_adapters_would_be_found(files: Any) -> None:
    """llama.cpp repacks a model's Q4_0 matrices, an adapter's never; nor does `Embedder.load`."""
    model, adapters = files("bert Q4_0, Q4_0")
    here = Headed(model, flash_attn=True, repack=True, lora=adapters)
    e = Embedder.load(model, numerics="ggml", lora=[f"{file}:{scale}" for file, scale in adapters])
    with here.engine() as engine:
        (theirs,) = engine.embed([some_ids(33)])
        assert theirs.tobytes() == e.embed([some_ids(33)], normalize=-1)[0].tobytes()
        here.ops.side = here.ops.base  # type: ignore[attr-defined]
        assert here.differing(engine) != {}


# --- what an adapter is, and what is none ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to adapt: a reranker with kinds of token."""
    path = tmp_path_factory.mktemp("base") / "bert.gguf"
    return synthetic(path, "bert", pooling=4, optional=HEAD | {"token_types.weight"})


def test_a_spec_is_a_file_and_a_scale(tmp_path: Path) -> None:
    assert read_spec("a.gguf") == (Path("a.gguf"), 1.0)
    assert read_spec("a.gguf:0.5") == (Path("a.gguf"), 0.5)
    assert read_spec("a.gguf:-2e-1") == (Path("a.gguf"), -0.2)
    assert read_spec(r"C:\models\a.gguf") == (Path(r"C:\models\a.gguf"), 1.0)
    assert read_spec(r"C:\models\a.gguf:2") == (Path(r"C:\models\a.gguf"), 2.0)
    assert read_spec("dir:1/a.gguf") == (Path("dir:1/a.gguf"), 1.0)
    (tmp_path / "a:3").touch()
    assert read_spec(str(tmp_path / "a:3")) == (tmp_path / "a:3", 1.0)
    assert read_spec(Path("a:3")) == (Path("a:3"), 1.0)
    for wrong in ("a.gguf:half", "a.gguf:"):
        with pytest.raises(RequestError, match=r"is no number\n  hint: FILE, or FILE:SCALE"):
            read_spec(wrong)
    for wrong in ("a.gguf:nan", "a.gguf:inf"):
        with pytest.raises(RequestError, match="a scale must be finite"):
            read_spec(wrong)


def test_a_scale_of_0_is_no_adapter(bert: Path, tmp_path: Path) -> None:
    file, ids = synthetic_lora(tmp_path / "a.gguf", bert), some_ids(9)
    plain, off, on = (Embedder.load(bert, numerics="exact", lora=specs) for specs in ((), [f"{file}:0"], [file]))
    assert off.ops is not on.ops
    assert np.array_equal(plain.embed([ids]), off.embed([ids]))
    assert not np.array_equal(plain.embed([ids]), on.embed([ids]))
    assert np.array_equal(Embedder.load(bert, numerics="exact", lora=file).embed([ids]), on.embed([ids]))  # one alone
    broken = write_adapter(tmp_path / "nan.gguf", {}, {f"{Q}.lora_a": (4, 36), f"{Q}.lora_b": (36, 4)}, np.nan)
    with_zero = Embedder.load(bert, numerics="exact", lora=[file, f"{broken}:0"])
    assert np.array_equal(with_zero.embed([ids]), on.embed([ids]))  # not even looked at
    assert (off.adapters[0].scale, on.adapters[0].scale, on.adapters[0].alpha) == (0, 1, 8)


@pytest.mark.oracle
def test_what_llama_cpp_never_applies_is_named_and_not_applied(bert: Path, tmp_path: Path) -> None:
    """jina-embeddings-v3's tasks have kinds of token; heads are beyond LoRA's reach."""
    never = ["token_types.weight", "position_embd.weight", "cls.weight", "cls.output.weight"]
    task = {"adapter.lora.task_name": ("retrieval.query", "STRING"), "adapter.lora.prompt_prefix": ("Find: ", "STRING")}
    file = synthetic_lora(tmp_path / "a.gguf", bert, names={*never, "blk.0.attn_q.weight"}, keys=task)
    adapter = load_adapter(file, open_gguf(bert))
    assert (sorted(adapter.pairs), sorted(adapter.idle)) == (["blk.0.attn_q.weight"], sorted(never))
    assert (adapter.task, adapter.prompt_prefix) == ("retrieval.query", "Find: ")
    here = Headed(bert, "rank", lora=((file, 1.0),))
    with here.engine() as engine:
        theirs = engine.trace(some_ids(19))
        assert engine.embed([some_ids(19)])[0].tobytes() == here.vectors([some_ids(19)])[0].tobytes()
    assert here.wrong(theirs) == []


@pytest.mark.oracle
def test_adapted_token_embeddings_that_also_guess_words_make_llama_cpp_abort(tmp_path: Path) -> None:
    """It takes their adapter for the output matrix's too, where the file has no such matrix. Embedding needs none."""
    model = synthetic(tmp_path / "m.gguf", "qwen3", pooling=1)
    file = synthetic_lora(tmp_path / "a.gguf", model, names={EMBEDDING})
    with LlamaCpp(model, lora=[(file, 1.0)]) as engine, pytest.raises(EngineError, match="ggml_can_mul_mat"):
        engine.embed([some_ids(5)])
    assert math.isfinite(Embedder.load(model, lora=[file]).embed([some_ids(5)]).sum())


Q = "blk.0.attn_q.weight"
# how an adapter for `bert` (36 channels, 101 words) is damaged: keys, and tensors in place of its own
# fmt: off
DAMAGE: dict[str, tuple[dict[str, tuple[Any, str]], dict[str, tuple[int, ...]], str]] = {
    "not an adapter":       ({"general.type": ("model", "STRING")}, {}, "general.type is 'model', not 'adapter'"),
    "another architecture": ({"general.architecture": ("llama", "STRING")}, {}, "architecture is 'llama', not 'bert'"),
    "another kind":         ({"adapter.type": ("dora", "STRING")}, {}, "adapter.type is 'dora', not 'lora'"),
    "half a pair":          ({}, {f"{Q}.lora_a": (4, 36)}, "there is .lora_a alone"),
    "another suffix":       ({}, {f"{Q}.lora_c": (4, 36)}, "neither .lora_a nor .lora_b"),
    "no such tensor":       ({}, {"blk.9.attn_q.weight.lora_a": (4, 36), "blk.9.attn_q.weight.lora_b": (36, 4)},
                             "has no tensor 'blk.9.attn_q.weight'"),
    "too wide":             ({}, {f"{Q}.lora_a": (4, 37), f"{Q}.lora_b": (36, 4)}, "make no"),
    "too high":             ({}, {f"{Q}.lora_a": (4, 36), f"{Q}.lora_b": (35, 4)}, "make no"),
    "ranks that differ":    ({}, {f"{Q}.lora_a": (4, 36), f"{Q}.lora_b": (36, 5)}, "make no"),
    "the other way round":  ({}, {f"{Q}.lora_a": (36, 4), f"{Q}.lora_b": (4, 36)}, "make no"),
    "token_embd like the rest": ({}, {f"{EMBEDDING}.lora_a": (4, 36), f"{EMBEDDING}.lora_b": (101, 4)}, "make no"),
}
# fmt: on


@pytest.mark.oracle
@pytest.mark.parametrize("damage", DAMAGE)
def test_both_refuse_an_adapter_that_does_not_fit(damage: str, bert: Path, tmp_path: Path) -> None:
    keys, shapes, message = DAMAGE[damage]
    file = write_adapter(tmp_path / "a.gguf", keys, shapes or {f"{Q}.lora_a": (4, 36), f"{Q}.lora_b": (36, 4)})
    with pytest.raises(ModelError, match=message):
        Embedder.load(bert, lora=[file])
    with pytest.raises(EngineError, match="refuses this adapter"):
        LlamaCpp(bert, lora=[(file, 1.0)])


def write_adapter(
    path: Path, keys: dict[str, tuple[Any, str]], shapes: dict[str, tuple[int, ...]], times: float = 1.0
) -> Path:
    """An adapter of random numbers, so many times."""
    facts = {"general.type": ("adapter", "STRING"), "adapter.type": ("lora", "STRING")} | keys
    w = GGUFWriter(facts.pop("general.architecture", ("bert", ""))[0])
    for key, (value, kind) in facts.items():
        w.add(key, value, kind)
    for name, shape in shapes.items():
        w.add_tensor(name, (times * np.random.default_rng(0).standard_normal(shape)).astype(np.float32), shape, "F32")
    return w.write(path)


@pytest.mark.oracle
def test_norms_in_an_adapter_are_ignored_by_both(bert: Path, tmp_path: Path) -> None:
    shapes = {f"{Q}.lora_a": (4, 36), f"{Q}.lora_b": (36, 4), "blk.0.attn_output_norm.weight": (36,)}
    file = write_adapter(tmp_path / "a.gguf", {}, shapes)
    here = Headed(bert, "mean", lora=((file, 1.0),))
    with here.engine() as engine:
        assert engine.embed([some_ids(9)])[0].tobytes() == here.vectors([some_ids(9)])[0].tobytes()


def test_what_is_no_adapter_file_is_said_so(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"lora .*none\.gguf: no such file"):
        Embedder.load(bert, lora=[f"{tmp_path}/none.gguf:0.5"])
    (tmp_path / "x.gguf").write_bytes(b"hello")
    with pytest.raises(GGUFError, match=r"x\.gguf"):
        Embedder.load(bert, lora=[tmp_path / "x.gguf"])
    with pytest.raises(ModelError, match=r"general\.type is '', not 'adapter'"):
        Embedder.load(bert, lora=[bert])
    keys = {"adapter.lora.alpha": ("8", "STRING")}
    with pytest.raises(RefembedError, match=r"adapter\.lora\.alpha"):  # llama.cpp aborts here
        Embedder.load(bert, lora=[synthetic_lora(tmp_path / "a.gguf", bert, alpha=None, keys=keys)])


@pytest.mark.oracle
def test_the_last_product_takes_adapters_where_it_makes_the_vector(tmp_path: Path) -> None:
    """EmbeddingGemma 2's `output`; its per-layer inputs are projected without them."""
    names = {"output.weight", "per_layer_model_proj.weight"}
    path = synthetic(tmp_path / "m.gguf", "gemma-embedding2", n_layer=6)
    file = synthetic_lora(tmp_path / "a.gguf", path, names=names)
    adapter = load_adapter(file, open_gguf(path))
    assert (list(adapter.pairs), list(adapter.idle)) == (["output.weight"], ["per_layer_model_proj.weight"])
    here, plain = Headed(path, "mean", lora=((file, 1.0),)), Headed(path, "mean")
    with here.engine() as engine:
        theirs = engine.embed([some_ids(19)])[0].tobytes()
    assert here.vectors([some_ids(19)])[0].tobytes() == theirs != plain.vectors([some_ids(19)])[0].tobytes()
