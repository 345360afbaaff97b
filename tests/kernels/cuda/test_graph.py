"""Captured graphs of short texts: the bits of passes without them, whatever came between, and none where that is wrong.

fake_cupy.py stands in for CuPy: its streams note launches with the pointers they have, its graphs run them with those
very pointers, and memory that nothing keeps is filled with NaN and given to others.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refembed import Embedder
from refembed.kernels import recurring
from refembed.kernels.cuda import graph as graphs
from refembed.kernels.cuda.graph import Capture, CapturedGraph, GraphCache
from refembed.kernels.cuda.ops import Cupy
from refembed.kernels.numerics import load_ops
from refembed.model import ARCHITECTURES
from refembed.model.batch import pack
from refembed.testing.synthetic import synthetic
from tests.kernels.cuda.fake_cupy import FakeCupy, FakeGraph
from tests.kernels.cuda.on_cpu import OnCpu
from tests.kernels.longhand import random, stored


def text(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng([seed, n]).integers(1, 40, n)]


def embedder(folder: Path, arch: str = "bert", **more: Any) -> Embedder:
    return Embedder.load(synthetic(folder / f"{arch}.gguf", arch, n_layer=2), numerics="cupy", **more)


def cache(e: Embedder) -> GraphCache:
    assert isinstance(e.ops, Cupy)
    return e.ops.graphs


def known(e: Embedder) -> list[CapturedGraph | None]:
    return [graph for graph, *_ in cache(e).known.values()]


class Plain:
    """Vectors of texts without graphs: by the kernels alone, on a device of its own."""

    def __init__(self, e: Embedder, built: Path) -> None:
        self.e = Embedder(e.info, e.tokenizer, e.model, Cupy(OnCpu(built)))
        assert not cache(self.e).enabled

    def __call__(self, texts: list[list[int]]) -> bytes:
        return np.asarray(self.e.embed(texts, pooling="mean")).tobytes()


def embed(e: Embedder, texts: list[list[int]]) -> bytes:
    return np.asarray(e.embed(texts, pooling="mean")).tobytes()


def test_a_replayed_text_has_the_bits_of_a_pass_without_graphs(fake: FakeCupy, tmp_path: Path, built: Path) -> None:
    """Lengths in any order, each several times with other tokens, longer ones in between."""
    e = embedder(tmp_path)
    plain = Plain(e, built)
    for seed, n in enumerate([3, 8, 3, 20, 3, 1, 8, 25, 3, 8, 20, 1, 8, 3, 25, 1, 20, 25, 20, 1]):
        assert embed(e, [text(seed, n)]) == plain([text(seed, n)]), (seed, n)
    assert len(known(e)) == 5
    assert all(known(e))
    assert [graph.launched for graph in fake.captured if graph.launched > 3] != []


def test_replay_launches_a_graph_and_nothing_of_the_layers(
    fake: FakeCupy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    e = embedder(tmp_path)
    for seed in range(3):  # seen, captured, compared
        embed(e, [text(seed, 8)])
    (graph,) = fake.captured
    (own,) = known(e)
    assert own is not None
    assert own.proven is None
    called: list[str] = []
    true = fake.launch
    monkeypatch.setattr(fake, "launch", lambda name, *rest: (called.append(name), true(name, *rest)))
    before = graph.launched
    embed(e, [text(5, 8)])
    assert graph.launched == before + 1
    assert "mean" in called  # pooling, like embeddings, is not the layers'
    assert called.count("columns") == 2  # in and out
    of_layers = {"matmul_few", "attention_64", "gelu"}
    assert of_layers <= {name for name, *_ in graph.launches}
    assert not of_layers & set(called)


def test_a_launch_less_is_another_vector(fake: FakeCupy, tmp_path: Path, built: Path) -> None:
    """What stands in for a graph does run what was noted."""
    e = embedder(tmp_path)
    for seed in range(3):
        embed(e, [text(seed, 8)])
    (graph,) = fake.captured
    del graph.launches[5]
    assert embed(e, [text(5, 8)]) != Plain(e, built)([text(5, 8)])


def test_texts_that_share_a_pass_are_replayed_where_the_same_lengths_come_again(
    fake: FakeCupy, tmp_path: Path, built: Path
) -> None:
    e = embedder(tmp_path)
    plain = Plain(e, built)
    for seed, lengths in enumerate(
        [(3, 8), (8, 3), (3, 8), (11,), (3, 8), (8, 3), (11,), (3, 8), (8, 3), (11,), (8, 3)]
    ):
        texts = [text(seed, n) for n in lengths]
        assert embed(e, texts) == plain(texts), (seed, lengths)
    assert len(known(e)) == 3
    assert all(known(e))


NOT_CAPTURED = {  # NumPy computes between their operations: it chooses experts, for one
    "deepseek2", "gpt-oss", "llada-moe", "olmoe", "phimoe", "qwen2moe", "qwen3moe", "qwen35moe", "qwen3next",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_architecture_has_the_bits_of_passes_without_graphs(
    arch: str, fake: FakeCupy, tmp_path: Path, built: Path
) -> None:
    check_architecture(arch, tmp_path, built)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3", "mamba2", "qwen3moe"])
def test_architectures_have_the_bits_of_passes_without_graphs(
    arch: str, fake: FakeCupy, tmp_path: Path, built: Path
) -> None:
    check_architecture(arch, tmp_path, built)


def check_architecture(arch: str, folder: Path, built: Path) -> None:
    e = embedder(folder, arch)
    plain = Plain(e, built)
    for seed in range(5):
        for n in (5, 9):
            assert embed(e, [text(seed, n)]) == plain([text(seed, n)]), (seed, n)
    found = {graph is not None for graph in known(e)}
    assert found == ({arch not in NOT_CAPTURED} if cache(e).known else set())


def test_a_longer_texts_table_of_angles_does_not_take_away_a_graphs(
    fake: FakeCupy, tmp_path: Path, built: Path
) -> None:
    """The table that the graph reads would go back to the pool, and be another's."""
    e = embedder(tmp_path, "qwen3")
    plain = Plain(e, built)
    for seed in range(3):
        embed(e, [text(seed, 8)])
    for n in (9, 40, 70):  # each of these makes a longer table
        embed(e, [text(0, n)])
    assert all(known(e))
    assert embed(e, [text(7, 8)]) == plain([text(7, 8)])


