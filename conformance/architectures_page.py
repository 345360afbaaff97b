"""docs/architectures.md: what each architecture is made of, read from its own declarations, and what was measured."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conformance import FOLDER
from conformance.architectures import LENGTHS, Row, Variant, load_data, load_variants
from conformance.architectures_faults import planted
from refembed.gguf import open_gguf
from refembed.kernels.numerics import load_ops
from refembed.model import ARCHITECTURES, Model, load_model
from refembed.model.batch import pack
from refembed.model.hparams import Hparams
from refembed.model.trace import Recorder
from refembed.pipeline.vectors import forward_and_pool

PAGE = FOLDER.parent / "docs" / "architectures.md"
COMMON_KEYS = (  # every architecture reads these
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "pooling_type",
)  # fmt: skip
KINDS = {
    "moe": "layers with experts", "dense": "layers without experts", "shared": "layers with a shared expert",
    "recurrent": "layers with a state", "attention": "layers with attention",
    "longrope": "where RoPE's scaling is longrope", "not longrope": "where it is not",
    "of 64 or more": "models of 64 layers or more",
    "keys": "layers with keys of their own", "sees all": "where a layer has no window",
    "per layer": "where there are per-layer inputs",
    "queries at once": "where queries come of one matrix",
    "queries through a rank": "where queries come of a short vector",
    "absorbed": "where the file has attn_k_b", "not absorbed": "where it has attn_kv_b",
    "one value": "layers whose values come of one matrix", "value experts": "layers whose values experts make",
}  # fmt: skip
COMMENT = re.compile(r"^    (\w+): .*?  # (.*)$", re.MULTILINE)

HEADER = """\
# Architectures

Written by `python -m conformance architectures --write`; edit `conformance/architectures.json` or an architecture's own
file instead of this page.

An architecture is one flat file that reads like its paper's figure, `refembed/model/<name>.py`. Each is held, tensor by
tensor, against live llama.cpp (wheel xllamacpp {wheel}) on small models with random weights, in which every
optional tensor is there once and once not:

- `ggml`: **{bits} bits** of {tensors:,} tensors and of all vectors differ from llama.cpp's: operations on its own
  inputs, whole runs with flash attention and without, with weights interleaved or not, texts alone and in a batch.
- `exact` and `fast`: no tensor is without its partner, no operation is further off than its measured bound, no vector
  further than llama.cpp is from itself, and no bit changes with the batch.
- {faults} faults planted in the files, at least {least} an architecture, are each found at the first tensor they touch.

Shapes are rows first, GGUF's `ne` reversed. V words, C channels, P places, H heads, K heads of keys, D width of a head,
HD = H D, KD = K D, F width of feed-forward, X experts, R labels, rot channels of a head that turn, E width of a
per-layer input, LE = layers times E, exp width of an expert, shexp of the one that all tokens take, VX experts of
values, rq and rkv lengths of the short vectors that queries, keys and values come of, Dk and Dv widths of a head's keys
and values, nope channels of a key that do not turn, out length of a vector.
Keys that every architecture reads: {common}. Where a tensor's shape does not fit its keys, where
one is missing, or is there and means nothing, the file is refused with one message, as llama.cpp refuses it.
"""

MEASURED = """\
## Measured

{provenance}

`exact` and `fast`: the largest error of one operation on llama.cpp's own inputs, max |ours - theirs| / max |theirs|,
and its tensor. llama.cpp looks GELU up in a table of float16 numbers, and rounds what it multiplies with quantized (or
float16) weights: those are the errors above 1e-6. 1 - cos: of the vector of a whole run, the worst of {texts} texts;
floor: up to where llama.cpp is as far from itself. `ggml`: tensors, and numbers of vectors, that have other bits.

| architecture | variant | tensors | `exact` | its tensor | 1 - cos | `fast` | its tensor | 1 - cos | floor | `ggml` |
|---|---|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Seen:
    """What runs of an architecture's variants showed."""

    hparams: tuple[str, ...]  # fields that forward pass and head ask for, in the order of `Hparams`
    taps: tuple[str, ...]  # names without their layer, in order


def watched(hp: Hparams) -> tuple[Hparams, set[str]]:
    """The record, and the set that fills with the names of fields that are read from it."""
    asked: set[str] = set()
    names = {f.name for f in fields(Hparams)}

    class Watched(Hparams):
        """Notes who asks."""

        def __getattribute__(self, name: str) -> Any:
            if name in names:
                asked.add(name)
            return super().__getattribute__(name)

        sizes = property(lambda self: hp.sizes)  # of shapes: reading them asks for all of it

    made = Watched(**{name: getattr(hp, name) for name in names})
    asked.clear()
    return made, asked


