"""The walkthrough as an illustrated page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from refembed.explain.walkthrough import FIRST, Step, Walkthrough, normalized
from refembed.explain.words import in_one_sentence, spell_numbers, spell_parts, spell_shape, spell_shares
from refembed.html.attention import attention_map
from refembed.html.charts import Line, plot, strip
from refembed.html.page import Section, clipped, esc, figure, page, table
from refembed.html.picture import heat
from refembed.similarity import cosine

NAMED = 40  # tokens whose names are written next to a plot
SHOWN_PARTS = 400  # of a tokenizer's stage


def walkthrough_page(j: Walkthrough, head: int | None = None) -> str:
    """The page as HTML. head: shown first in the map of attention; None is the mean of all."""
    builders: Sequence[tuple[str, str, Callable[[Walkthrough], str]]] = (
        ("tokens", "1. From characters to token ids", tokens),
        (
            "embeddings",
            "2. From ids to vectors",
            lambda j: intro(EMBEDDINGS.format(C=j.hidden[0].shape[1])) + steps(j.before),
        ),
        ("layer", f"3. Layer {j.layer}, step by step", layer),
        ("attention", "4. Attention", lambda j: attention(j, head)),
        ("layers", "5. Through all layers", layers),
        ("pooling", "6. Pooling", pooling),
        ("normalization", "7. Normalization", normalization),
        ("similarity", "8. Similarity", similarity),
        ("model", "The model", model),
    )
    built = ((id, heading, build(j)) for id, heading, build in builders)
    sections = [Section(id, heading, body) for id, heading, body in built if body]
    lead = f"{esc(in_one_sentence(j))} Computed with the numerics “{esc(j.info['numerics'])}”."
    return page("How a text becomes a vector", lead, sections)


TOKENS = (
    "A model reads numbers, so the text is cut into pieces that its vocabulary knows. Each row is what one stage makes "
    "of it."
)
EMBEDDINGS = (
    "Each id picks a row of a table: its vector. From here on every token is a row of C numbers; C is {C} here."
)
LAYER = (
    "A layer lets tokens look at each other (attention), then works on each on its own (feed-forward). The shape says "
    "how many numbers there are, rows first; T is {T} here."
)


def intro(text: str) -> str:
    return f"<p>{esc(text)}</p>"


def tokens(j: Walkthrough) -> str:
    """The tokenizer's stages."""
    rows = []
    for stage in j.stages:
        parts = spell_parts(stage, j.special)
        more = f" <small>and {len(parts) - SHOWN_PARTS} more</small>" if len(parts) > SHOWN_PARTS else ""
        boxes = "<wbr>".join(f'<span class="token">{esc(p)}</span>' for p in parts[:SHOWN_PARTS]) or "(nothing)"
        rows.append((esc(stage.name), f'<div class="tokens">{boxes}{more}</div>', esc(stage.rule)))
    how = f'<p class="source">{esc(j.tokenizer)}. <code>tokenizer.ggml.model</code></p>'
    marks = intro(f"Marks: {j.marks}.") if j.marks else ""
    return intro(TOKENS) + how + table(["stage", "becomes", "by"], rows, caption="Stages of the tokenizer") + marks


def steps(found: Sequence[Step]) -> str:
    """Each step with its formula, source, shape and numbers."""
    return "".join(map(one_step, found))


def one_step(s: Step) -> str:
    formula = f'<div class="formula mono">{esc(s.formula)}</div>' if s.formula else ""
    where = "; ".join(f"{esc(o.letter)} = <code>{esc(o.what)}</code>" for o in s.how.operands)
    formula += f'<p class="source">{where}</p>' if where else ""
    origin = f'<p class="source"><i>{esc(s.source)}</i></p>' if s.source else ""
    more = " ..." if np.prod(s.shape) > FIRST else ""
    return (
        f"<h3>{esc(s.title or s.label)} <code>{esc(s.label)}</code></h3>{formula}"
        f'<p class="mono">{spell_shape(s.shape)}; {esc(s.whose)}: {spell_numbers(s.numbers)}{more}</p>{origin}'
    )


def layer(j: Walkthrough) -> str:
    """The steps of the chosen layer."""
    return intro(LAYER.format(T=j.n_tokens)) + steps(j.inside)


def attention(j: Walkthrough, head: int | None) -> str:
    if not j.attention:
        return "".join(intro(note) for note in j.notes if "attention" in note)
    first = j.layer if j.layer in j.attention else min(j.attention)
    words = "Which token's values go into which token. Choose a layer and one of its heads."
    return intro(words) + attention_map("attention-map", j.attention, j.pieces, layer=first, head=head)


