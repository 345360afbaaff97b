"""A text's stages as plain data, filled from the tokenizer's own stages and from a trace: nothing is computed twice.

text ─► stages of the tokenizer ─► ids ─► steps before the layers, of one layer, after them ─► pooling ─► vector
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64
from refembed.embedder import Embedder
from refembed.errors import RequestError
from refembed.explain.formulas import NO_FORMULA, Formula, formula_of
from refembed.explain.operands import Operand, base_of, tap_of
from refembed.explain.taps import HE, MARKS, POOLINGS, TOKENIZERS, Pooling, meaning
from refembed.explain.watch import Call, Run, watch
from refembed.model.trace import Trace
from refembed.pipeline.inputs import Input
from refembed.pooling.normalize import normalize
from refembed.pooling.poolers import POOLERS, resolve_pooling
from refembed.tokenizer.explain import Stage
from refembed.tokenizer.explain import stages as stages_of
from refembed.verify.compare.contributions import contributions

Array = npt.NDArray[Any]

FIRST = 4  # numbers shown of each tensor
BY_HEADS = re.compile(r"(kq(?!v_out).*|v_cont|pos_bias)$")  # (H, T, ...): the token is on the second axis or later
START = ("inp_norm-0", "inp_norm", "inpL", "inp_scaled", "inp_embd", "embd", "inp_rows", "model.embed_tokens")
END = re.compile(r"(.+)-(\d+)$")
HIDDEN_END = ("result_norm", "final_norm_out", "result_embd")


@dataclass(frozen=True)
class Step:
    """One tensor of the run."""

    name: str  # llama.cpp's name; of a sum that its graph leaves unnamed, the sum: "kqv_out-0 (2nd of 2) + inp_norm-0"
    shape: tuple[int, ...]
    numbers: tuple[float, ...]  # the first few of the token that is looked at
    whose: str  # what the numbers are of
    title: str = ""
    source: str = ""  # the paper
    how: Formula = NO_FORMULA  # its formula, in words and in NumPy, and what the letters stand for
    label: str = ""  # the name, with its number where it occurs more than once: "Qcur-0 (2nd of 2)"

    @property
    def formula(self) -> str:
        """As it is read: "x Wᵀ + b"."""
        return self.how.text

    @property
    def where(self) -> str:
        """What the letters stand for: "x = inp_norm-0; W = blk.0.attn_q.weight"."""
        return "; ".join(f"{o.letter} = {o.what}" for o in self.how.operands)

    @property
    def reads(self) -> str:
        """GGUF tensors and keys among them: "blk.0.attn_q.weight, bert.attention.head_count = 12"."""
        found = [o.what for o in self.how.operands if o.what.endswith((".weight", ".bias")) or " = " in o.what]
        found += [o.what for o in self.how.operands if o.what.startswith("blk.") and o.what not in found]
        return ", ".join(dict.fromkeys(found))


@dataclass(frozen=True)
class Layer:
    """What a layer did, in numbers averaged over tokens."""

    layer: int
    norm: float  # mean |x| of the tokens, Euclid
    kept: float  # mean cosine of what came out with what went in
    entropy: float | None  # of attention in bits, over heads and tokens; None where the run shows none
    to_self: float | None  # share of attention that goes to the token itself
    to_first: float | None  # ... and to the first token


@dataclass
class Walkthrough:
    """Everything that `refembed explain` shows."""

    text: str
    texts: list[str]  # the first is `text`
    info: dict[str, Any]  # the model
    tokenizer: str  # how it is called, and where it comes from
    stages: list[Stage]
    special: dict[int, bytes]  # spelling of ids that stages leave as ids
    ids: list[int]
    pieces: list[str]  # (T)
    marks: str  # how pieces show where a word begins
    token: int  # which token's numbers are shown
    layer: int  # which layer is shown step by step
    before: list[Step]  # up to the first layer
    inside: list[Step]  # of that layer
    behind: list[Step]  # after the last layer
    layers: list[Layer]
    hidden: list[F64]  # (T, C) into the first layer, and out of each
    attention: dict[int, Array]  # layer -> (H, T, T); empty where the run shows none
    how: str  # the pooling's name
    pooling: Pooling
    pooled: F64 | None  # (D) before it is normalized; None: one vector a token
    shares: F64 | None  # (T) of the tokens in the pooled vector
    vector: Array  # (D), or (T, D)
    vectors: Array | None = None  # (N, D) of all texts
    notes: list[str] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        """T."""
        return len(self.ids)


def explain(
    embedder: Embedder,
    texts: Sequence[str | bytes],
    *,
    pooling: str = "native",
    layer: int = 0,
    token: int | None = None,
    truncate: bool = False,
) -> Walkthrough:
    """Follow the first text step by step, and compare all.

    layer   is shown in full; -1 is the last
    token   whose numbers are shown; None takes the first that is no special token
    Raises RequestError for a layer or a token that is not there, and as `Embedder.embed` does.
    """
    if not texts:
        raise RequestError("there is no text to explain", hint='explain "Hello, world!"')
    n_layer, how = embedder.info.n_layer, resolve_pooling(pooling, embedder.model.hparams.pooling)
    layer = pick_layer(n_layer, layer)
    run = watch(embedder, texts[0], pooling=how, truncate=truncate)
    trace = run.trace
    ids = [int(i) for i in trace.meta["tokens"]]
    tokenizer = embedder.tokenizer
    stages = stages_of(tokenizer, texts[0], True, True)
    chosen = pick_token(ids, {p for s in stages if s.name != "ids" for p in s.parts if isinstance(p, int)}, token)
    pieces = [spell(tokenizer.vocab.tokens[i], tokenizer.vocab.kind) for i in ids]
    whose = f"token {chosen}, {pieces[chosen]!r}"
    before, inside, after = Finder(run, whose, chosen).parts(layer)
    hidden = hidden_states(trace, n_layer)
    attention = attention_of(trace, n_layer, len(ids))
    last = last_hidden(trace)
    poolable = how in POOLERS and how != "none"
    vector = embedder.embed(texts[0], pooling=how, truncate=truncate)
    walkthrough = Walkthrough(
        text=decode(texts[0]),
        texts=[decode(t) for t in texts],
        info=describe(embedder, trace),
        tokenizer=TOKENIZERS.get(tokenizer.vocab.kind, tokenizer.vocab.kind),
        stages=stages,
        special={i: tokenizer.vocab.tokens[i] for i in {*ids, *specials(stages)}},
        ids=ids,
        pieces=pieces,
        marks=spell_marks(tokenizer.vocab.kind, pieces),
        token=chosen,
        layer=layer,
        before=before,
        inside=inside,
        behind=after,
        layers=[layer_of(il, hidden, attention.get(il)) for il in range(len(hidden) - 1)],
        hidden=hidden,
        attention=attention,
        how=how,
        pooling=filled(POOLINGS[how], embedder),
        pooled=None if how == "none" else np.asarray(trace["result_embd_pooled"], np.float64).reshape(-1),
        shares=contributions(last, how) if poolable and last is not None else None,
        vector=np.asarray(vector),
        vectors=compared(embedder, texts, how, truncate),
    )
    add_notes(walkthrough, embedder, how)
    return walkthrough


def pick_layer(n_layer: int, layer: int) -> int:
    """The layer, counted from the first. RequestError where there is none of that number."""
    if not -n_layer <= layer < n_layer:
        raise RequestError(f"layer {layer}: the model has layers 0 to {n_layer - 1}")
    return layer % n_layer


def attention_of(trace: Trace, n_layer: int, T: int) -> dict[int, Array]:
    """Layer -> (H, T, T): how much each token looks at each, where the run shows it."""
    found = {il: np.asarray(trace[f"kq_soft_max-{il}"]) for il in range(n_layer) if f"kq_soft_max-{il}" in trace}
    return {il: a for il, a in found.items() if a.shape[-2:] == (T, T)}


def add_notes(walkthrough: Walkthrough, embedder: Embedder, how: str) -> None:
    """What a reader may miss, and why it is not there."""
    if not walkthrough.attention:
        why = (
            "with flash attention no scores are kept; --no-flash-attn shows them" if embedder.ops.name == "ggml" else ""
        )
        walkthrough.notes.append(f"The run shows no attention{f': {why}' if why else ''}.")
    if how == "none":
        hint = "--pooling last (or mean) makes one vector of them"
        walkthrough.notes.append(f"The model's file asks for no pooling, so each token keeps its vector; {hint}.")
    if len(walkthrough.texts) > 1 and walkthrough.vectors is None:
        walkthrough.notes.append("Texts cannot be compared without one vector each.")


def describe(embedder: Embedder, trace: Trace) -> dict[str, Any]:
    """The model in a few words."""
    info = embedder.info
    return {
        "model": info.name,
        "architecture": info.architecture,
        "file": info.path.name,
        "vector length": info.n_embd_out,
        "layers": info.n_layer,
        "heads": info.n_head,
        "vocabulary": info.n_vocab,
        "longest text": info.n_ctx,
        "parameters": info.n_params,
        "numerics": trace.meta["numerics"],
        "made by": trace.meta["engine"],
    }


def compared(embedder: Embedder, texts: Sequence[str | bytes], how: str, truncate: bool) -> Array | None:
    """Vectors (N, D) of several texts; None for one, or where each token has its own."""
    if len(texts) < 2 or how in ("none", "rank"):
        return None
    inputs: list[Input] = list(texts)
    return np.asarray(embedder.embed(inputs, pooling=how, truncate=truncate))


class Finder:
    """Turns tensors of a run into steps."""

    def __init__(self, run: Run, whose: str, token: int) -> None:
        self.run, self.whose, self.token = run, whose, token

    def parts(self, layer: int) -> tuple[list[Step], list[Step], list[Step]]:
        """Steps before the first layer, within one layer, and after the last."""
        trace = self.run.trace
        owners = owner_of(trace)
        last = max((o for o in owners if o is not None), default=-1)
        before: list[Step] = []
        inside: list[Step] = []
        after: list[Step] = []
        for i, owner in enumerate(owners):
            if owner == layer:
                inside += self.steps(i)
            elif owner is None:
                (after if last in owners[:i] else before).extend(self.steps(i))
        return before, inside, after

    def steps(self, i: int) -> list[Step]:
        """A tensor with its line of the table; where a norm adds the residual first, that sum before it."""
        tap, line, formula = self.run.trace.tensors[i], meaning(self.run, i), formula_of(self.run, i)
        numbers, whose = self.numbers(base_of(tap.name), tap.array)
        step = Step(tap.name, tap.array.shape, numbers, whose, line.title, line.source, formula, tap_of(self.run, i))
        call = self.run.shown[i].call
        is_first = i == 0 or self.run.shown[i - 1].call is not call
        if call is None or call.op != "add_layer_norm" or not is_first:
            return [step]
        return [self.residual(call, formula), step]

    def residual(self, call: Call, formula: Formula) -> Step:
        """The sum that a norm begins with: llama.cpp's graph has it under no name."""
        total = call["x"] + call["residual"]
        parts = dict(zip("ax", formula.operands[0].what.split(" + "), strict=False)) if formula.operands else {}
        operands = tuple(Operand(letter, what) for letter, what in sorted(parts.items(), reverse=True))
        title = "The sum of what came before and what went in: the residual connection"
        numbers, whose = self.numbers("", total)
        name, formula = " + ".join(parts.values()), Formula("x + a", "x + a", operands)
        return Step(name, total.shape, numbers, whose, title, HE, formula, name)

    def numbers(self, name: str, x: Array) -> tuple[tuple[float, ...], str]:
        """The first few numbers of the token that is looked at."""
        if BY_HEADS.match(name):
            part = x[0, :, self.token] if name == "v_cont" else x[0, self.token]
            return first(part), f"head 0, {self.whose}"
        if x.ndim and len(x) > self.token and name != "result_embd_pooled":
            return first(x[self.token]), self.whose
        return first(x), "the text"