def see(arch: str) -> Seen:
    """Run every variant of an architecture on a few tokens, in `exact`."""
    asked: set[str] = set()
    taps: dict[str, None] = {}
    for v in load_variants():
        if v.arch == arch:
            with TemporaryDirectory(prefix="refembed-") as folder:
                names, shown = see_one(v, Path(folder))
            asked |= names
            taps |= dict.fromkeys(re.sub(r"-\d+$", "", name) for name in shown)
    return Seen(tuple(f.name for f in fields(Hparams) if f.name in asked), tuple(taps))


def see_one(v: Variant, folder: Path) -> tuple[set[str], list[str]]:
    """Fields of one variant that were asked for, and names of its tensors."""
    model = load_model(open_gguf(v.write(folder / "m.gguf", type_name="F32")))
    hp, asked = watched(model.hparams)
    model, ops, recorder, batch = Model(hp, model.weights, model.module), load_ops("exact"), Recorder(), pack([[5, 6]])
    forward_and_pool(model, ops, batch, v.pooling, recorder)
    return asked, [tap.name for tap in recorder.trace.tensors]


# -- one architecture --------------------------------------------------------------------------------------------------


def section(arch: str) -> list[str]:
    """Everything about one architecture but the measurements."""
    about, module = load_data()[arch], ARCHITECTURES[arch]
    seen, file = see(arch), Path(str(module.__file__)).name
    faults = [(name, first) for a, name, first in planted() if a == arch]
    lines = [f"## {arch}", "", *documented(str(module.__doc__)), ""]
    links = " · ".join(f"[arXiv:{paper}](https://arxiv.org/abs/{paper})" for paper in about["papers"])
    lines += [f"[refembed/model/{file}](../refembed/model/{file})" + (f" · {links}" if links else ""), ""]
    lines += ["| tensor | shape | bias | is there |", "|---|---|---|---|", *tensors(module.Weights), ""]
    lines += ["| key | |", "|---|---|", *keys(arch, seen), ""]
    lines += ["Taps: " + ", ".join(f"`{name}`" for name in seen.taps) + ".", ""]
    lines += ["Mind:", "", *(f"- {trap}" for trap in about["traps"]), ""]
    lines += [f"Faults planted, {len(faults)}, each with the tensor where it is found:", ""]
    lines += [f"- {name}: `{first}`" for name, first in faults]
    return [*lines, ""]


def documented(text: str) -> list[str]:
    """A file's own description: its prose, and the drawing as it stands."""
    lines, drawn = text.strip().splitlines(), False
    out: list[str] = []
    for line in lines:
        drawing = bool(re.match(r" {4}", line))
        if drawing != drawn:
            while out and not out[-1]:
                out.pop()
            out += ["```", ""] if drawn else ["", "```text"]
            drawn = drawing
        if line or not out or out[-1]:
            out.append(line)
    return out + (["```"] if drawn else [])


def tensors(declaration: type, prefix: str = "") -> Iterator[str]:
    """Rows of a declaration."""
    for f in fields(declaration):
        m, name = f.metadata, prefix + f.metadata.get("name", f.name)
        if m["kind"] == "blocks":
            yield from tensors(m["block"], f"{name}.i.")
            continue
        if m["presence"] == "absent":  # of a declaration that it shares
            continue
        bias = {"required": "yes", "optional": "optional", "absent": ""}[m["bias"]]
        name += f".{end}" if (end := m.get("end", "weight")) != "weight" else ""
        yield f"| `{name}` | {m['shape'].replace('|', ' or ')} | {bias} | {presence(m)} |"


def presence(m: Mapping[str, Any]) -> str:
    """When a tensor is there."""
    first = m.get("first")
    words = [{"required": "", "optional": "optional"}[m["presence"]]]
    words += [f"where there is no `{m['unless']}`"] if m["unless"] else []
    words += [KINDS[m["layers"]]] if m["layers"] else []
    words += [f"required in {KINDS[m['needed']]}"] if m.get("needed") else []
    words += [f"{'required' if first == 'required' else first} in layer 0"] if first else []
    return ", ".join(filter(None, words)) or "always"


