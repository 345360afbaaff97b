"""Keys of architectures whose part of llama.cpp's converter writes its own, in its own order.

    keys=(CONTEXT, WIDTH, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, EPSILON, TURNED, FILE_TYPE)

A key is its name without {arch}., its GGUF type, and its value for a Config; None: the file lacks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from refembed.convert.recipes import Key

if TYPE_CHECKING:
    from refembed.convert.config import Config

FILE_TYPE: Key = ("general.file_type", "UINT32", lambda c: c.file_type)


def count(name: str, value: Callable[[Config], Any]) -> Key:
    """A key with a whole number."""
    return name, "UINT32", value


def real(name: str, value: Callable[[Config], Any]) -> Key:
    """A key with a number."""
    return name, "FLOAT32", value


def flag(name: str, value: Callable[[Config], Any]) -> Key:
    """A key that is true or false."""
    return name, "BOOL", value


def word(name: str, value: str) -> Key:
    """A key with a word."""
    return name, "STRING", lambda c: value


def epsilon(*names: str) -> Key:
    """What LayerNorm adds to the variance."""
    return real("attention.layer_norm_epsilon", lambda c: c.needed_number(*names))


def rms_epsilon(*names: str) -> Key:
    """What RMS norm adds to the mean square."""
    return real("attention.layer_norm_rms_epsilon", lambda c: c.needed_number(*names))


CONTEXT = count("context_length", lambda c: c.sizes["P"])
WIDTH = count("embedding_length", lambda c: c.sizes["C"])
FEED_FORWARD = count("feed_forward_length", lambda c: c.sizes["F"])
LAYERS = count("block_count", lambda c: c.layers)
HEADS = count("attention.head_count", lambda c: c.sizes["H"])
KV_HEADS = count("attention.head_count_kv", lambda c: c.sizes["K"])
HEAD_WIDTHS = (
    count("attention.key_length", lambda c: c.sizes["D"]), count("attention.value_length", lambda c: c.sizes["D"]),
)  # fmt: skip
TURNED = count("rope.dimension_count", lambda c: c.turned)
THETA = real("rope.freq_base", lambda c: c.thetas[0])
# Where llama.cpp's converter takes 10000 for granted
OTHER_THETA = real("rope.freq_base", lambda c: None if c.thetas[0] == 10000.0 else c.thetas[0])
NO_BOS = flag("tokenizer.ggml.add_bos_token", lambda c: False)
VOCAB = count("vocab_size", lambda c: c.sizes["V"])
UNSCALED = word("rope.scaling.type", "none")
