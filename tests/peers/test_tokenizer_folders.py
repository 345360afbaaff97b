"""Drawn folders: what `convert` makes of them has the ids of `tokenizers` and `sentencepiece`, or it says why not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.peers import tokenizer_folders
from tests.peers.tokenizer_folders import Draw, drawn, outcome, report, survey

pytestmark = pytest.mark.peers


def check(folders: int, seed: int) -> None:
    found = survey(folders, seed)
    wrong = [o for o in found if o.verdict == "silently wrong"]
    refused = [o for o in found if o.verdict == "refused" and not o.draw.unsound]
    assert not wrong, report(found)
    assert not refused, report(found)
    assert sum(o.verdict == "same" for o in found) > len(found) / 3, report(found)


def test_no_drawn_tokenizer_is_converted_wrongly_without_a_word() -> None:
    check(63, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, int(os.environ.get("REFEMBED_SEED", "3"))])
def test_no_drawn_tokenizer_of_hundreds_is_converted_wrongly_without_a_word(seed: int) -> None:
    check(400, seed)


@pytest.mark.parametrize("family", ["wordpiece", "xlm-roberta", "qwen2"])
def test_the_survey_finds_ids_that_are_exchanged(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = tokenizer_folders.convert

    def exchanging(folder: Path, out: Path) -> Path:
        """Convert another vocabulary than the judge's: "a" has the id of "t", and "t" that of "a"."""
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        vocab = content["model"]["vocab"]
        if isinstance(vocab, list):
            a, t = (next(i for i, (piece, _) in enumerate(vocab) if piece == letter) for letter in "at")
        else:
            a, t = "a", "t"
        vocab[a], vocab[t] = vocab[t], vocab[a]
        path.write_text(json.dumps(content), encoding="utf-8")
        return convert(folder, out)

    def drawn_well() -> Draw:
        draws = (drawn(1, number) for number in range(1000))
        mine = (d for d in draws if d.family == family and "tokenizer.json" in d.files and not d.unsound)
        return next(d for n, d in enumerate(mine) if outcome(d, tmp_path / str(n), "").verdict == "same")

    draw = drawn_well()
    monkeypatch.setattr(tokenizer_folders, "convert", exchanging)
    assert outcome(draw, tmp_path / "exchanged", "").verdict == "silently wrong"
