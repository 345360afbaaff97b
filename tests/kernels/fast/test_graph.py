"""Texts whose operations were noted down: the bits of texts that never were, and no captured graph where that would
be wrong.
"""

from __future__ import annotations

import threading as threading_
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed import Embedder
from refembed.kernels import recurring, threads
from refembed.kernels.fast import graph
from refembed.kernels.fast.elementwise import gelu
from refembed.kernels.fast.graph import MAX_TOKENS
from refembed.kernels.fast.ops import Fast
from refembed.kernels.fast.thread_pool import spinning_pool
from refembed.kernels.numerics import load_ops
from refembed.kernels.ops import Rope
from refembed.kernels.wrapper import PatchedOps
from refembed.model import ARCHITECTURES
from refembed.model.batch import pack
from refembed.pipeline.vectors import cut_and_normalize
from refembed.testing.synthetic import synthetic
from tests.kernels.longhand import random, stored

pytestmark = pytest.mark.usefixtures("cores_as_they_were")


def plain(e: Embedder, ids: list[int]) -> bytes:
    """The vector without any captured graph: by the operations alone, among other texts."""
    ops, batch = load_ops(e.ops.name), pack([ids, [5, 6, 7]])
    ops.capture_or_replay = lambda given, layers, x, offsets=None: layers(x)  # type: ignore[method-assign]
    hidden = e.model.forward(batch, ops)
    return cut_and_normalize(ops.mean(hidden, batch.offsets)[0], 2).tobytes()


def embedder(tmp_path: Path, type_name: str = "F32", arch: str = "bert", **more: Any) -> Embedder:
    """A small model; where its weights are quantized, with rows of whole blocks."""
    wide: dict[str, Any] = {} if type_name == "F32" else {"C": 192, "F": 96, "D": 32}
    return Embedder.load(synthetic(tmp_path / f"{arch}-{type_name}.gguf", arch, type_name=type_name, **wide), **more)


def text(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(1, 40, n)]


def known(e: Embedder) -> list[Any]:
    assert isinstance(e.ops, Fast)
    return [graph for graph, _ in e.ops.graphs.known.values()]


@pytest.mark.parametrize("cores", [1, 2, 5])
@pytest.mark.parametrize("type_name", ["F32", "F16", "Q8_0"])
def test_a_replayed_text_has_the_bits_of_a_run_without_graphs(type_name: str, cores: int, tmp_path: Path) -> None:
    """Lengths in any order, each several times with other tokens."""
    threads.use(cores)
    e = embedder(tmp_path, type_name)
    for seed, n in enumerate([3, 8, 3, 24, 3, 1, 8, 25, 24, 30, 1, 25, 30]):
        ids = text(seed, n)
        assert e.embed([ids], pooling="mean")[0].tobytes() == plain(e, ids), n
    assert len(known(e)) == 6
    assert all(known(e))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_replayed_bits_do_not_depend_on_earlier_texts(
    lengths: list[int], shared: tuple[Embedder, Callable[[int], bytes]]
) -> None:
    e, want = shared
    found = [e.embed([text(n, n)], pooling="mean")[0].tobytes() for n in lengths]
    assert found == [want(n) for n in lengths]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Callable[[int], bytes]]:
    e = embedder(tmp_path_factory.mktemp("models"))
    kept = {n: plain(e, text(n, n)) for n in range(1, 13)}
    return e, kept.__getitem__


