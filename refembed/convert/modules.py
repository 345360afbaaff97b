"""modules.json of a sentence-transformers folder: what follows the transformer, and how much of it GGUF can keep.

    Transformer ─► Pooling ─► Dense ─► Dense ─► Normalize
                   {arch}.pooling_type   dense_2, dense_3 (gemma-embedding alone)

Vectors are normalized or not by their caller, so Normalize needs no place in the file. Every other module
changes the vectors, and is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refembed.convert.safetensors import Entry, SafetensorsFile
from refembed.convert.wordpiece import load_json, read_json
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}  # {arch}.pooling_type: enum llama_pooling_type
RANK = 4
# modules.json's words for what earlier versions said with a flag each, in the order in which vectors are joined
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
PLAIN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout", "LogitScore")
SPLADE = {"MLMTransformer": "Transformer", "SpladePooling": ""}  # of sparse encoders; the second has no place here
COLBERT = {"Dense": "", "MultiVectorMask": "", "Normalize": ""}  # of a vector for each token, likewise
IDENTITY = ("Identity", "None")
DENSE = ("dense_2", "dense_3")


@dataclass(frozen=True)
class Dense:
    """A matrix behind pooling."""

    name: str  # GGUF's: "dense_2"
    entry: Entry  # (out, in)


@dataclass(frozen=True)
class Modules:
    """What modules.json says."""

    pooling: int | None = None  # {arch}.pooling_type; None: no Pooling, or no modules.json
    dense: tuple[Dense, ...] = ()


def read_modules(
    folder: Path,
    architecture: str,
    *,
    keeps_dense: bool,
    width: int,
    notes: list[str],
    answers: tuple[int, int] | None = None,
    own: tuple[str, ...] = (),
) -> Modules:
    """modules.json and the folders that it names.

    architecture  the class in config.json, for messages
    keeps_dense   whether GGUF has a place for Dense modules of this architecture
    width         C, the transformer's channels
    notes         is added to where something is left aside
    answers       ids of "yes" and "no" of a reranker that answers with them; a LogitScore may then say the same
    own           classes in the repository's own code that are a Transformer

    ModelError for a module that would be lost, and for one that is not whole.
    """
    kinds = [(kind, path) for kind, path in module_kinds(folder, own) if not is_score(kind, folder / path, answers)]
    order = [kind for kind, _ in kinds]
    if "Dense" in order and not keeps_dense:
        hint = f"GGUF keeps no such module of {architecture}, and the vectors would be others"
        found = f"{folder / 'modules.json'}: a module of type Dense in {quote(kinds[order.index('Dense')][1])}"
        raise ModelError(found, hint=hint)
    if order and (order[0] != "Transformer" or order.count("Transformer") > 1 or order.count("Pooling") > 1):
        found = f"{folder / 'modules.json'}: the modules are {', '.join(order)}"
        raise ModelError(found, hint="refembed converts one Transformer first, then one Pooling")
    pooling: int | None = None
    matrices: list[Dense] = []
    for i, (kind, path) in enumerate(kinds):
        if kind == "Pooling":
            pooling = read_pooling(folder / path / "config.json", notes)
        if kind == "Dense":
            if "Pooling" not in order[:i] or "Normalize" in order[:i] or len(matrices) == len(DENSE):
                found = f"{folder / 'modules.json'}: the modules are {', '.join(order)}"
                hint = "GGUF keeps at most two Dense modules, between Pooling and Normalize"
                raise ModelError(found, hint=hint)
            matrices.append(Dense(DENSE[len(matrices)], read_dense(folder / path)))
    check_widths(folder, matrices, width)
    return Modules(pooling, tuple(matrices))


def is_score(kind: str, folder: Path, answers: tuple[int, int] | None) -> bool:
    """Whether a module is the LogitScore of a reranker with these answers. ModelError for any other LogitScore."""
    if kind != "LogitScore":
        return False
    settings = read_json(folder / "config.json", required=True)
    found = settings.get("true_token_id"), settings.get("false_token_id")
    if answers is None or found != answers:
        hint = 'GGUF keeps such a score of Qwen3-Reranker alone, of its tokens "yes" and "no"'
        raise ModelError(f"{folder}: a module of type LogitScore with tokens {found[0]} and {found[1]}", hint=hint)
    return True


def module_kinds(folder: Path, own: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """(kind, folder) of each module, in order; [] where there is no modules.json. own: as in `read_modules`."""
    path = folder / "modules.json"
    modules = load_json(path)
    if modules is None and not path.exists():
        return []
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelError(f"{path}: {quote(str(modules))}, not a list of modules", hint="is the file whole?")
    kinds, named, types = [], dict[str, str](), [str(module.get("type", "")) for module in modules]
    if any(kind.endswith(".SpladePooling") for kind in types):
        named = SPLADE
    elif any(kind.startswith("pylate.") or kind.endswith(".MultiVectorMask") for kind in types):
        named = COLBERT
    for module in modules:
        kind, place = str(module.get("type", "")), module.get("path", "")
        kind = "sentence_transformers.models.Transformer" if kind in own else kind
        package, _, name = kind.rpartition(".")
        name = named.get(name, name)  # `convert` refuses such models unless their head is kept (own_heads.py)
        if not name:
            continue
        if name not in PLAIN or not package.startswith("sentence_transformers."):
            hint = "GGUF keeps no such module, and the vectors would be others; refembed knows " + ", ".join(PLAIN)
            raise ModelError(f"{path}: a module of type {quote(kind)}", hint=hint)
        if not isinstance(place, str) or Path(place).is_absolute() or ".." in Path(place).parts:
            raise ModelError(f"{path}: {quote(str(place))} is no folder next to it", hint="is the file whole?")
        kinds.append((name, place))
    return kinds


def read_pooling(path: Path, notes: list[str]) -> int:
    """`{arch}.pooling_type` of a Pooling module's config.json."""
    settings = read_json(path, required=True)
    modes: Any = settings.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in FLAGS.items() if settings.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise ModelError(f"{path}: pooling_mode is {quote(str(modes))}", hint="one of " + ", ".join(POOLING))
    if len(modes) > 1:
        hint = f"GGUF keeps one pooling; {' and '.join(modes)} joined make a longer vector"
        raise ModelError(f"{path}: pooling_mode is {quote(', '.join(modes))}", hint=hint)
    if modes[0] not in POOLING:
        found = f"{path}: no pooling that GGUF knows: {quote(modes[0])}"
        raise ModelError(found, hint="it knows " + ", ".join(POOLING))
    if settings.get("include_prompt") is False:
        notes.append("include_prompt is false, and GGUF cannot say so: tokens of a prompt are pooled with the text's")
    return POOLING[modes[0]]