def layers(j: Walkthrough) -> str:
    """Lengths of the hidden states, and each layer in numbers."""
    lengths = np.array([np.linalg.norm(x, axis=1) for x in j.hidden])  # (layers + 1, T)
    labels = ["input", "layer 0", *map(str, range(1, len(j.hidden) - 1))]
    lines = [Line("mean of all tokens", lengths.mean(axis=1).tolist())]
    if j.n_tokens > 1:
        lines += [
            Line(f"first, {j.pieces[0]}", lengths[:, 0].tolist()),
            Line(f"last, {j.pieces[-1]}", lengths[:, -1].tolist()),
        ]
    log = float(lengths.max()) > 50 * float(max(lengths.min(), 1e-30))
    alt = f"Length of the hidden states after each layer: from {lengths[0].mean():.4g} to {lengths[-1].mean():.4g}."
    drawn = plot(
        lines, alt, x_labels=labels, y_name="|x|", log=log, titles=["input", *(f"layer {x.layer}" for x in j.layers)]
    )
    rows = [
        (
            str(x.layer),
            f"{x.norm:.4g}",
            f"{x.kept:.4f}",
            opt(x.entropy, ".2f"),
            opt(x.to_self, ".1%"),
            opt(x.to_first, ".1%"),
        )
        for x in j.layers
    ]
    heads = [">layer", ">mean |x|", ">cos(out, in)", ">entropy of attention, bits", ">to itself", ">to the first token"]
    note = "cos(out, in) says how much of its direction a token keeps; entropy how widely it looks: 0 is at one token."
    return figure(drawn, esc(alt)) + intro(note) + table(heads, rows, caption="Layers in numbers") + states(j)


def states(j: Walkthrough) -> str:
    """The last hidden states as a picture."""
    x = j.hidden[-1]
    alt = (
        f"Heat map of the hidden states after the last layer: {x.shape[0]} tokens from the top, {x.shape[1]} channels."
    )
    sizes = np.abs(x[np.isfinite(x)])
    spread = float(np.quantile(sizes, 0.995)) or None if sizes.size else None
    note = "A row of pixels is a token, a column a channel; channels larger than the scale have its last color."
    return figure(heat(x, alt, signed=True, most=spread), f"{esc(alt)} {note}")


def pooling(j: Walkthrough) -> str:
    """The formula, and what each token has to do with the result."""
    origin = [f"<i>{esc(j.pooling.source)}</i>"] if j.pooling.source else []
    origin += [f"<code>{esc(j.pooling.reads)}</code>"] if j.pooling.reads else []
    text = f'<h3>{esc(j.pooling.title)}</h3><div class="formula mono">{esc(j.pooling.formula)}</div>'
    text += f'<p class="source">{". ".join(origin)}</p>'
    text += steps(j.behind)
    if j.shares is not None:
        text += "<h3>What each token contributes</h3>" + intro(spell_shares(j)) + strip(j.pieces, j.shares.tolist())
    return text + "".join(intro(note) for note in j.notes if "pooling" in note)


def normalization(j: Walkthrough) -> str:
    """The last step."""
    unit = normalized(j)
    if j.pooled is None or unit is None or len(j.pooled) < 2:
        return ""
    alt = f"The vector: {len(unit)} numbers between {unit.min():.3g} and {unit.max():.3g}, the first one at the left."
    return (
        '<div class="formula mono">y = p / |p|,  |p| = sqrt(Σ p²)</div>'
        f'<p class="source">llama.cpp <code>embd_normalize</code> = 2, Euclid</p>'
        f'<p class="mono">|p| = {np.linalg.norm(j.pooled):.6g}; p: {esc(spell_numbers(j.pooled[:FIRST]))} ...</p>'
        f'<p class="mono">y: {esc(spell_numbers(unit[:FIRST]))} ...; |y| = {np.linalg.norm(unit):.6g}</p>'
        + figure(heat(unit[None], alt, signed=True, height=44), esc(alt))
    )


def similarity(j: Walkthrough) -> str:
    """Cosines of all texts with each other."""
    if j.vectors is None:
        return "".join(intro(note) for note in j.notes if "compared" in note)
    n = len(j.vectors)
    x = np.asarray([[float(cosine(a, b)) for b in j.vectors] for a in j.vectors])
    alt = f"Cosines of {n} texts with each other. " + closest(x, j.texts)
    side = min(max(36 * n, 120), 480)
    names = table(
        [">", "text"], [(str(i + 1), esc(clipped(t, 120))) for i, t in enumerate(j.texts)], caption="The texts"
    )
    text = '<div class="formula mono">cos(a, b) = a · b / (|a| |b|)</div>' + names
    if n <= 12:
        rows = [(str(i + 1), *(f"{v:.3f}" for v in x[i])) for i in range(n)]
        text += table([">", *(f">{i + 1}" for i in range(n))], rows, caption="Cosines")
    return text + figure(heat(x, alt, signed=bool((x < 0).any()), most=1.0, height=side), esc(alt))


def closest(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], texts: Sequence[str]) -> str:
    """The two texts that are most alike, in words."""
    y = np.where(np.eye(len(x), dtype=bool), -np.inf, x)
    i, k = divmod(int(y.argmax()), len(y))
    return f"Most alike are “{clipped(texts[i], 40)}” and “{clipped(texts[k], 40)}”: {x[i, k]:.3f}."


def model(j: Walkthrough) -> str:
    """What the model is."""
    rows = [(esc(k), esc(f"{v:,}" if isinstance(v, int) else v)) for k, v in j.info.items()]
    return table(["what", "value"], rows, kind="facts")


def opt(x: float | None, form: str) -> str:
    """A number, or nothing."""
    return "" if x is None else format(x, form)
