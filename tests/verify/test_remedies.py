"""Every verdict ends with one line of what to do; every hypothesis and every cause has one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import refembed.verify
from conformance.architectures import load_variants
from refembed import Embedder
from refembed.verify.compare.length import CONSTANTS
from refembed.verify.hypotheses import cheap_hypotheses, part_hypotheses, weight_hypotheses
from refembed.verify.hypotheses.batch_effects import batch_hypotheses
from refembed.verify.hypotheses.precision import precisions
from refembed.verify.reference import reference_of
from refembed.verify.remedies import TABLE, one_remedy, remedy_of
from refembed.verify.report.html import report_page
from refembed.verify.report.html_data import report_data
from refembed.verify.report.text import text_report
from refembed.verify.run import verify
from refembed.verify.texts import default_texts
from tests.verify.engine import Stub

TEXTS = ["hello world", "Hello, world!", "the cat sat on the mat", "a [SEP] b"]
PLAIN = [v for v in load_variants() if v.name == "plain"]


@pytest.fixture(scope="module")
def e(tiny):
    return Embedder.load(tiny, numerics="fast")


@pytest.mark.parametrize("variant", PLAIN, ids=lambda v: v.arch)
def test_every_hypothesis_has_a_remedy(variant, tmp_path):
    r = reference_of(Embedder.load(variant.write(tmp_path / "m.gguf"), numerics="fast"), "mean")
    items = default_texts(lambda t: len(r.encode(r.tokenizer, t)), r.info.n_ctx)
    found = [*cheap_hypotheses(r, items), *weight_hypotheses(r), *batch_hypotheses(r), *part_hypotheses(r)]
    found += [h for p in precisions() for h in p.samples()]
    assert len(found) > 150
    for h in found:
        line = remedy_of(h.id, r, {}, h.stage)
        assert line, h.id
        assert not re.search(r"[{}\n]", line), line


def test_every_cause_that_the_code_can_name_has_a_row():
    """Ids of causes that are no hypotheses, read from the source: each matches a row of its own."""
    folder = Path(refembed.verify.__file__).parent
    source = "\n".join(p.read_text() for p in folder.glob("*.py") if "hypothes" not in p.name)
    ids = {i for i in re.findall(r'Cause\(\s*f?"([^"]+)"', source) if "{" not in i}
    ids |= {"pooling-none", "pooling-rank", "order-by-length", "order-shuffled", "raw", "scaled-sum", "scaled-unevenly"}
    ids |= {id for id, *_ in CONSTANTS}
    assert len(ids) > 20
    unmatched = [i for i in ids if not any(re.fullmatch(pattern, i, re.DOTALL) for pattern, _ in TABLE)]
    assert unmatched == ["unexplained"] or unmatched == []


@pytest.mark.parametrize(
    ("answer", "kind", "line"),
    [
        (lambda e, t: e.embed(t), "identical", "nothing to do"),
        (lambda e, t: e.embed(t) * np.float32(1 + 1e-6), "within rounding", "nothing to do"),
        (
            lambda e, t: e.embed(t, pooling="cls"),
            "differs",
            "set its pooling to mean; if cls is meant, verify with --p",
        ),
        (lambda e, t: e.embed(t)[::-1], "differs", "give each text its own vector"),
        (lambda e, t: np.where(e.embed(t) > 1, 0, np.nan), "differs", "look for an overflow"),
    ],
)
def test_the_last_line_of_every_report_says_what_to_do(e, answer, kind, line):
    engine = Stub(lambda t: answer(e, t))
    v = verify(e, engine, TEXTS)
    assert v.kind == kind
    assert v.remedy.startswith(line)
    begin = line if line == "nothing to do" else f"what to do: {line[:20]}"
    assert text_report(v).split("\n\n")[-1].startswith(begin)
    assert v.as_dict()["remedy"] == v.remedy
    assert all(c["remedy"] for c in v.as_dict()["causes"])
    assert report_page(report_data(v, engine, e)).count("What to do:") == 1


def test_an_unexplained_verdict_says_how_to_go_on(e):
    seen, draw = {}, np.random.default_rng(0)
    v = verify(e, Stub(lambda t: [seen.setdefault(x, draw.normal(size=32)) for x in t]), TEXTS, budget=1e-3)
    assert v.kind == "unexplained"
    assert re.search(r"\d+ (about|pairs)", v.evidence.untried)
    assert f"Time ran out before these hypotheses were tried: {v.evidence.untried}" in " ".join(text_report(v).split())
    assert v.remedy == (  # such vectors look like another model's
        "serve the file that was verified, or verify the file that is served; if it is the same model, give the search "
        "more time: --budget 600"
    )


def test_two_causes_that_come_together_have_two_remedies(e):
    r = reference_of(e)
    both = remedy_of("no-eos + pooling-cls", r, {"server": "llama-server"})
    assert both == f"{one_remedy('no-eos', r, {})}; and start it with --pooling mean; if cls is meant, " \
        "verify with --pooling cls"  # fmt: skip
