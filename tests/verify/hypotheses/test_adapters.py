"""`verify` on engines with several LoRA adapters: any order of addition is right, another sum of adapters is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from refembed import Embedder
from refembed.testing.synthetic_lora import synthetic_lora
from refembed.verify.engines.base import open_engine
from refembed.verify.run import verify
from refembed.verify.verdict import Verdict
from tests.verify.engine import Stub

pytestmark = pytest.mark.system

TEXTS = ["hello world", "the cat sat", "Hello, mat!"]
SCALES = (0.7, 1.3, -0.45)
Adapters = list[tuple[Path, float]]


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    """Three adapters of the tiny model, with their scales."""
    folder = tmp_path_factory.mktemp("adapters")
    return [(synthetic_lora(folder / f"{i}.gguf", tiny, seed=i), scale) for i, scale in enumerate(SCALES)]


def specs(adapters: Sequence[tuple[Path, float]]) -> list[str]:
    """As `--lora` takes them."""
    return [f"{path}:{scale}" for path, scale in adapters]


def verdict_on(
    tiny: Path, adapters: Adapters, theirs: Sequence[tuple[Path, float]], budget: float | None = None, **how: Any
) -> Verdict:
    """On an engine that is refembed with these adapters, compared with the reference with those."""
    engine = Embedder.load(tiny, lora=specs(theirs), **how)
    reference = Embedder.load(tiny, numerics="fast", lora=specs(adapters))
    return verify(reference, Stub(engine.embed), TEXTS, budget=budget)


@pytest.mark.oracle
@pytest.mark.parametrize("given", list(permutations(range(3))))
def test_llama_cpp_is_identical_in_its_own_order(given: tuple[int, ...], tiny: Path, adapters: Adapters) -> None:
    """Adapters given in every order: llama.cpp adds them in several."""
    ours = [adapters[i] for i in given]
    with open_engine("llamacpp", tiny, lora=ours) as engine:
        v = verify(Embedder.load(tiny, lora=specs(ours)), engine, TEXTS)
        order = ", ".join(map(str, engine.info["lora_order"]))
    assert (v.kind, v.cause, v.first_wrong_tensor) == ("identical", "", None)
    assert [r.split("; ")[1] for r in v.evidence.remarks if "adapters" in r] == [f"this engine's is {order}"]
    assert len(v.evidence.tensors) > 20


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_an_unknown_order_of_adapters_is_found(order: tuple[int, ...], tiny: Path, adapters: Adapters) -> None:
    v = verdict_on(tiny, adapters, [adapters[i] for i in order], numerics="ggml")
    shown = ", ".join(map(str, order))
    assert v.kind == "identical"
    assert [r.split("; ")[1] for r in v.evidence.remarks if "adapters" in r] == [f"this engine's is {shown}"]


def test_an_order_that_cannot_be_found_is_accepted(tiny: Path, adapters: Adapters) -> None:
    """Vectors of `fast`, in which no order of llama.cpp's can be recognized."""
    v = verdict_on(tiny, adapters, adapters[::-1], numerics="fast")
    assert v.exit_code == 0
    assert any("this engine's order is not known, and any order is accepted" in r for r in v.evidence.remarks)


def test_one_adapter_has_no_order(tiny: Path, adapters: Adapters) -> None:
    v = verdict_on(tiny, adapters[:1], adapters[:1], numerics="ggml")
    assert (v.kind, [r for r in v.evidence.remarks if "adapters" in r]) == ("identical", [])


# fmt: off
FAULTS: dict[str, Callable[[Adapters], Adapters]] = {
    "one left out":          lambda a: a[1:],
    "one added twice":       lambda a: [*a, a[0]],
    "scales of one another": lambda a: [(a[0][0], a[1][1]), (a[1][0], a[0][1]), a[2]],
    "scales left out":       lambda a: [(path, 1.0) for path, _ in a],
    "all left out":          lambda a: [],
}
# fmt: on


@pytest.mark.parametrize("fault", FAULTS)
def test_another_sum_of_adapters_is_not_accepted(fault: str, tiny: Path, adapters: Adapters) -> None:
    """Whatever the cause: no more than a second is spent on looking for it."""
    assert verdict_on(tiny, adapters, FAULTS[fault](adapters), budget=1, numerics="fast").exit_code == 3
