"""Which Python names the reference shows, and tests/test_docstrings.py wants running examples of."""

from __future__ import annotations

PACKAGES = (  # the names in their `__all__`
    "refembed", "refembed.batch", "refembed.chunk", "refembed.convert", "refembed.corpus", "refembed.evaluate",
    "refembed.gguf", "refembed.hub", "refembed.pooling", "refembed.similarity", "refembed.testing",
)  # fmt: skip
VERIFY = (  # `refembed.verify` has no names of its own: what a program needs from its modules
    "refembed.verify.run.verify", "refembed.verify.engines.base.open_engine",
    "refembed.verify.engines.callables.CallableEngine", "refembed.verify.compare.align.align",
    "refembed.verify.upgrade.run.verify_upgrade",
    "refembed.verify.compare.arrays.compare", "refembed.verify.compare.arrays.cosine_distance",
    "refembed.testing.synthetic.synthetic", "refembed.kernels.quant.dequant.dequantize",
    "refembed.kernels.quant.quantize.quantize",
)  # fmt: skip
INTERNAL = {  # class -> methods without underscore that other rooms of refembed call, and users do not
    "EmbedBatch": "compare embed_rows ids_of ready refused vectors",
    "Embedder": "forward ids_of paths resolve_options running_pool sparse_of stack streamed tokenized_ahead "
    "truncate_or_raise vectors vectors_of width",
    "Cache": "find keep report reported store vectors",
    "CallableEngine": "asked trace tokenize",
    "CodeContract": "bytes_of quantize",
    "LayerNormContract": "plain",
    "NormalizeContract": "dtype length of one rows",
    "PoolingContract": "as_exact batch dtype of one slack",
    "Q8Contract": "block",
    "RopeContract": "turned",
    "SimilarityContract": "is_a_distance",
    "WordPieceContract": "pieces_of",
}