def test_replay_runs_the_captured_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second text of a length calls no operation of a layer; its captured graph, cut short, gives something
    else.
    """
    e, ids = embedder(tmp_path), text(2, 9)
    e.embed([text(1, 9)])
    want = plain(e, ids)
    monkeypatch.setattr(Fast, "attention", lambda *_, **__: pytest.fail("an operation was called"))
    assert e.embed([ids], pooling="mean")[0].tobytes() == want
    (graph,) = known(e)
    graph.recorded = graph.recorded[:-1]
    assert e.embed([ids], pooling="mean")[0].tobytes() != want


CAPTURED = {
    *("bloom", "chatglm", "cohere2", "command-r", "dream", "ernie4_5", "exaone", "exaone4", "falcon", "glm4", "gpt2"),
    *(
        "gptneox",
        "hunyuan-dense",
        "internlm2",
        "llada",
        "mpt",
        "nemotron",
        "olmo2",
        "phi2",
        "seed_oss",
        "stablelm",
        "starcoder2",
    ),
    *(
        "bert",
        "eurobert",
        "gemma",
        "gemma2",
        "gemma3",
        "gemma4",
        "gemma-embedding",
        "gemma-embedding2",
        "granite",
        "granitemoe",
    ),
    *(
        "jina-bert-v2",
        "jina-bert-v3",
        "k2-horizon",
        "llama",
        "llama-embed",
        "minicpm",
        "mistral3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "phi3",
        "qwen2",
        "qwen2vl",
        "qwen3",
    ),
    *("qwen3vl", "smollm3", "t5encoder", "falcon-h1", "granitehybrid", "mamba", "mamba2", "qwen35"),
}


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_architecture_is_replayed_whose_operations_can_be_captured(arch: str, tmp_path: Path) -> None:
    """The others' layers go through NumPy: gates (lfm2), streams (gemma3n), mixtures (rwkv7), a choice of experts."""
    e = embedder(tmp_path, arch=arch)
    for seed in range(3):
        for n in (5, 9):
            ids = text(seed, n)
            assert e.embed([ids], pooling="mean")[0].tobytes() == plain(e, ids), n
    tried = arch not in ("gemma3n", "lfm2", "lfm2moe", "nomic-bert-moe", "rwkv7")
    assert [graph is not None for graph in known(e)] == [arch in CAPTURED] * 2 * tried


def test_vectors_wider_than_the_model_are_replayed(tmp_path: Path) -> None:
    """EmbeddingGemma 2's last product makes 50 channels of 36."""
    path = synthetic(tmp_path / "m.gguf", "gemma-embedding2", keys={"embedding_length_out": (50, "UINT32")})
    e = Embedder.load(path)
    for seed, n in enumerate((5, 9, 5, 9, 5)):
        ids = text(seed, n)
        assert e.embed([ids], pooling="mean")[0].tobytes() == plain(e, ids), n
    assert len(known(e)) == 2
    assert all(known(e))


def test_places_that_are_not_the_usual_ones_are_not_replayed(tmp_path: Path) -> None:
    """RoPE's angles are part of a graph."""
    e, ids = embedder(tmp_path, arch="qwen3"), text(2, 9)
    for _ in range(2):
        e.forward([ids])
    b = pack([ids])
    moved = replace(b, pos=2 * b.pos)
    want = e.model.forward(moved, load_ops("exact"))
    assert np.abs(e.model.forward(moved, e.ops) - want).max() < 1e-4
    assert np.abs(e.forward([ids]) - want).max() > 1e-3


def test_who_looks_sees_every_operation(tmp_path: Path) -> None:
    e, ids = embedder(tmp_path), text(2, 9)
    for _ in range(2):
        e.embed([ids], pooling="mean")
    trace = e.trace(ids)
    assert {"kq_soft_max-0", "ffn_gelu-0"} <= set(trace)
    assert trace.tensors[-1].array.tobytes() == e.embed([ids], normalize=-1)[0].tobytes()


def test_changed_operations_neither_play_nor_are_noted(tmp_path: Path) -> None:
    e, ids = embedder(tmp_path), text(2, 9)
    true = [e.forward([ids]).tobytes() for _ in range(2)]
    changed = PatchedOps(e.ops, {"gelu": lambda ops, x: ops.silu(x)})
    other = [e.model.forward(pack([ids]), changed) for _ in range(2)]  # type: ignore[arg-type]
    assert other[0].tobytes() == other[1].tobytes() != true[0]
    assert e.forward([ids]).tobytes() == true[0] == true[1]
    assert len(known(e)) == 1


