"""Hugging Face folders drawn at random, converted, and held against `transformers` and sentence-transformers.

    .venv-peers/bin/python -m tests.hf_generator --count 300 --seed 0     # numbers for CHANGELOG and docs
    .venv-peers/bin/python -m tests.hf_generator --only 17 --seed 0       # one folder, with everything about it
    .venv-peers/bin/python -m tests.hf_generator --count 40 --llama-cpp SOURCE   # and llama.cpp's own converter

SOURCE is the folder of convert_hf_to_gguf.py (record_converter.py says where it comes from): its file is compared
tensor by tensor and key by key, but for the tokenizer.

A folder is a tiny model of one architecture: its config class with drawn values (hf_generator_models.py), a head,
random weights of a drawn type in a drawn layout, config.json with some default keys removed, modules.json or none.
Whether refembed should take it is not written down anywhere: what it converts must give the vectors that the libraries
give of the same folder, in float64 (they open it themselves). So there are three outcomes:

    converted   the vectors agree within BOUND, or the converter said that they would not
    wrong       they do not agree, and nothing was said: a fault of the converter
    refused     a ModelError; the report lists them by what they say
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.hf_generator_models import FAMILIES, UNSUPPORTED, Family
from tests.peers.folders import scatter

BOUND = 1e-4  # largest difference over the largest number; see BOUND_MEASURED in tests/peers/test_convert_generated.py
SAID = ("scores are not those of `transformers`", "says nothing", "does not read that key")
TEXTS = [[15], [17, 30, 41], list(range(20, 49)), [99, 14, 55, 16, 13]]


@dataclass
class Case:
    """One drawn folder."""

    number: int
    family: str
    kind: str  # the class: "BertModel"
    config: dict[str, Any]
    modules: str = ""  # a key of MODULES
    layout: str = "single"
    dtype: str = "float32"
    removed: list[str] = field(default_factory=list)  # keys taken out of config.json
    old: bool = False  # config.json is spelled as `transformers` 4 did
    rerank: bool = False  # a Qwen3 with the heading of a reranker

    def __str__(self) -> str:
        parts = [f"#{self.number} {self.kind} {self.config}", self.modules, self.layout, self.dtype]
        return " | ".join(filter(None, [*parts, f"without {self.removed}" if self.removed else "", "old" * self.old]))


@dataclass
class Outcome:
    """What became of a folder."""

    case: Case
    error: float | None = None  # relative; None: refused
    refused: str = ""
    said: list[str] = field(default_factory=list)
    differ: list[str] | None = None  # tensors and keys that llama.cpp's converter writes otherwise; None: not asked

    @property
    def wrong(self) -> bool:
        """Converted without a word, and not the model that the libraries run."""
        return self.error is not None and not self.error < BOUND and not any(s in n for s in SAID for n in self.said)


# What modules.json holds: settings of the Pooling, and the Dense modules (in, out, bias, activation)
MODULES: dict[str, tuple[dict[str, Any], list[tuple[Any, Any, bool, str]]]] = {
    "mean": ({"pooling_mode": "mean"}, []),
    "cls": ({"pooling_mode": "cls"}, []),
    "last": ({"pooling_mode": "lasttoken"}, []),
    "max": ({"pooling_mode": "max"}, []),
    "weighted": ({"pooling_mode": "weightedmean"}, []),
    "sqrt": ({"pooling_mode": "mean_sqrt_len_tokens"}, []),
    "list of one": ({"pooling_mode": ["cls"]}, []),
    "two": ({"pooling_mode": ["cls", "mean"]}, []),
    "old mean": ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, []),
    "old two": ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True}, []),
    "old none": ({"pooling_mode_cls_token": False}, []),
    "old cls": ({"pooling_mode_cls_token": True}, []),
    "dense twice": ({"pooling_mode": "mean"}, [("C", 40, False, "Identity"), (40, "C", False, "Identity")]),
    "dense once": ({"pooling_mode": "mean"}, [("C", "C", False, "Identity")]),
    "dense narrower": ({"pooling_mode": "mean"}, [("C", 24, False, "Identity")]),
    "dense with tanh": ({"pooling_mode": "mean"}, [("C", "C", False, "Tanh")]),
    "dense with bias": ({"pooling_mode": "cls"}, [("C", "C", True, "Identity")]),
}
LAYOUTS = ("single", "single", "single", "sharded", "variant", "stale index", "shards without index")
DTYPES = ("float32", "float32", "float16", "bfloat16")


def draw(number: int, seed: int) -> Case:
    """The case of that number: the same on every machine."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(list(FAMILIES))
    family = FAMILIES[name]
    config = {key: rng.choice(values) for key, values in family.always.items()}
    for key in rng.sample(list(family.drawn), min(len(family.drawn), rng.choice((0, 0, 1, 1, 2, 3)))):
        config[key] = rng.choice(family.drawn[key])
    case = Case(number, name, rng.choice(family.classes), config)
    case.layout, case.dtype = rng.choice(LAYOUTS), rng.choice(DTYPES)
    if "ForSequence" in case.kind:
        labels = rng.choice((1, 2, 2, 3))
        case.config |= rng.choice(({"num_labels": labels}, {"id2label": {i: f"name {i}" for i in range(labels)}}))
    elif rng.random() < 0.5:
        case.modules = rng.choice(list(MODULES))
    case.rerank = case.kind == "Qwen3ForCausalLM" and not case.modules and rng.random() < 0.7
    if rng.random() < 0.3:
        case.removed = rng.sample(family.removable, min(2, len(family.removable)))
    case.old = rng.random() < 0.3
    return case