def first(x: Array) -> tuple[float, ...]:
    """The first few numbers."""
    return tuple(float(v) for v in np.asarray(x, np.float64).reshape(-1)[:FIRST])


def owner_of(trace: Trace) -> list[int | None]:
    """The layer that each tap belongs to.

    A tap without a number between two of one layer is that layer's; the first norm of the embeddings bears a 0 and is
    not layer 0's.
    """
    numbers = [None if t.name == "inp_norm-0" else number_of(t.name) for t in trace.tensors]
    if "inp_norm-0" in trace:  # what it was made by, `norm-0` and `norm_w-0`, stands before it
        for i in range(next(i for i, t in enumerate(trace.tensors) if t.name == "inp_norm-0")):
            numbers[i] = None
    ends = {n: max(i for i, m in enumerate(numbers) if m == n) for n in set(numbers) if n is not None}
    current = None
    owners: list[int | None] = []
    for i, n in enumerate(numbers):
        current = n if n is not None else current
        if n is None and current is not None and i > ends[current]:
            current = None
        owners.append(current)
    if owners and "result_embd" in trace and number_of(trace.tensors[-1].name) is None:
        last = max((o for o in owners if o is not None), default=None)
        for i, t in enumerate(trace.tensors):  # BERT's last layer ends in result_embd: it is also the layer's output
            if t.name == "result_embd" and f"l_out-{last}" not in trace:
                owners[i] = None
    return owners


