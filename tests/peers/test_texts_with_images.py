"""Vectors of texts with images against whole models of `transformers`, tower and text model, in float64.

Both have the weights of two small GGUF files, and images go through the published processors. `semantics="original"`
is what was published; llama.cpp's graph is away from it by what docs/images.md lists.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed import Embedder
from refembed.arrays import F64, U8
from refembed.gguf import open_gguf
from refembed.model.vision import load_tower
from refembed.pipeline.images import MARKER
from tests.model.vision.towers import picture, qwen_text_model, text_model

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the extra `peers`")
from tests.peers.test_towers_original import mmproj_of, model_of, processor_of  # noqa: E402  # which needs it

TEXTS = [
    (f"the cat {MARKER} sat on a mat", [(60, 40)]),
    (MARKER, [(40, 40)]),
    (f"a dog and {MARKER} the cat {MARKER}, it was in the mat", [(64, 64), (300, 20)]),
]
IMAGE = 100  # a token that is in none of the texts: it stands for a row of an image
SMALL = {"num_attention_heads": 6, "num_key_value_heads": 6, "vocab_size": 101, "intermediate_size": 50}
SMALL |= {"hidden_size": 36, "rms_norm_eps": 1e-6, "max_position_embeddings": 256}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SELF = {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"} | {"self_attn.o_proj": "attn_output"}
SELF |= {f"self_attn.{x}_norm": f"attn_{x}_norm" for x in "qk"} | {
    f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")
}
TOP = {"embed_tokens": "token_embd", "norm": "output_norm"}
QWEN3 = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", **SELF, **TOP}
GEMMA3 = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm", **SELF, **TOP,
}  # fmt: skip


class Both:
    """A text model with a tower in GGUF files, and as `transformers` has it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.mmproj = kind, mmproj_of(folder, kind)
        tower = load_tower(open_gguf(self.mmproj))
        if kind == "qwen3vl_merger":
            self.path = qwen_text_model(folder, D=24)
            rope = {"rope_parameters": ROPE | {"mrope_section": [4, 4, 4], "mrope_interleaved": True}}
            self.model = model_of(tower, **SMALL, **rope, head_dim=24, num_hidden_layers=3)
            fill(self.model.language_model, self.path, QWEN3)
        else:
            self.path = text_model(folder, "gemma3", window=12)
            own = {
                "sliding_window": 12,
                "query_pre_attn_scalar": 10,
                "layer_types": ["sliding_attention", "full_attention"],
            }
            rope = {"rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE}}
            self.model = model_of(tower, **SMALL, **own, **rope, head_dim=10, num_hidden_layers=2)
            fill(self.model.language_model, self.path, GEMMA3, less=1)
        self.model.config.image_token_id = IMAGE
        self.model = self.model.double().eval()
        self.processor = processor_of(tower)

    def embedder(self, semantics: str, numerics: str = "exact") -> Embedder:
        return Embedder.load(self.path, mmproj=self.mmproj, numerics=numerics, semantics=semantics)  # type: ignore[arg-type]

    def hidden(self, ids: list[int], images: list[U8]) -> F64:
        """The published model's last hidden states (T, C)."""
        given = {k: torch.tensor(np.asarray(v)) for k, v in self.processor(images=images, return_tensors="np").items()}
        given["pixel_values"] = given["pixel_values"].double()
        which = torch.tensor([[int(i == IMAGE) for i in ids]])
        given["mm_token_type_ids" if self.kind == "qwen3vl_merger" else "token_type_ids"] = which
        known = {k: v for k, v in given.items() if k != "num_crops"}
        with torch.no_grad():
            out = self.model(input_ids=torch.tensor([ids]), **known)
        return np.asarray(out.last_hidden_state[0].numpy(), np.float64)


def fill(model: Any, path: Path, names: dict[str, str], less: int = 0) -> None:
    """Give every parameter of a text model the file's tensor. less: what norms have less than in the file."""
    tensors = open_gguf(path).tensors
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            m = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)\.weight", name)
            assert m is not None
            own = names[m[2]]
            x = tensors[f"blk.{m[1]}.{own}.weight" if m[1] else f"{own}.weight"].dequantize()
            parameter.copy_(torch.tensor(x - less if own.endswith("norm") else x))


@pytest.fixture(scope="module", params=["gemma3", "qwen3vl_merger"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("both"), request.param)


def published(both: Both, e: Embedder, text: str, images: list[U8]) -> F64:
    """The published model's hidden states of a text with images, at the tokens that the reference reads."""
    batch = e.image_batch({"text": text, "image": images})
    ids = [int(i) for i in batch.ids]
    assert IMAGE not in ids
    for image in batch.images:
        ids[image.begin : image.end] = [IMAGE] * (image.end - image.begin)
    return both.hidden(ids, images)


# of a vector, the largest difference over its largest number; measured 1.0e-7 and 2.4e-7, 1.6e-7 and 5.0e-7
BOUNDS = {"gemma3": {"exact": 3e-7, "fast": 8e-7}, "qwen3vl_merger": {"exact": 5e-7, "fast": 1.5e-6}}


@pytest.mark.parametrize("numerics", ["exact", "fast"])
def test_original_vectors_of_texts_with_images_are_the_published_models(both: Both, numerics: str) -> None:
    e = both.embedder("original", numerics)
    for text, sizes in TEXTS:
        images = [picture(*size) for size in sizes]
        hidden = published(both, e, text, images)
        for pooling, want in (("mean", hidden.mean(axis=0)), ("last", hidden[-1])):
            got = e.embed([{"text": text, "image": images}], pooling=pooling, normalize=-1)[0]
            off = np.abs(got - want).max() / np.abs(want).max()
            assert off <= BOUNDS[both.kind][numerics], f"{pooling}, {text}: {off:.2g}"


# 1 - cos of llama.cpp's graph, pooled by mean: least and most, measured; of images that fill their frame, and others
OFF = {"gemma3": ((0, 1e-13), (1e-3, 0.1)), "qwen3vl_merger": ((1e-10, 1e-8), (1e-3, 0.1))}
#     3e-15, 3.0e-2 and 2.2e-2; 2.0e-9, 2.2e-2 and 4.3e-2


def test_llama_cpps_graph_is_as_far_from_the_published_model_as_is_said(both: Both) -> None:
    """Gemma 3's differs by how images are prepared alone, Qwen3-VL's by GELU in its projections too."""
    e = both.embedder("llama.cpp")
    for (text, sizes), (least, most) in zip(TEXTS, (OFF[both.kind][i] for i in (1, 0, 1)), strict=True):
        images = [picture(*size) for size in sizes]
        want = published(both, e, text, images).mean(axis=0)
        got = e.embed([{"text": text, "image": images}], pooling="mean", normalize=-1)[0]
        assert least <= abs(cosine(got, want)) <= most, text


def cosine(a: Any, b: Any) -> float:
    """1 - cos."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))