def read_dense(folder: Path) -> Entry:
    """The matrix of a Dense module. ModelError for one with a bias or an activation, which GGUF does not keep."""
    settings = read_json(folder / "config.json", required=True)
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))  # the library's default
    if activation.rpartition(".")[2] not in IDENTITY:
        hint = "GGUF keeps Dense modules without one (Identity)"
        raise ModelError(f"{folder}: activation_function is {quote(activation)}", hint=hint)
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            hint = "GGUF keeps Dense modules of a whole text's vector"
            raise ModelError(f"{folder}: {key} is {quote(str(settings[key]))}", hint=hint)
    path = folder / "model.safetensors"
    if not path.is_file():
        hint = "save the model again: SentenceTransformer(folder).save(...) writes safetensors"
        raise ModelError(f"{folder}: no model.safetensors of the Dense module", hint=hint)
    tensors = dict(SafetensorsFile(path))
    entry = tensors.pop("linear.weight", None)
    if tensors:
        hint = "GGUF keeps the matrix of a Dense module, linear.weight, and nothing else"
        raise ModelError(f"{path}: tensor {quote(min(tensors))}", hint=hint)
    sizes = [settings.get("out_features"), settings.get("in_features")]
    if entry is None or list(entry.shape) != sizes:
        found = f"{path}: linear.weight is {list(entry.shape) if entry else 'not there'}, config.json says {sizes}"
        raise ModelError(found, hint="are these files of one model?")
    return entry


def check_widths(folder: Path, matrices: list[Dense], width: int) -> None:
    """Refuse matrices that do not lead from C channels back to C: llama.cpp aborts on others."""
    at = width
    for dense in matrices:
        if dense.entry.shape[1] != at:
            found = f"{folder}: {dense.name} takes {dense.entry.shape[1]} numbers, but is given {at}"
            raise ModelError(found, hint="are these files of one model?")
        at = dense.entry.shape[0]
    if at != width:
        hint = f"llama.cpp takes vectors of {width} numbers, the model's own width, from this architecture"
        raise ModelError(f"{folder}: the last Dense module gives {at} numbers", hint=hint)