def number_of(name: str) -> int | None:
    """3 of `kqv_out-3`."""
    found = END.match(name)
    return int(found[2]) if found else None


def filled(line: Pooling, embedder: Embedder) -> Pooling:
    """A pooling with the model's own names in it, and of what it reads only what the file has."""
    arch, metadata = embedder.model.hparams.arch, embedder.tokenizer.vocab.metadata
    key, _, value = line.reads.replace("{arch}", arch).partition(" = ")
    if not key:
        return line
    stored = metadata.get(key)
    same = value.split(",")[0].strip() == str(stored)
    found = f"{key} = {stored}" if same else f"chosen; the file says {key} = {stored}" if stored is not None else ""
    return Pooling(line.title, line.formula, line.source, found or f"the file has no {key}")


def hidden_states(trace: Trace, n_layer: int) -> list[F64]:
    """What goes into the first layer, and what comes out of each: (T, C); of several streams (gemma3n) the first."""
    start = next((name for name in START if name in trace), trace.tensors[0].name)
    found = [np.asarray(trace[start], np.float64)]
    for il in range(n_layer):
        name = f"l_out-{il}"
        if name in trace:
            x = np.asarray(trace[name], np.float64)
            found.append(x[0] if x.ndim == 3 else x)
        elif il == n_layer - 1 and "result_embd" in trace:
            found.append(np.asarray(trace["result_embd"], np.float64))
    return found


