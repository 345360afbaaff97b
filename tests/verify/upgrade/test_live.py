"""Live llama.cpp with other settings: which of them an index survives, and how the others are named."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from refembed import hub
from refembed.compress.sentences import sentences
from refembed.verify.engines.live import LiveLlamaCpp
from refembed.verify.engines.recorded import open_recording
from refembed.verify.upgrade.run import verify_upgrade
from tests.copies import copied
from tests.llama_server import llama_server

pytestmark = pytest.mark.oracle

CORPUS = sentences(120, 1)


def compared(minilm, old, new, **more):
    """Two settings of one build."""
    with LiveLlamaCpp(minilm, **old) as a, LiveLlamaCpp(more.pop("other", minilm), **new) as b:
        return verify_upgrade(a, b, **more)


def test_flash_attention_leaves_the_index_valid(minilm):
    """1 - cos 4.8e-7 at most between the two settings (docs/numerics.md), 2.5e-7 on these texts."""
    found = compared(minilm, {}, {"flash_attn": True}, corpus=CORPUS)
    assert (found.kind, found.same_tokens, found.exit_code) == ("valid", True, 0)
    assert 1e-8 < found.cosine < 1e-6
    assert found.search.documents == 120
    assert [a.changed for a in found.search.arrangements] == [0, 0, 0]
    assert "the index stays valid" in found.cause


def test_the_same_settings_are_identical(minilm):
    assert compared(minilm, {"threads": 1}, {"threads": 2}, texts=CORPUS[:8]).kind == "identical"


def test_another_pooling_is_named_where_the_model_is_known(minilm):
    found = compared(minilm, {}, {"pooling": "cls"}, texts=CORPUS[:24], model=minilm)
    assert (found.kind, found.same_tokens) == ("re-embed", True)
    assert "the new engine pools the first token; the other is as the model file says" in found.cause
    assert found.remedy.startswith("set its pooling to mean")


def test_neighbors_are_those_of_a_search_by_hand(minilm):
    """Vectors of both poolings, and for each query Python's own nearest document."""
    with LiveLlamaCpp(minilm) as mean, LiveLlamaCpp(minilm, pooling="cls") as cls:
        old, new = ([unit(v) for v in e.embed(CORPUS)] for e in (mean, cls))
        found = verify_upgrade(mean, cls, CORPUS, corpus=CORPUS)
    before = [nearest(old[i], old, i) for i in range(120)]
    stored = found.search.arrangements[0]
    assert stored.changed == sum(nearest(new[i], old, i)[0] != before[i][0] for i in range(120))
    kept = [len({*nearest(new[i], old, i)} & {*before[i]}) for i in range(120)]
    assert stored.overlap == pytest.approx(np.mean(kept) / 10)
    assert found.search.arrangements[2].changed == sum(nearest(new[i], new, i)[0] != before[i][0] for i in range(120))


def unit(v):
    length = math.sqrt(sum(float(x) ** 2 for x in v))
    return [float(x) / length for x in v]


def nearest(query, documents, own, k=10):
    others = (i for i in range(len(documents)) if i != own)
    return sorted(others, key=lambda i: math.dist(query, documents[i]))[:k]


def test_another_tokenizer_flag_is_a_change_of_tokens_of_some_texts(minilm, tmp_path):
    cased = copied(minilm, tmp_path / "cased.gguf", {"tokenizer.ggml.normalizer.lowercase": (False, "BOOL")})
    texts = [t.lower() for t in CORPUS[:24]] + [t.upper() for t in CORPUS[24:30]]
    found = compared(minilm, {}, {}, other=cased, texts=texts)
    assert (found.kind, found.same_tokens) == ("re-embed", False)
    assert [t for t, _, _ in found.ids] == texts[24:]
    assert "all texts with capital letters and no others" in found.cause
    assert "the vectors of the others moved by at most 0 (1 - cos)" in found.cause
    assert found.remedy.startswith("re-embed the texts whose tokens changed")


def test_another_type_of_weights_is_measured(minilm):
    """Q8_0: 1 - cos up to 1.7e-3 (docs/numerics.md)."""
    found = compared(minilm, {}, {}, other=hub.resolve("minilm:q8_0"), texts=CORPUS)
    assert 1e-5 < found.cosine < 3e-3
    assert found.same_tokens is True
    assert found.search.arrangements[0].overlap > 0.9


def test_what_was_recorded_is_compared_like_what_is_live(minilm, tmp_path):
    engines = []
    with LiveLlamaCpp(minilm) as off, LiveLlamaCpp(minilm, flash_attn=True) as on:
        live = verify_upgrade(off, on, CORPUS[:30])
        for name, e in (("old", off), ("new", on)):
            rows = [
                {"text": t, "embedding": v.tolist()} for t, v in zip(CORPUS[:30], e.embed(CORPUS[:30]), strict=True)
            ]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
            engines.append(open_recording(tmp_path / f"{name}.jsonl"))
    found = verify_upgrade(*engines)
    assert (found.kind, found.cosine, found.search) == (live.kind, live.cosine, live.search)
    assert (live.same_tokens, found.same_tokens) == (True, None)


@pytest.mark.slow
def test_servers_before_and_after(minilm):
    from refembed.verify.engines.base import open_engine

    with llama_server(minilm) as a, llama_server(minilm, flash_attn="enabled") as b, llama_server(minilm, "cls") as c:
        old, flash, cls = (open_engine(url, None) for url in (a, b, c))
        good = verify_upgrade(old, flash, corpus=CORPUS)
        bad = verify_upgrade(old, cls, corpus=CORPUS, model=minilm)
    assert (good.kind, good.same_tokens) == ("valid", True)
    assert (bad.kind, bad.same_tokens) == ("re-embed", True)
    assert bad.remedy.startswith("start it with --pooling mean")
