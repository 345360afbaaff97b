"""What the page asks for, as JSON: the model, a text under its switches, attention, tokens left out, cosines."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refembed.errors import RequestError
from refembed.explain.taps import POOLINGS
from refembed.explain.walkthrough import filled, spell
from refembed.explain.words import spell_shares_of
from refembed.html.page import visible
from refembed.html.picture import WHITE_TO_BLUE
from refembed.playground.moved import as_object, moved
from refembed.playground.pca import nearest, planes
from refembed.playground.run import MOST_TOKENS, Run, left_out, run_text
from refembed.playground.switches import Switches, Workbench
from refembed.playground.words import STAGES, said_of
from refembed.similarity import cosine
from refembed.tokenizer.attributes import Attribute
from refembed.verify.verdict import plain

MOST_CHARACTERS = 4000  # of a text
MOST_TEXTS = 12  # that are compared with each other
MOST_LEFT_OUT = 64  # tokens: as many texts are computed
SPECIAL = Attribute.CONTROL | Attribute.UNKNOWN
Body = Mapping[str, Any]


class Answers:
    """One method for each thing that the page asks for: a body -> an object for JSON. RequestError for a wrong body."""

    def __init__(self, bench: Workbench, texts: Sequence[str]) -> None:
        self.bench, self.texts = bench, list(texts)
        self.kept: dict[tuple[str, Switches], Run] = {}  # the last run unchanged, and the last one changed

    def model(self, body: Body) -> dict[str, Any]:
        """What the model is, and what can be switched."""
        info, r = self.bench.embedder.info, self.bench.reference
        stored = ", ".join(info.quant_types)
        lead = f"{info.name}: {info.architecture}, {info.n_layer} layers, {info.n_head} heads"
        return {
            "lead": visible_text(f"{lead}, vectors of {info.n_embd_out} numbers; {info.path.name}"),
            "texts": self.texts,
            "poolings": [["", f"{r.pooling}, {'as the file says' if not self.bench.note else 'to begin with'}"]]
            + [[p, p] for p in self.bench.poolings() if p != r.pooling],
            "weights": [["", f"{stored}, as in the file"], *([t, t] for t in self.bench.weight_types())],
            "ramp": WHITE_TO_BLUE,
            "most": {"characters": MOST_CHARACTERS, "tokens": min(MOST_TOKENS, info.n_ctx), "texts": MOST_TEXTS},
        }

    def explain(self, body: Body) -> dict[str, Any]:
        """One text: tokens, planes of its hidden states, shares, and what the switches do to its vector."""
        text, switches = text_of(body), switches_of(body)
        run, before = self.run(text, switches), self.run(text, Switches())
        bound = float(self.bench.floor(text).bound[0]) if switches.any else 0.0
        change = moved(before, run) if switches.any else None
        said = said_of(self.bench, switches, text, run, change, bound)
        line = filled(POOLINGS[run.reference.pooling], self.bench.embedder)
        return {
            "said": vars(said),
            "tokens": [self.token(i) for i in run.ids],
            "padding": len(run.ids) - len(run.own),
            "pooling": {"title": line.title, "formula": line.formula, "source": line.source},
            "shares": None if run.shares is None else run.shares.tolist(),
            "shares_say": spell_shares_of(run.reference.pooling),
            "planes": [
                {"points": p.points.tolist(), "kept": p.kept, "nearest": nearest(x)}
                for p, x in zip(planes(run.hidden), run.hidden, strict=True)
            ],
            "attention": {str(il): a.shape[0] for il, a in run.attention.items()},
            "moved": None if change is None else as_object(change, bound),
            "faults": [[h.id, STAGES[h.stage], h.says] for h in self.bench.faults(text)],
            "vector": run.vector.tolist(),
        }

    def attention(self, body: Body) -> dict[str, Any]:
        """One layer's attention: float32 (H, T, T), little-endian, in base64."""
        run = self.run(text_of(body), switches_of(body))
        layer = body.get("layer")
        if not isinstance(layer, int) or layer not in run.attention:
            raise RequestError(f"the run shows no attention of layer {layer!r}")
        a = np.ascontiguousarray(run.attention[layer], "<f4")
        return {"shape": list(a.shape), "weights": base64.b64encode(a.tobytes()).decode()}

    def leave_out(self, body: Body) -> dict[str, Any]:
        """How far the vector moves where each token is left out."""
        run = self.run(text_of(body), switches_of(body))
        if len(run.own) > MOST_LEFT_OUT:
            raise RequestError(
                f"the text has {len(run.own)} tokens; at most {MOST_LEFT_OUT} are left out in turn",
                hint="take a part of it",
            )
        return {"distances": left_out(run)}

    def similarity(self, body: Body) -> dict[str, Any]:
        """Cosines of several texts with each other, under the switches and without."""
        texts, switches = body.get("texts"), switches_of(body)
        if not isinstance(texts, list) or not 2 <= len(texts) <= MOST_TEXTS:
            raise RequestError(f"2 to {MOST_TEXTS} texts can be compared", hint="one a line")
        for text in texts:
            check_text(text)
        if self.bench.reference.pooling == "rank":
            raise RequestError("a reranker gives a text a score, no vector: there is no cosine to show")
        found = {"cosines": self.cosines(texts, switches)}
        return found | ({"before": self.cosines(texts, Switches())} if switches.any else {})

    def cosines(self, texts: Sequence[str], switches: Switches) -> list[list[float]]:
        """(N, N)."""
        vectors = [run_text(self.reference(t, switches), t, self.bench.numerics).pooled for t in texts]
        return [[float(cosine(a, b)) for b in vectors] for a in vectors]

    def reference(self, text: str, switches: Switches) -> Any:
        """The reference of a text; a fault that does nothing to it is left out."""
        if switches.fault and switches.fault not in {h.id for h in self.bench.faults(text)}:
            switches = Switches(switches.pooling, switches.weights)
        return self.bench.changed(switches, text)

    def run(self, text: str, switches: Switches) -> Run:
        """A text under its switches; the last two are kept."""
        key = text, switches
        if key not in self.kept:
            run = run_text(self.bench.changed(switches, text), text, self.bench.numerics)
            same = {k: v for k, v in self.kept.items() if k[1].any != switches.any}
            self.kept = same | {key: run}
        return self.kept[key]

    def token(self, id: int) -> dict[str, Any]:
        """A token: its id, as the vocabulary has it, its bytes, and whether it is special."""
        tokenizer = self.bench.reference.tokenizer
        vocab = tokenizer.vocab
        return {
            "id": id,
            "piece": visible_text(spell(vocab.tokens[id], vocab.kind)),
            "bytes": tokenizer.piece(id).hex(" "),
            "special": bool(vocab.attributes[id] & SPECIAL),
        }

    def answer(self, name: str, body: Body) -> dict[str, Any]:
        """The answer of that name: a row of NAMES."""
        method: Callable[[Body], dict[str, Any]] = getattr(self, NAMES[name])
        try:
            found: dict[str, Any] = plain(method(body))
            return found
        finally:
            self.bench.forget()


NAMES = {
    "model": "model", "explain": "explain", "attention": "attention", "leave-out": "leave_out",
    "similarity": "similarity",
}  # fmt: skip


def text_of(body: Body) -> str:
    """The text of a request."""
    return check_text(body.get("text"))


def check_text(text: object) -> str:
    """A text that can be taken. RequestError otherwise."""
    if not isinstance(text, str):
        raise RequestError("the request has no text")
    if len(text) > MOST_CHARACTERS:
        size = f"the text has {len(text):,} characters; this page takes at most {MOST_CHARACTERS:,}"
        raise RequestError(size, hint="take a part of it")
    return text.encode("utf-8", "replace").decode()  # halves of surrogate pairs become ?


def switches_of(body: Body) -> Switches:
    """The switches of a request."""
    given = {name: body.get(name, "") for name in ("pooling", "weights", "fault")}
    for name, value in given.items():
        if not isinstance(value, str):
            raise RequestError(f"{name} is to be a text")
    return Switches(**given)


def visible_text(text: str) -> str:
    """A text with what no page can show made visible."""
    return "".join(map(visible, text))
