"""What a process loads that opens a model and embeds one word: seconds of each such process, so only what it needs."""

from __future__ import annotations

from pathlib import Path

from tests.child import answer_to_code

ONE_WORD = """
import sys
from refembed import Embedder
Embedder.load(sys.argv[1]).embed(["word"])
print(*(name for name in sys.modules if name.startswith("refembed")))
"""
NEEDED = """
refembed refembed._version refembed.arrays refembed.errors refembed.atomic_write refembed.parse_json
"""
BUILT = """
import sys
from refembed.kernels.fast import ops
from refembed.kernels.llvm.disk_cache import LockedCache
kernels = {id(k): k for m in list(sys.modules.values()) for k in vars(m).values() if hasattr(k, "_cache")}
caches = [k._cache for k in kernels.values() if isinstance(k._cache, LockedCache)]
print(len(caches), sum("unlocked" in vars(cache) for cache in caches))
"""


def test_a_model_and_one_word_load_these_modules_and_no_others(tiny: Path) -> None:
    """A new name in this list costs every start half a millisecond or more: is it needed before the first vector?"""
    loaded = set(answer_to_code(ONE_WORD, tiny).split())
    assert loaded - set(NEEDED.split()) == set()
    assert set(NEEDED.split()) - loaded == set()


def test_a_kernel_looks_for_its_cache_when_it_is_called() -> None:
    """Numba writes a file to try the cache's folder, for each function that is decorated: 0.2 ms each."""
    kernels, looked = map(int, answer_to_code(BUILT).split())
    assert kernels > 50
    assert looked == 0
