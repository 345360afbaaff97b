"""No false alarm: `verify` never accuses live llama.cpp, whatever its settings."""

from __future__ import annotations

import pytest

from conformance import false_alarms as alarms
from conformance.false_alarms import Outcome, Setting
from refembed.errors import RequestError
from refembed.model import ARCHITECTURES

WHERE = Setting(False, 1, False)


@pytest.mark.oracle
def test_a_sample_of_models_and_settings_is_not_accused(minilm):
    outcomes = alarms.sample()
    assert len(outcomes) == 2 * len(alarms.SAMPLE)
    assert [alarms.line(o) for o in outcomes if o.alarm] == []


@pytest.mark.oracle
@pytest.mark.slow
def test_no_model_is_accused_in_any_setting():
    gemma, _ = alarms.gemma_file(None)
    outcomes = list(alarms.run(alarms.subjects(gemma)))
    assert {o.subject.split("/")[0] for o in outcomes} >= set(ARCHITECTURES)
    assert [alarms.line(o) for o in outcomes if o.alarm] == [], alarms.summary(outcomes)


def test_every_architecture_is_asked_in_every_setting():
    chosen = alarms.subjects()
    assert {s.id.split("/")[0] for s in chosen} == {"minilm", *ARCHITECTURES}
    assert len(alarms.subjects(variants=True)) > 200
    for s in chosen:
        assert len(alarms.settings(s)) == (8 if s.floats else 16), s.id
    assert {s.id for s in chosen} >= set(alarms.SAMPLE)


def test_what_is_an_alarm():
    """A word that accuses, or a tensor called wrong; an engine that failed is one too."""
    for kind, tensor, alarm in (
        ("identical", None, False), ("within rounding", None, False), ("within rounding", "kq-0", True),
        ("differs", None, True), ("unexplained", None, True), ("error", None, True),
    ):  # fmt: skip
        assert Outcome("minilm/f32", WHERE, kind, "", tensor, 0.1, 0.2, 9, 3, 1.0).alarm is alarm


def test_verdicts_are_counted():
    outcomes = [
        Outcome("bert/plain", WHERE, "identical", "", None, 0.1, 0.2, 9, 3, 1.0),
        Outcome("bert/Q8_0", WHERE, "differs", "the engine adds one", None, 3.5, 0.2, 9, 3, 1.0),
        Outcome("minilm/q4_0", WHERE, "within rounding", "", None, 0.4, 0.0, 9, 3, 1.0),
    ]
    text = alarms.markdown(outcomes, "One is left out.")
    assert "1 identical, 1 within rounding, 1 differs, 0 unexplained. False alarms: 1." in text
    assert "One is left out." in text
    assert "| bert | 2 | 1 | 0 | 1 | 0 | 3.5 | 0.2 |" in text
    assert "| minilm Q4_0 | 1 | 0 | 1 | 0 | 0 | 0.4 | 0 |" in text


def test_bad_questions_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        alarms.subjects(tmp_path / "none.gguf")
    with pytest.raises(RequestError, match="no model fits nothing/here"):
        alarms.subjects(patterns=["nothing/here"])
    with pytest.raises(RequestError, match="leave the patterns out"):
        alarms.command(["bert/*"], None, False, None, True, print)


def test_gemma_is_named_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(alarms.GEMMA, raising=False)
    file, said = alarms.gemma_file(None)
    assert file is None
    assert said == "Gemma-3-270M is left out: neither --gemma nor REFEMBED_GEMMA3 names its file."
    monkeypatch.setenv(alarms.GEMMA, str(tmp_path / "g.gguf"))
    assert alarms.gemma_file(None) == (tmp_path / "g.gguf", "")
