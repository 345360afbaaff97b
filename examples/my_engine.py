"""An engine of one's own, BERT in NumPy, and how the conformance suite is told of it.

python -m conformance run --engine examples.my_engine:embed
"""

import numpy as np
import numpy.typing as npt

from refembed import Embedder
from refembed.gguf import GGUFFile
from refembed.hub import resolve

Rows = npt.NDArray[np.float64]  # (T, C)
PATH = resolve("minilm")
LAYERS, HEADS, LONGEST, EPS = 6, 12, 512, 1e-12
with GGUFFile(PATH) as file:
    W = {name: t.dequantize().astype(np.float64) for name, t in file.tensors.items()}
TOKENIZER = Embedder.load(PATH).tokenizer  # borrowed: the arithmetic is below


def norm(x: Rows, name: str) -> Rows:
    """LayerNorm of each row."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPS) * W[f"{name}.weight"] + W[f"{name}.bias"]


def linear(x: Rows, name: str) -> Rows:
    """x Wᵀ + b."""
    return x @ W[f"{name}.weight"].T + W[f"{name}.bias"]


def attention(x: Rows, il: int) -> Rows:
    """Every head: softmax(Q Kᵀ / sqrt(D)) V."""
    q, k, v = (linear(x, f"blk.{il}.attn_{n}").reshape(len(x), HEADS, -1).swapaxes(0, 1) for n in "qkv")  # (H, T, D)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (p / p.sum(axis=-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(x), -1)


def rows(text: str) -> Rows:
    """A row for each token of a text."""
    ids = tokenize(text)
    if len(ids) > LONGEST:
        raise ValueError(f"{len(ids)} tokens: the model reads {LONGEST}")
    x = W["token_embd.weight"][ids] + W["position_embd.weight"][: len(ids)] + W["token_types.weight"][0]
    x = norm(x, "token_embd_norm")
    for il in range(LAYERS):
        x = norm(x + linear(attention(x, il), f"blk.{il}.attn_output"), f"blk.{il}.attn_output_norm")
        h = linear(x, f"blk.{il}.ffn_up")
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))  # GELU
        x = norm(x + linear(h, f"blk.{il}.ffn_down"), f"blk.{il}.layer_output_norm")
    return x


def tokenize(text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
    """Token ids."""
    return TOKENIZER.encode(text, add_special=add_special, parse_special=parse_special)


def pooling(texts: list[str], kind: str) -> list[npt.NDArray[np.float64]]:
    """Vectors, or with `none` rows, not normalized."""
    how = {"none": lambda x: x, "mean": lambda x: x.mean(axis=0), "cls": lambda x: x[0], "last": lambda x: x[-1]}
    return [how[kind](rows(text)) for text in texts]


def embed(texts: list[str]) -> list[npt.NDArray[np.float64]]:
    """All that the suite needs: texts in, a vector for each out. The rest is optional."""
    return [v / np.linalg.norm(v) for v in pooling(texts, "mean")]


embed.tokenize = tokenize  # type: ignore[attr-defined]
embed.pooling = pooling  # type: ignore[attr-defined]

if __name__ == "__main__":
    a, b = embed(["How do I cook pasta?", "A recipe for spaghetti"])
    print(f"{a @ b:+.3f}")