def old_spelling(raw: dict[str, Any]) -> None:
    """Rewrite a config.json with the keys of `transformers` 4, which 5 reads as well."""
    rope = raw.pop("rope_parameters", None)
    if rope and "full_attention" in rope:
        local = "local_rope_theta" if raw["model_type"] == "modernbert" else "rope_local_base_freq"
        whole = "global_rope_theta" if raw["model_type"] == "modernbert" else "rope_theta"
        raw[whole], raw[local] = (rope[kind]["rope_theta"] for kind in ("full_attention", "sliding_attention"))
        scaled = {k: v for k, v in rope["full_attention"].items() if k != "rope_theta"}
    elif rope:
        raw["rope_theta"] = rope["rope_theta"]
        scaled = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
        if "partial_rotary_factor" in rope:
            raw["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if rope:
        raw["rope_scaling"] = scaled if scaled.get("rope_type", "default") != "default" else None
    kinds = raw.get("layer_types")
    if raw["model_type"] == "gemma3_text" and kinds == ["sliding_attention"] * 5 + ["full_attention"] + kinds[6:]:
        raw["sliding_window_pattern"] = 6
        del raw["layer_types"]
    dense = [i for i, kind in enumerate(kinds or ()) if kind == "full_attention"]
    if raw["model_type"] == "modernbert" and len(dense) > 1 and dense == list(range(0, len(kinds), dense[1])):
        raw["global_attn_every_n_layers"] = dense[1]
        del raw["layer_types"]
    raw["torch_dtype"] = raw.pop("dtype", None)


def save(case: Case, folder: Path) -> None:
    """Write the folder."""
    import torch
    import transformers

    family: Family = FAMILIES[case.family]
    made = getattr(transformers, family.config)(**family.sizes | case.config)
    model = scatter(getattr(transformers, case.kind)(made), case.number).to(getattr(torch, case.dtype))
    sharded = case.layout in ("sharded", "shards without index")
    model.save_pretrained(folder, safe_serialization=True, **({"max_shard_size": "20KB"} if sharded else {}))
    family.tokenizer(folder)
    config = folder / "config.json"
    raw = json.loads(config.read_text())
    fresh = getattr(transformers, family.config)().to_dict()
    for key in case.removed:
        if key in raw and raw[key] == fresh.get(key):
            del raw[key]
    if case.family == "gemma3" and "sliding_window" in family.sizes | case.config:
        raw["sliding_window"] = (family.sizes | case.config)["sliding_window"]
    if case.old:
        old_spelling(raw)
    config.write_text(json.dumps(raw))
    if case.layout == "variant":
        (folder / "model.fp16.safetensors").write_bytes(b"not read")
    if case.layout == "stale index":
        (folder / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"x": "gone"}}')
    if case.rerank:
        (folder / "README.md").write_text("# Qwen3-Reranker-tiny\n")
    if case.modules:
        write_modules(case, folder, raw.get("hidden_size") or raw.get("dim") or raw["d_model"])