def keys(arch: str, seen: Seen) -> Iterator[str]:
    """Keys that this architecture's runs depend on, besides those that all read, in the words of `Hparams`."""
    said = dict(COMMENT.findall(inspect.getsource(Hparams)))
    norm = {"rms": "layer_norm_rms_epsilon", "layer": "layer_norm_epsilon"}[ARCHITECTURES[arch].TRAITS.norm]
    yield f"| `{arch}.attention.{norm}` | required |"
    defaults = {f.name: f.default for f in fields(Hparams)}
    for name in seen.hparams:
        found = re.search(r"\{arch\}\.([\w.]+)", said.get(name, ""))
        if not found or found[1] in COMMON_KEYS or "epsilon" in found[1] or not concerns(arch, name, said[name]):
            continue
        words = re.sub(r"^\(\w\) | \([\w, -]+\)", "", said[name].replace("of {arch}." + found[1], "of it"))
        words = re.sub(r"(: )?\{arch\}\." + re.escape(found[1]), "", words).replace("{arch}.", "").strip(" ,:;")
        default = defaults[name]
        if "else" not in words and "required" not in words and isinstance(default, (bool, int, float)):
            words += f"{', ' if words else ''}else {str(default).lower()}"
        yield f"| `{arch}.{found[1]}` | {words} |"


def concerns(arch: str, name: str, words: str) -> bool:
    """Whether a field says anything to this architecture: some are others' alone, and patterns are of windows."""
    others = [a for a in re.findall(r"\(([\w-]+)\)", words) if a in ARCHITECTURES]
    traits = ARCHITECTURES[arch].TRAITS
    if name == "swa_layers":
        return bool(traits.window != "none" and traits.recurrent == "none")
    return not others or arch in others or name in ("rope_finetuned", "residual_scale")


# -- the page ----------------------------------------------------------------------------------------------------------


def glance(rows: Sequence[Row]) -> Iterator[str]:
    """A row an architecture: the worst of its variants."""
    counts = [arch for arch, _, _ in planted()]
    for arch in ARCHITECTURES:
        mine = [r for r in rows if r.arch == arch]
        traits, n = ARCHITECTURES[arch].TRAITS, len(mine) // 3
        places = {"none": "", "norm": "RoPE, neighbors", "neox": "RoPE, halves"}[traits.rope]
        places = {"bert": "learned", "jina-bert-v2": "ALiBi", "t5encoder": "buckets"}.get(arch, places)
        bits = sum(len(r.wrong) + r.vectors + r.batch for r in mine if r.numerics == "ggml")
        floats = [r for r in mine if r.group == arch]
        far = [max((r.distance for r in floats if r.numerics == kind), default=0.0) for kind in ("exact", "fast")]
        mask = "all" if traits.encoder else "back"
        window = {"none": "", "standard": ", window", "symmetric": ", window"}[traits.window]
        yield (
            f"| [{arch}](#{arch}) | {places} | {'RMS' if traits.norm == 'rms' else 'layer'} | {mask}{window} | {n} "
            f"| {sum(r.tensors for r in mine):,} | {counts.count(arch)} | {far[0]:.1e} | {far[1]:.1e} | {bits} |"
        )


def measured(rows: Sequence[Row]) -> Iterator[str]:
    """A row a variant."""
    by = {(r.arch, r.variant, r.numerics): r for r in rows}
    for v in load_variants():
        three = [by.get((v.arch, v.name, numerics)) for numerics in ("exact", "fast", "ggml")]
        if any(r is None for r in three):
            continue
        exact, fast, ggml = (r for r in three if r is not None)
        cells = [v.arch, v.name, f"{exact.tensors + fast.tensors + ggml.tensors:,}"]
        for r in (exact, fast):
            cells += [f"{r.worst[0]:.1e}", "`" + r.worst[1].split(",")[0] + "`", f"{r.distance:.1e}"]
        yield "| " + " | ".join([*cells, f"{exact.floor:.1e}", str(len(ggml.wrong) + ggml.vectors + ggml.batch)]) + " |"


def page(rows: Sequence[Row], where: Mapping[str, str], date: str) -> str:
    """The whole of it."""
    faults = [arch for arch, _, _ in planted()]
    ggml = [r for r in rows if r.numerics == "ggml"]
    lines = [
        HEADER.format(
            wheel=where["oracle"].split("xllamacpp ")[1].split(",")[0],
            bits=sum(len(r.wrong) + r.vectors + r.batch for r in ggml),
            tensors=sum(r.tensors for r in ggml),
            faults=len(faults),
            least=min(faults.count(arch) for arch in ARCHITECTURES),
            common=", ".join(f"`{name}`" for name in COMMON_KEYS),
        )
    ]
    lines += ["| | places | norm | tokens see | variants | tensors | faults | `exact` | `fast` | `ggml` |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|", *glance(rows), ""]
    lines += [
        "`exact`, `fast`: 1 - cos of the worst variant; `ggml`: numbers of all variants that differ in a bit.",
        "",
    ]
    for arch in ARCHITECTURES:
        lines += section(arch)
    provenance = f"{date}; {where['oracle']}; {where['cpu']}; NumPy {where['numpy']}, {where['blas']}."
    lines += [MEASURED.format(provenance=provenance, texts=len(LENGTHS)) + "\n".join(measured(rows)), ""]
    return "\n".join(lines)