def test_what_a_graph_does_not_keep_shows_as_another_vector(
    fake: FakeCupy, tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in notices a stale pointer: the test before this one can fail. (Tables alone: places would be wild.)"""

    class Forgetful(Capture):
        def record(self, launch: Any, arguments: Any) -> None:
            super().record(launch, [x for x in arguments if getattr(x, "dtype", None) != np.float32])

    monkeypatch.setattr(graphs, "Capture", Forgetful)
    e = embedder(tmp_path, "qwen3")
    for seed in range(3):
        embed(e, [text(seed, 8)])
    for n in (9, 40, 70):
        embed(e, [text(0, n)])
    assert not np.array_equal(e.forward([text(7, 8)]), Plain(e, built).e.forward([text(7, 8)]))


class TestOperations:
    """One operation or two, in place of a model's layers."""

    def run(self, ops: Any, layers: Callable[[Any], Any], *seeds: int, rows: int = 4, given: Any = ()) -> list[Any]:
        return [np.asarray(ops.capture_or_replay(given, layers, random(seed, rows, 6))) for seed in seeds]

    def graph(self, ops: Any) -> CapturedGraph | None:
        ((graph, *_),) = ops.graphs.known.values()
        return graph  # type: ignore[no-any-return]

    def test_what_numpy_computes_in_between_is_not_captured(
        self, fake: FakeCupy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It comes back from the host as another array, which a graph would not read again."""
        ops: Any = load_ops("cupy")
        got = self.run(ops, lambda x: ops.silu(np.sort(x, axis=1)), *range(5))
        assert self.graph(ops) is None
        assert caplog.text == ""  # no other bits showed it
        for seed, y in enumerate(got):
            assert np.allclose(y, load_ops("exact").silu(np.sort(random(seed, 4, 6), axis=1)), atol=1e-6)

    def test_what_numpy_makes_of_weights_alone_is_captured(self, fake: FakeCupy) -> None:
        """As T5's biases: the same for every text."""
        ops: Any = load_ops("cupy")
        table = stored(random(1, 6, 4))
        got = self.run(ops, lambda x: ops.add(x, np.sort(ops.get_rows(table, range(6)).T, axis=1)), *range(5))
        assert self.graph(ops) is not None
        for seed, y in enumerate(got):
            assert np.array_equal(y, random(seed, 4, 6) + np.sort(random(1, 6, 4).T, axis=1))

    def test_rows_that_are_looked_up_are_not_captured(self, fake: FakeCupy, caplog: pytest.LogCaptureFixture) -> None:
        ops: Any = load_ops("cupy")
        table, ids = stored(random(1, 9, 6)), [1, 2, 3, 4]
        self.run(ops, lambda x: ops.add(x, ops.get_rows(table, ids)), *range(5))
        assert self.graph(ops) is None
        assert caplog.text == ""  # no other bits showed it

    def test_weights_that_are_not_kept_are_not_captured(self, fake: FakeCupy, caplog: pytest.LogCaptureFixture) -> None:
        ops: Any = load_ops("cupy", memory_budget=0)
        w = stored(random(1, 6, 6))
        want = random(4, 4, 6) @ random(1, 6, 6).T
        assert np.allclose(self.run(ops, lambda x: ops.linear(x, w), *range(5))[-1], want, atol=1e-5)
        assert self.graph(ops) is None
        assert caplog.text == ""  # no other bits showed it

    def test_a_result_on_the_host_is_not_captured(self, fake: FakeCupy) -> None:
        ops: Any = load_ops("cupy")
        got = self.run(ops, lambda x: np.sort(x, axis=0), *range(4))
        assert np.array_equal(got[3], np.sort(random(3, 4, 6), axis=0))
        assert self.graph(ops) is None

    def test_what_depends_on_the_text_in_a_way_that_is_not_seen_is_noticed(
        self, fake: FakeCupy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Layers that break their promise: the second text shows it, and no vector was wrong."""
        ops: Any = load_ops("cupy")
        hidden = [0.0]

        def layers(x: Any) -> Any:
            return ops.scale(x, hidden[0])

        for seed, factor in enumerate([1.0, 1.0, 2.0, 3.0]):
            hidden[0] = factor
            assert np.array_equal(self.run(ops, layers, seed)[0], random(seed, 4, 6) * np.float32(factor))
        assert self.graph(ops) is None
        assert "a CUDA graph gave other bits than the pass itself" in caplog.text

    def test_a_result_is_no_graphs_memory(self, fake: FakeCupy) -> None:
        """What a caller keeps, of whichever pass, later passes do not write."""
        ops: Any = load_ops("cupy")
        kept = [ops.capture_or_replay((), ops.gelu, random(seed, 4, 6)) for seed in range(6)]
        plain: Any = load_ops("cupy")
        want = [np.asarray(plain.gelu(random(seed, 4, 6))) for seed in range(6)]
        assert np.array_equal([np.asarray(y) for y in kept], want)

    def test_one_text_again_and_again_is_replayed(self, fake: FakeCupy) -> None:
        """Its bits are known; for another one the pass is computed too, once."""
        ops: Any = load_ops("cupy")
        passes: list[int] = []

        def layers(x: Any) -> Any:
            passes.append(1)
            return ops.gelu(x)

        first = self.run(ops, layers, 1, 1, 1, 1, 1)
        assert len(passes) == 2
        assert len({y.tobytes() for y in first}) == 1
        self.run(ops, layers, 2, 3, 4, 1)
        assert len(passes) == 3

    def test_a_pass_that_fails_leaves_nothing_behind(self, fake: FakeCupy) -> None:
        ops: Any = load_ops("cupy")
        times: list[int] = []

        def layers(x: Any) -> Any:
            times.append(1)
            y = ops.gelu(x)
            if len(times) == 2:
                raise KeyboardInterrupt
            return ops.silu(y)

        self.run(ops, layers, 1)
        with pytest.raises(KeyboardInterrupt):
            self.run(ops, layers, 2)
        got = self.run(ops, layers, *range(3, 8))
        eager: Any = load_ops("cupy")
        for seed, y in zip(range(3, 8), got, strict=True):
            assert y.tobytes() == np.asarray(eager.silu(eager.gelu(random(seed, 4, 6)))).tobytes()

    def test_too_little_memory_for_a_graph_is_enough_without(self, fake: FakeCupy) -> None:
        ops: Any = load_ops("cupy")
        want = self.run(ops, ops.gelu, 1)[0]
        fake.total = fake.pool.used + 2 * want.nbytes + 10  # for x and the result; blocks of an arena are larger
        for _ in range(3):
            assert self.run(ops, ops.gelu, 1)[0].tobytes() == want.tobytes()
        assert self.graph(ops) is None
        assert fake.pool.used == 0

    def test_a_capture_that_cuda_refuses_is_said_once(self, fake: FakeCupy, caplog: pytest.LogCaptureFixture) -> None:
        fake.no_capture = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"
        ops: Any = load_ops("cupy")
        with caplog.at_level(logging.WARNING, logger="refembed.cuda"):
            got = self.run(ops, ops.gelu, *range(5), rows=4) + self.run(ops, ops.gelu, *range(3), rows=5)
        assert [r.message for r in caplog.records] == [f"GPU 0: no CUDA graphs: {fake.no_capture}"]
        plain: Any = load_ops("cupy")
        assert got[4].tobytes() == np.asarray(plain.gelu(random(4, 4, 6))).tobytes()

    def test_few_graphs_are_kept_and_those_that_came_first_stay(
        self, fake: FakeCupy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recurring, "MAX_KEPT", 3)
        monkeypatch.setattr(recurring, "MAX_SEEN", 20)
        ops: Any = load_ops("cupy")

        def shapes() -> list[int]:
            return [key[0][0] for key in ops.graphs.known]

        for rows in (1, 2, 3, 4, 5):
            self.run(ops, ops.gelu, 1, 2, 3, rows=rows)
        assert shapes() == [1, 2, 3]
        self.run(ops, ops.gelu, *range(12), rows=2)
        self.run(ops, ops.gelu, *range(12), rows=3)  # 1 has not been used for long
        self.run(ops, ops.gelu, 1, 2, 3, rows=4)
        assert shapes() == [2, 3, 4]
        assert len(ops.graphs.seen) <= 20

    def test_long_texts_go_without(self, fake: FakeCupy) -> None:
        ops: Any = load_ops("cupy")
        self.run(ops, ops.gelu, 1, 2, 3, rows=graphs.MAX_TOKENS + 1)
        assert (len(ops.graphs.known), len(ops.graphs.seen)) == (0, 0)

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=25))
    def test_bits_do_not_depend_on_what_came_before(self, built: Path, steps: list[tuple[int, int]]) -> None:
        """Two computations of drawn sizes in drawn order, which share an arena."""
        module, w = FakeCupy(OnCpu(built)), stored(random(9, 6, 6))
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(__import__("sys").modules, "cupy", module)
            ops: Any = load_ops("cupy")
        plain: Any = Cupy(OnCpu(built))

        def one(o: Any, x: Any) -> Any:
            y = o.linear(o.gelu(x), w)
            return o.add(o.silu(o.linear(y, w)), x)

        def other(o: Any, x: Any) -> Any:
            return o.softmax(o.multiply(o.rms_norm(x, None, 1e-6), x))

        for rows, seed in steps:
            layers = one if seed % 2 else other
            x = random(seed, rows, 6)
            got = ops.capture_or_replay((layers,), lambda x, f=layers: f(ops, x), x)  # type: ignore[misc]
            assert np.asarray(got).tobytes() == np.asarray(layers(plain, plain.on_device(x))).tobytes()


def test_memory_goes_back_with_the_embedder(fake: FakeCupy, tmp_path: Path) -> None:
    """Weights, arena and graphs: all of it, without waiting for a garbage collector."""
    gc.collect()
    gc.disable()
    try:
        e = embedder(tmp_path)
        for seed in range(5):
            for n in (3, 8, 20):
                embed(e, [text(seed, n)])
        assert len(known(e)) == 3
        last = weakref.ref(cache(e))
        assert fake.pool.used > 0
        del e
        assert last() is None
        assert fake.pool.used == 0
    finally:
        gc.enable()


def test_graphs_share_memory(fake: FakeCupy, tmp_path: Path) -> None:
    """More lengths below one power of two take no more memory than the largest of them."""
    e = embedder(tmp_path)
    for seed in range(4):
        embed(e, [text(seed, 16)])
    used = arena_bytes(e)
    assert used > 0
    for n in (15, 14, 13):
        for seed in range(4):
            embed(e, [text(seed, n)])
    assert len(known(e)) == 4
    assert all(known(e))
    assert arena_bytes(e) == used


def arena_bytes(e: Embedder) -> int:
    """Of all blocks; nothing is in use between passes."""
    return sum(4 * room * len(blocks) for room, blocks in cache(e).arena.free.items())


def test_threads_of_a_server_have_the_bits_of_one(fake: FakeCupy, tmp_path: Path, built: Path) -> None:
    """Who comes while another captures or replays computes without a graph."""
    e = embedder(tmp_path)
    plain = Plain(e, built)
    want = {(seed, n): plain([text(seed, n)]) for seed in range(4) for n in (4, 9)}
    wrong: list[Any] = []

    def work(turn: int) -> None:
        try:
            for seed, n in sorted(want, key=lambda one: hash((turn, *one))):
                if embed(e, [text(seed, n)]) != want[seed, n]:
                    wrong.append((turn, seed, n))
        except BaseException as error:  # of whatever kind
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert cache(e).known


def test_traces_and_changed_operations_go_without(fake: FakeCupy, tmp_path: Path) -> None:
    e = embedder(tmp_path)
    ids = text(1, 8)
    for seed in range(3):
        embed(e, [text(seed, 8)])
    (graph,) = fake.captured
    before = graph.launched
    traced = e.trace(ids, pooling="mean").tensors[-1].array
    assert graph.launched == before
    assert traced.tobytes() == np.asarray(e.embed([ids], pooling="mean", normalize=-1)[0]).tobytes()
    assert graph.launched == before + 1
    assert isinstance(graph, FakeGraph)
    assert pack([ids]).ids.tolist() == ids
