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
refembed refembed._version refembed.arrays refembed.atomic_write refembed.embedder refembed.embedder.base
refembed.embedder.embedder refembed.embedder.images refembed.embedder.parts_of_texts refembed.embedder.pools
refembed.errors refembed.gguf refembed.gguf.cursor refembed.gguf.digest refembed.gguf.metadata refembed.gguf.quants
refembed.gguf.reader refembed.gguf.split refembed.gguf.strings refembed.gguf.tensor refembed.kernels
refembed.kernels.activation_ops refembed.kernels.blas refembed.kernels.exact refembed.kernels.exact.activations
refembed.kernels.exact.attention refembed.kernels.exact.conv refembed.kernels.exact.experts
refembed.kernels.exact.rope refembed.kernels.exact.sums refembed.kernels.fast refembed.kernels.fast.attention
refembed.kernels.fast.buffer_pool refembed.kernels.fast.compact refembed.kernels.fast.decoder
refembed.kernels.fast.elementwise refembed.kernels.fast.graph refembed.kernels.fast.ops refembed.kernels.fast.panels
refembed.kernels.fast.rounding refembed.kernels.fast.state_ops refembed.kernels.fast.task_slot
refembed.kernels.fast.thread_pool refembed.kernels.image_ops refembed.kernels.llvm refembed.kernels.llvm.atomics
refembed.kernels.llvm.compiling refembed.kernels.llvm.disk_cache refembed.kernels.llvm.gemm
refembed.kernels.llvm.integer_road refembed.kernels.llvm.jit refembed.kernels.llvm.microkernel
refembed.kernels.llvm.simd refembed.kernels.llvm.simd_float32 refembed.kernels.numerics refembed.kernels.ops
refembed.kernels.quant refembed.kernels.quant.dequant refembed.kernels.quant.row_blocks
refembed.kernels.recurring refembed.kernels.specs
refembed.kernels.state_ops refembed.kernels.taps refembed.kernels.threads refembed.model refembed.model.batch
refembed.model.bert refembed.model.blocks refembed.model.hparams refembed.model.hparams_experts
refembed.model.hparams_latent refembed.model.hparams_recurrent refembed.model.info refembed.model.keys
refembed.model.trace refembed.model.traits refembed.model.unsupported refembed.model.weights refembed.parse_json
refembed.pipeline refembed.pipeline.batches refembed.pipeline.inputs refembed.pipeline.opening
refembed.pipeline.progress refembed.pipeline.truncate refembed.pipeline.vectors refembed.pooling
refembed.pooling.heads refembed.pooling.normalize refembed.pooling.poolers refembed.tokenizer
refembed.tokenizer._unicode_data refembed.tokenizer.attributes refembed.tokenizer.base
refembed.tokenizer.bounded_cache refembed.tokenizer.special refembed.tokenizer.unicode refembed.tokenizer.vocab
refembed.tokenizer.wordpiece
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