def write_modules(case: Case, folder: Path, width: int) -> None:
    """modules.json and its folders."""
    import torch
    from safetensors.torch import save_file

    settings, matrices = MODULES[case.modules]
    places = [("Transformer", ""), ("Pooling", "1_Pooling")]
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": width} | settings
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    torch.manual_seed(case.number)
    for i, (rows, columns, bias, activation) in enumerate(matrices):
        place = folder / f"{i + 2}_Dense"
        place.mkdir()
        wide, out = (width if n == "C" else n for n in (rows, columns))
        name = "torch.nn.modules." + ("linear.Identity" if activation == "Identity" else f"activation.{activation}")
        facts = {"in_features": wide, "out_features": out, "bias": bias, "activation_function": name}
        (place / "config.json").write_text(json.dumps(facts))
        tensors = {"linear.weight": torch.randn(out, wide)} | ({"linear.bias": torch.randn(out)} if bias else {})
        save_file(tensors, place / "model.safetensors")
        places.append(("Dense", place.name))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(places)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


def wanted(case: Case, folder: Path) -> list[Any]:
    """What the libraries give of the folder, in float64: states (T, C), vectors (D), or scores (R) of each text."""
    import torch
    import transformers

    model = getattr(transformers, case.kind).from_pretrained(folder, dtype=torch.float64).eval()
    base = model if case.kind.endswith("EncoderModel") else getattr(model, "base_model", model)
    found = []
    with torch.no_grad():
        for ids in TEXTS:
            row = torch.tensor([ids])
            if "ForSequence" in case.kind:
                found.append(model(row).logits[0].numpy())
            elif case.rerank:
                vocab = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
                yes, no = (next(t["id"] for t in vocab if t["content"] == word) for word in ("yes", "no"))
                found.append(torch.softmax(model(row).logits[0, -1, [yes, no]], 0).numpy())
            else:
                states = base(row).last_hidden_state
                found.append(run_modules(folder, states) if case.modules else states[0].numpy())
    return found


def run_modules(folder: Path, states: Any) -> Any:
    """sentence-transformers' own modules on hidden states (1, T, C): a vector (D)."""
    import torch
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling

    features = {"token_embeddings": states, "attention_mask": torch.ones(states.shape[:2], dtype=torch.long)}
    for module in json.loads((folder / "modules.json").read_text())[1:]:
        made: Any = {"Pooling": Pooling, "Dense": Dense}[module["type"].rpartition(".")[2]]
        features = made.load(str(folder), subfolder=module["path"]).double()(features)
    return features["sentence_embedding"][0].numpy()


def found(case: Case, path: Path) -> list[Any]:
    """What refembed gives of the file, in float64."""
    from refembed import Embedder

    tanh = any(case.config.get(key, "gelu") not in ("gelu", "gelu_python") for key in ("hidden_act", "activation"))
    decoder = case.family in ("qwen2", "qwen3", "llama", "eurobert")
    e = Embedder.load(path, numerics="exact", semantics="llama.cpp" if tanh and not decoder else "original")
    if "ForSequence" in case.kind or case.rerank:
        return [e.embed([ids], pooling="rank", normalize=-1)[0] for ids in TEXTS]
    how = "native" if case.modules else "none"
    return [e.embed([ids], pooling=how, normalize=-1)[0] for ids in TEXTS]