def test_a_text_of_more_than_max_tokens_is_not_captured() -> None:
    ops, x = Fast(), np.zeros((MAX_TOKENS + 1, 4), np.float32)
    for _ in range(3):
        ops.graphs.run((), lambda x: x + 1, x)
    assert not ops.graphs.known


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("arch", ["bert", "qwen3", "bloom", "modern-bert"])
def test_texts_of_the_same_lengths_are_replayed_together(
    arch: str, busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third time on, other lengths in between; also by a thread that computes by itself."""
    e = embedder(tmp_path, arch=arch)
    monkeypatch.setattr(threads.own, "busy", busy)
    for seed in range(4):
        for lengths in ((5, 9, 3), (9, 5, 3), (17,), (17, 0)):
            texts = [text(seed + n, n) for n in lengths if n]
            batch = pack(texts)
            found = e.ops.mean(e.model.forward(batch, e.ops), batch.offsets)  # type: ignore[arg-type]
            for ids, vector in zip(texts, found, strict=True):
                assert cut_and_normalize(vector, 2).tobytes() == plain(e, ids), (seed, lengths)
    cache = e.ops.graphs.own.cache if busy else e.ops.graphs  # type: ignore[attr-defined]
    assert cache is not None
    assert len(cache.known) == 3
    assert all(graph for graph, _ in cache.known.values())
    assert not cache.seen
    monkeypatch.setattr(Fast, "attention", lambda *_, **__: pytest.fail("an operation was called"))
    e.model.forward(pack([text(7, n) for n in (9, 5, 3)]), e.ops)  # type: ignore[arg-type]


def test_lengths_that_came_once_are_forgotten_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurring, "MAX_SEEN", 5)
    ops, x = Fast(), random(1, 12, 48)
    for i in range(1, 12):
        ops.capture_or_replay((), ops.gelu, x, np.array([0, i, 12]))
    assert not ops.graphs.known
    assert len(ops.graphs.seen) == 5
    ops.capture_or_replay((), ops.gelu, x, np.array([0, 6, 12]))
    ops.capture_or_replay((), ops.gelu, x, np.array([0, 8, 12]))
    assert len(ops.graphs.known) == 1


def test_more_kinds_of_batches_than_there_is_room_for_do_not_drive_each_other_out() -> None:
    ops, x = Fast(), random(1, recurring.MAX_KEPT + 20, 4)
    replayed: list[int] = []
    for turn in range(4):
        for i in range(1, len(x)):
            called: list[int] = []
            ops.capture_or_replay((), lambda x, c=called: (c.append(1), ops.gelu(x))[1], x, np.array([0, i, len(x)]))  # type: ignore[misc]
            replayed += [i] * (turn > 1 and not called)
    assert replayed == 2 * list(range(1, recurring.MAX_KEPT + 1))
    for _ in range(recurring.MAX_SEEN + 2):
        ops.capture_or_replay((), ops.gelu, x, np.array([0, 2, len(x)]))
    for _ in range(2):
        ops.capture_or_replay((), ops.gelu, x, np.array([0, 3, 5, len(x)]))
    assert len(ops.graphs.known) == len(ops.graphs.used) == recurring.MAX_KEPT
    assert (*(), x.shape, np.array([0, 3, 5, len(x)]).tobytes()) in ops.graphs.known


def test_weights_that_are_decoded_as_they_are_used_are_never_noted(tmp_path: Path) -> None:
    """Their panels are overwritten by the next matrix."""
    e = embedder(tmp_path, "Q8_0", memory_budget="mapped")
    for seed in range(3):
        ids = text(seed, 30)
        assert e.embed([ids], pooling="mean")[0].tobytes() == plain(e, ids)
    assert known(e) == [None]


def elsewhere(x: Any) -> Any:
    """GELU by a captured task, but into memory of the caller's."""
    out = np.empty_like(x)
    spinning_pool.parallel_for(gelu, x, out, rows=len(x), size=1)
    return out


def uncaptured(ops: Any, x: Any) -> Any:
    """GELU into the graph's memory, but by no task."""
    out = ops.empty(x.shape)
    gelu(x, out, 0, len(x))
    return out


W, G = stored(random(1, 48, 48), "w"), stored(random(2, 48), "g")


@pytest.mark.parametrize(
    "operations",
    [
        lambda ops, x: ops.linear(ops.linear(x, W) + 1, W),  # by NumPy, into memory of its own
        lambda ops, x: ops.linear(x[:, ::-1], W),
        lambda ops, x: ops.linear(x, W) * 2,
        lambda ops, x: np.add(ops.linear(x, W), 1, out=ops.empty(x.shape)),  # and into the graph's
        lambda ops, x: ops.linear(np.add(ops.linear(x, W), 1, out=ops.empty(x.shape)), W),
        lambda ops, x: ops.linear(uncaptured(ops, ops.linear(x, W)), W),  # by a kernel that is not captured
        lambda ops, x: [ops.gelu(x) is x, ops.linear(uncaptured(ops, x), W)][1],  # into memory that a job had before
        lambda ops, x: ops.linear(elsewhere(x), W),
        lambda ops, x: ops.linear(x, W)[:, :24],  # columns of an activation: its rows are apart in memory
        lambda ops, x: ops.add_layer_norm(x, x * 2, G, G, 1e-5),
        lambda ops, x: np.ones_like(x),
    ],
)
def test_work_that_is_no_registered_kernel_leaves_no_graph(operations: Callable[[Any, Any], Any]) -> None:
    ops = Fast()
    for seed in range(4):
        x = random(seed, 7, 48)
        want = np.array(operations(Fast(), x))
        assert ops.capture_or_replay((W,), lambda x: operations(ops, x), x).tobytes() == want.tobytes()
    assert [graph for graph, _ in ops.graphs.known.values()] == [None]


@pytest.mark.parametrize(
    "operations",
    [
        lambda ops, x: x,
        lambda ops, x: ops.linear(x, W)[:3],  # rows of an activation
        lambda ops, x: ops.linear(x, W, G),
        lambda ops, x: ops.add_layer_norm(ops.gelu(ops.linear(x, W)), x, G, None, 1e-5),
        lambda ops, x: ops.swiglu(*ops.linears(x, [(W, None), (W, G), (W, None)])[:2]),
        lambda ops, x: ops.rms_norm(ops.geglu(ops.silu(x), x), G, 1e-5),
        lambda ops, x: ops.multiply(ops.gelu_erf(ops.add(x, ops.scale(x, 0.3))), x),
        lambda ops, x: ops.add(*ops.split(ops.linear(x, stored(random(7, 96, 48), "wide")), [48, 48])),
        lambda ops, x: ops.rope(x.reshape(7, 4, 12), np.arange(7), Rope(8, "norm", 1e4)).reshape(7, 48),
    ],
)
def test_what_is_leaves_one(operations: Callable[[Any, Any], Any]) -> None:
    ops = Fast()
    for seed in range(4):
        x = random(seed, 7, 48)
        want = np.array(operations(Fast(), x))
        assert ops.capture_or_replay((W,), lambda x: operations(ops, x), x).tobytes() == want.tobytes()
    ((graph, _),) = ops.graphs.known.values()
    assert graph is not None


def test_graphs_are_kept_by_their_inputs() -> None:
    ops, x = Fast(), random(3, 5, 48)
    models = [object(), object()]
    for _ in range(3):
        for model, times in zip(models, (1, 2), strict=True):
            y = x
            for _ in range(times):
                y = Fast().silu(y)
            got = ops.capture_or_replay((model,), lambda x, n=times: ops.silu(x if n == 1 else ops.silu(x)), x)  # type: ignore[misc]
            assert got.tobytes() == y.tobytes()


def test_a_result_is_its_callers() -> None:
    """The next text does not change it, nor does the caller what was given."""
    ops, a, b = Fast(), random(1, 5, 48), random(2, 5, 48)
    first = [ops.capture_or_replay((), ops.gelu, a) for _ in range(2)]
    kept = first[1].copy()
    ops.capture_or_replay((), ops.gelu, b)
    assert np.array_equal(first[0], kept)
    assert np.array_equal(first[1], kept)


def test_captured_graphs_and_their_arrays_are_bounded() -> None:
    ops = Fast()
    for n in [*range(1, recurring.MAX_KEPT + 20), *range(recurring.MAX_KEPT + 20, 1, -1)]:
        x = random(n, n, 48)
        assert (
            ops.capture_or_replay((), lambda x: ops.gelu(ops.silu(x)), x).tobytes()
            == Fast().gelu(Fast().silu(x)).tobytes()
        )
    assert len(ops.graphs.known) == recurring.MAX_KEPT
    assert len(ops.graphs.pool.blocks) == 3
    assert {len(block) for block in ops.graphs.pool.blocks} == {MAX_TOKENS * 48}


def test_texts_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    """One plays, the others compute."""
    threads.use(3)
    e = embedder(tmp_path)
    texts = {(n, seed): text(seed, n) for n in (4, 9) for seed in range(4)}
    want = {key: plain(e, ids) for key, ids in texts.items()}
    wrong: list[Any] = []

    def one(which: int) -> None:
        for i in range(200):
            key = list(texts)[(i * 7 + which) % len(texts)]
            if e.embed([texts[key]], pooling="mean")[0].tobytes() != want[key]:
                wrong.append(key)

    those = [threading_.Thread(target=one, args=(which,)) for which in range(4)]
    for t in those:
        t.start()
    for t in those:
        t.join(120)
    assert not any(t.is_alive() for t in those)
    assert wrong == []
    assert len(known(e)) == 2


def test_an_operation_that_fails_leaves_nothing_behind() -> None:
    ops, x = Fast(), random(1, 5, 48)

    def fails(x: Any) -> Any:
        ops.gelu(x)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ops.capture_or_replay((), fails, x)
    assert spinning_pool.own.graph is None
    free: list[bool] = []
    other = threading_.Thread(target=lambda: free.append(ops.graphs.lock.acquire(blocking=False)))
    other.start()
    other.join()
    assert free == [True]
    assert not ops.graphs.known
    ops.graphs.lock = threading_.RLock()  # the other thread ended with it
    assert ops.capture_or_replay((), ops.gelu, x).tobytes() == Fast().gelu(x).tobytes()


def test_what_an_interruption_left_is_cleared_away_by_the_same_thread() -> None:
    """A lock that was taken and not given back, a graph half captured, and a slot that is this thread's."""
    ops, x = Fast(), random(1, 5, 48)
    ops.graphs.lock.acquire()
    slot = spinning_pool.take()
    assert slot is not None
    want = Fast().gelu(x).tobytes()
    assert ops.capture_or_replay((), ops.gelu, x).tobytes() == want
    assert spinning_pool.slot is not slot
    assert not ops.graphs.lock._is_owned()  # type: ignore[attr-defined]
    assert spinning_pool.take() is not None
    spinning_pool.settle()


def test_a_helper_that_is_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no patience at all, each job is waited for in Python, and the rest done after it."""
    threads.use(3)
    ops = Fast()
    big = stored(random(5, 480, 480), "big")
    monkeypatch.setitem(graph.spinning_pool.__class__.replay.__globals__, "SPIN_LIMIT", 0)
    for seed in range(50):
        x = random(seed, 7, 480)
        want = Fast().gelu(Fast().linear(Fast().gelu(Fast().linear(x, big)), big))
        got = ops.capture_or_replay((big,), lambda x: ops.gelu(ops.linear(ops.gelu(ops.linear(x, big)), big)), x)
        assert got.tobytes() == want.tobytes()


def test_without_a_thread_pool_no_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with little to do neither compiles nor loads what plays captured graphs."""
    ops, x = Fast(), random(1, 5, 48)
    monkeypatch.setattr(spinning_pool, "loading", None)
    monkeypatch.setattr(spinning_pool, "seen", 0)
    for _ in range(3):
        ops.capture_or_replay((), ops.gelu, x)
    assert not ops.graphs.known


def test_threads_that_compute_by_themselves_have_graphs_of_their_own() -> None:
    """Each captures what comes a second time, in arrays that no other thread writes."""
    ops, wrong, caches = Fast(), [], []

    def one(seed: int) -> None:
        threads.own.busy = True
        for i in range(100):
            x = random(seed + i, 5 + i % 3, 48)
            if ops.capture_or_replay((), lambda x: ops.gelu(ops.silu(x)), x).tobytes() != want(x):
                wrong.append((seed, i))
        caches.append(ops.graphs.own.cache)

    def want(x: Any) -> bytes:
        own = Fast()
        return bytes(own.gelu(own.silu(x)).tobytes())

    those = [threading_.Thread(target=one, args=(1000 * seed,)) for seed in range(3)]
    for t in those:
        t.start()
    for t in those:
        t.join(120)
    assert not wrong
    assert [len(cache.known) for cache in caches] == [3, 3, 3]
    assert len({id(block) for cache in caches for block in cache.pool.blocks}) == 9
    assert not ops.graphs.known
