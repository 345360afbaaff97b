"""LlamaCpp on a decoder: a KV cache to clear, a type for it, a causal mask to lift. The model is small and random."""

from __future__ import annotations

import numpy as np
import pytest

from refembed.verify.engines.llamacpp import LlamaCpp

pytestmark = pytest.mark.oracle

IDS, OTHER = [1, 5, 9, 7, 30], [1, 11, 4]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Two layers of the llama architecture, written by gguf-py."""
    gguf = pytest.importorskip("gguf")
    E, H, F, V = 64, 4, 96, 40
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("decoder") / "decoder.gguf"
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(2)
    w.add_context_length(256)
    w.add_embedding_length(E)
    w.add_feed_forward_length(F)
    w.add_head_count(H)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(E // H)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(V - 3))])
    w.add_token_scores([0.0] * V)
    w.add_token_types([2, 3, 3] + [6] * (V - 3))
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    norms = {"output_norm": (E,), **{f"blk.{i}.{n}_norm": (E,) for i in range(2) for n in ("attn", "ffn")}}
    attention = {f"blk.{i}.attn_{n}": (E, E) for i in range(2) for n in ("q", "k", "v", "output")}
    ffn = {f"blk.{i}.ffn_{n}": s for i in range(2) for n, s in (("gate", (F, E)), ("up", (F, E)), ("down", (E, F)))}
    for name, shape in {"token_embd": (V, E), "output": (V, E), **norms, **attention, **ffn}.items():
        w.add_tensor(f"{name}.weight", rng.normal(0, 0.3, shape).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


@pytest.fixture(scope="module")
def engine(decoder):
    with LlamaCpp(decoder, pooling="last", type_kv="f32") as e:
        yield e


def test_a_text_does_not_see_the_one_before(engine):
    """The cache is cleared between runs, traced ones too."""
    first = engine.embed([IDS])[0]
    assert engine.embed([OTHER, IDS])[1].tobytes() == first.tobytes()
    assert engine.trace(IDS)["result_embd_pooled"].tobytes() == engine.trace(IDS)["result_embd_pooled"].tobytes()
    assert engine.trace(IDS)["result_embd_pooled"].tobytes() == first.tobytes()


def test_the_kv_cache_has_the_type_that_was_asked_for(decoder):
    """The nodes that store K and V show its type."""
    types = {}
    for kind in (None, "f32", "f16"):
        with LlamaCpp(decoder, type_kv=kind) as e:
            t = e.trace(IDS)
        stores = [n for n in t.meta["nodes"] if str(n["view_of"]).startswith("cache_")]
        types[kind] = {n["type"] for n in stores}
    assert types == {None: {"f16"}, "f32": {"f32"}, "f16": {"f16"}}


def test_the_causal_mask_can_be_lifted(decoder):
    """With it the first token cannot see the last; without it it can."""
    rows = {}
    for causal in (None, True, False):
        with LlamaCpp(decoder, pooling="none", causal=causal) as e:
            rows[causal] = [v[0] for v in e.embed([IDS, [*IDS[:-1], 31]])]
    assert rows[None][0].tobytes() == rows[True][0].tobytes() == rows[True][1].tobytes()
    assert rows[False][0].tobytes() != rows[False][1].tobytes()


def test_texts_of_one_batch_stay_apart(engine):
    """One cache for all, one sequence each."""
    together = engine.embed([IDS, OTHER], batched=True)
    for a, b in zip(together, engine.embed([IDS, OTHER]), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_pooling_of_a_file_that_names_none_is_none(decoder):
    with LlamaCpp(decoder) as e:
        assert e.pooling == "none"
        assert e.embed([IDS])[0].shape == (5, 64)