def differing(case: Case, folder: Path, path: Path, source: Path) -> list[str]:
    """What llama.cpp's converter makes otherwise of the folder: names of tensors and keys, or that it takes it not."""
    from tests.record_converter import convert, describe

    try:
        flags = ("--sentence-transformers-dense-modules",) if "dense" in case.modules else ()
        theirs = convert(source, folder, "f32", patched=True, flags=flags)
    except Exception:
        return ["llama.cpp's converter does not take it"]
    ours = json.loads(json.dumps(describe(path)))
    tables = [{t[0]: t for t in file["tensors"]} for file in (ours, theirs)]
    tables += [
        {k: v for k, v in f["keys"].items() if not k.startswith(("tokenizer.", "general."))} for f in (ours, theirs)
    ]
    return [
        name
        for a, b in ((tables[0], tables[1]), (tables[2], json.loads(json.dumps(tables[3]))))
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


def attempt(case: Case, parent: Path, source: Path | None = None) -> Outcome:
    """Draw, convert, compare."""
    from refembed.convert.folder import convert
    from refembed.errors import ModelError

    folder, said = parent / f"folder-{case.number}", []
    save(case, folder)
    try:
        if case.layout == "shards without index":
            (folder / "model.safetensors.index.json").rename(parent / "index.json")
        path = convert(folder, parent / "model.gguf", say=said.append)
        if case.layout == "shards without index":
            (parent / "index.json").rename(folder / "model.safetensors.index.json")
        (folder / "model.fp16.safetensors").unlink(missing_ok=True)
        ours = found(case, path)
    except ModelError as e:
        return Outcome(case, refused=str(e).replace(str(parent), ""), said=said)
    finally:
        (parent / "index.json").unlink(missing_ok=True)
    differ = differing(case, folder, path, source) if source else None
    theirs = wanted(case, folder)
    errors = [
        np.abs(a - b).max() / np.abs(b).max() if a.shape == b.shape else np.inf
        for a, b in zip(ours, theirs, strict=True)
    ]
    shutil.rmtree(folder)
    return Outcome(case, error=float(max(errors)), said=said, differ=differ)


def refuse_unsupported(parent: Path) -> dict[str, str]:
    """What is said of architectures that refembed does not convert: class -> message, "" where nothing is."""
    from refembed.convert.folder import convert
    from refembed.errors import ModelError

    answers = {}
    for name in UNSUPPORTED:
        folder = parent / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"architectures": [name]}))
        try:
            convert(folder, parent / "x.gguf")
            answers[name] = ""
        except ModelError as e:
            answers[name] = str(e).splitlines()[0]
    return answers


def reason(message: str) -> str:
    """A refusal without its folder, numbers and names of layers, so that equal ones are counted together."""
    line = message.splitlines()[0].partition(": ")[2] or message.splitlines()[0]
    return re.sub(r"\d+", "N", line)[:110]


def report(outcomes: list[Outcome]) -> str:
    """The table."""
    converted = [o for o in outcomes if o.error is not None]
    agree = [o for o in converted if o.error is not None and o.error < BOUND]
    wrong = [o for o in outcomes if o.wrong]
    largest = max((o.error or 0 for o in agree), default=0)
    lines = [
        f"folders tried          {len(outcomes)}",
        f"converted, they agree  {len(agree)}, largest relative difference {largest:.2g}",
        f"converted, said to differ  {len(converted) - len(agree) - len(wrong)}",
        f"silently wrong         {len(wrong)}",
        f"refused                {len(outcomes) - len(converted)}",
    ]
    counts = collections.Counter(f"{o.case.family}: {reason(o.refused)}" for o in outcomes if o.error is None)
    lines += [f"  {n:3} {text}" for text, n in sorted(counts.items())]
    asked = [o.differ for o in outcomes if o.differ is not None]
    if asked:
        lines.append(f"file of llama.cpp's converter: the same {asked.count([])} times of {len(asked)}")
        kinds = collections.Counter(re.sub(r"\d+", "N", name) for names in asked for name in names)
        lines += [f"  {n:3} {name}" for name, n in sorted(kinds.items())]
    lines += [f"WRONG by {o.error:.2g}: {o.case} said {o.said}" for o in wrong]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--llama-cpp", type=Path)
    options = parser.parse_args()
    numbers = range(options.count) if options.only is None else [options.only]
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            case = draw(number, options.seed)
            try:
                outcomes.append(attempt(case, Path(scratch), options.llama_cpp))
            except Exception:
                print(f"in {case}", file=sys.stderr)
                raise
            if options.only is not None:
                print(case, outcomes[-1], sep="\n")
        unsupported = refuse_unsupported(Path(scratch))
    print(report(outcomes))
    print(f"other architectures    {sum(map(bool, unsupported.values()))} of {len(unsupported)} refused by name")


if __name__ == "__main__":
    main()