def last_hidden(trace: Trace) -> F64 | None:
    """What is pooled: (T, C)."""
    name = next((n for n in HIDDEN_END if n in trace), None)
    return None if name is None else np.asarray(trace[name], np.float64)


def layer_of(il: int, hidden: Sequence[F64], attention: Array | None) -> Layer:
    """A layer in numbers."""
    x, y = hidden[il], hidden[il + 1]
    lengths = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    cosines = (x * y).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-300)
    norm, kept = float(lengths[1].mean()), float(cosines.mean())
    if attention is None:
        return Layer(il, norm, kept, None, None, None)
    a = np.asarray(attention, np.float64)
    bits = -(a * np.log2(np.where(a > 0, a, 1))).sum(axis=-1)
    to_self, to_first = np.diagonal(a, axis1=1, axis2=2).mean(), a[:, :, 0].mean()
    return Layer(il, norm, kept, float(bits.mean()), float(to_self), float(to_first))


def specials(stages: Sequence[Stage]) -> set[int]:
    """Ids that stages leave as ids."""
    return {p for s in stages for p in s.parts if isinstance(p, int)}


def pick_token(ids: Sequence[int], special: set[int], asked: int | None) -> int:
    """Which token's numbers are shown."""
    if asked is None:
        return next((i for i, id in enumerate(ids) if id not in special), 0)
    if not -len(ids) <= asked < len(ids):
        raise RequestError(f"token {asked}: the text has tokens 0 to {len(ids) - 1}")
    return asked % len(ids)


def spell(token: bytes, kind: str) -> str:
    """A token of the vocabulary as characters; GPT-2's alphabet of bytes is turned back."""
    text = token.decode("utf-8", "replace")
    return text.replace("Ġ", "▁").replace("Ċ", "↵") if kind == "gpt2" else text


def spell_marks(kind: str, pieces: Sequence[str]) -> str:
    """How pieces show where a word begins; for WordPiece with this text's pieces as BERT's vocab.txt has them."""
    if kind != "bert" or not (words := as_published(pieces)):
        return MARKS.get(kind, "")
    return f"{MARKS[kind]}. Here: {' '.join(words)}"


def as_published(pieces: Sequence[str], most: int = 24) -> list[str]:
    """Pieces of a WordPiece vocabulary as BERT's vocab.txt spells them: ["▁em", "bed"] -> ["em", "##bed"]."""
    spelled = [p if re.fullmatch(r"\[[A-Za-z]+\]", p) else p[1:] if p[0] == "▁" else f"##{p}" for p in pieces if p]
    return spelled[:most] + ["..."] * (len(spelled) > most)


def decode(text: str | bytes) -> str:
    """Characters of a text."""
    return text if isinstance(text, str) else text.decode("utf-8", "replace")


def normalized(walkthrough: Walkthrough) -> F64 | None:
    """The pooled vector over its length: (D)."""
    return None if walkthrough.pooled is None else np.asarray(normalize(walkthrough.pooled[None], 2))[0]
