"""Does the engine run the same model at all? What it says of itself is compared before any vector is.

A server names its model file, the length of its hidden states, the size of its vocabulary and its parameters
(llama-server: /props, /v1/models), and shows its tokens (/tokenize, /detokenize). Where these are of another model, no
hypothesis about the arithmetic can help, and vectors of unequal length have no distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from refembed.pipeline.inputs import unknown_id
from refembed.verify.engines.base import Engine
from refembed.verify.reference import Reference
from refembed.verify.verdict import Cause

Ids = Sequence[tuple[str, list[int], list[int]]]  # text, ours, theirs
SAMPLE = 12  # tokens whose text is compared
PREVIEWED, MOST = 6, 200  # texts, and tokens, that a report shows with their pieces
FOREIGN = 0.5  # of these: so many read otherwise, and the vocabularies are two
PARAMETERS = 0.01  # by which the numbers of parameters of one model may differ (a head that is kept or left out)


def other_model(reference: Reference, engine: Engine, info: dict[str, Any], ids: Ids) -> Cause | None:
    """A finding where what the engine says of its model is not true of the reference's. None where it all fits.

    ids  texts whose tokens differ
    """
    theirs, ours = facts_of_engine(info), facts_of_reference(reference)
    different = [key for key in ("n_embd", "n_vocab") if key in theirs and theirs[key] != ours[key]]
    if not different and ids and not shares_vocabulary(reference, engine, ids):
        return Cause("other-model", f"runs another model: {served(info)} with another vocabulary; {this(reference)}")
    if not different:
        return None
    return Cause(
        "other-model", f"runs another model: {described(info, theirs, different)}; {this(reference, different)}"
    )


def other_size(reference: Reference, info: dict[str, Any]) -> Cause | None:
    """A finding where the engine's model has another number of parameters: asked when the vectors do not agree."""
    theirs, ours = facts_of_engine(info), facts_of_reference(reference)
    n = theirs.get("n_params")
    if not n or abs(n - ours["n_params"]) <= PARAMETERS * ours["n_params"]:
        return None
    keys = ["n_params"]
    return Cause("other-model", f"runs another model: {described(info, theirs, keys)}; {this(reference, keys)}")


def other_width(reference: Reference, info: dict[str, Any], width: int) -> Cause:
    """The finding for vectors that no pooling of the reference's has the length of."""
    return Cause(
        "other-model",
        f"runs another model: {served(info)} with vectors of {width} numbers; {this(reference)} with vectors of "
        f"{reference.info.n_embd_out}",
    )


def facts_of_engine(info: dict[str, Any]) -> dict[str, int]:
    """What the engine says of its model, as far as it is llama-server's /v1/models."""
    if info.get("server") != "llama-server":
        return {}
    keys = ("n_embd", "n_vocab", "n_params")
    return {key: int(info[key]) for key in keys if isinstance(info.get(key), (int, float))}


def facts_of_reference(reference: Reference) -> dict[str, int]:
    """The same of the reference."""
    info = reference.info
    return {"n_embd": info.n_embd, "n_vocab": info.n_vocab, "n_params": info.n_params}


def file_name(path: object) -> str:
    """The last part of a path, of whatever system."""
    text = str(path or "")
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name


def served(info: dict[str, Any]) -> str:
    """`the server serves bge-small.gguf`."""
    name = file_name(info.get("model_path") or info.get("model"))
    who = "the server serves" if "url" in info else "the engine runs"
    return f"{who} {name or 'a model'}"


def is_named(info: dict[str, Any]) -> bool:
    """Whether the engine says which model it runs."""
    return bool(info.get("model_path") or info.get("model"))


def this(reference: Reference, keys: Sequence[str] = ()) -> str:
    """`this file is all-MiniLM.gguf (n_embd 384)`."""
    ours = facts_of_reference(reference)
    sizes = ", ".join(f"{key} {ours[key]:,}" for key in keys)
    return f"this file is {file_name(reference.info.path)}" + (f" ({sizes})" if sizes else "")


def described(info: dict[str, Any], theirs: dict[str, int], keys: Sequence[str]) -> str:
    """`the server serves bge-base.gguf (n_embd 768)`."""
    return f"{served(info)} ({', '.join(f'{key} {theirs[key]:,}' for key in keys)})"


# -- vocabularies ----------------------------------------------------------------------------------------------------


def shares_vocabulary(reference: Reference, engine: Engine, ids: Ids) -> bool:
    """Whether the engine's tokens can be read with the reference's vocabulary.

    By the text of its tokens, where it shows that; an id beyond the reference's vocabulary is of another one.
    """
    theirs = [i for _, _, other in ids for i in other]
    if unknown_id(theirs, reference.info.n_vocab) is not None:
        return False
    special = {reference.tokenizer.vocab.bos, reference.tokenizer.vocab.eos, reference.tokenizer.vocab.sep}
    chosen = [i for i in dict.fromkeys(theirs) if i not in special][:SAMPLE]
    pieces = pieces_of(engine, chosen)
    if pieces is None:
        return True
    ours = [reference.tokenizer.decode([i]) for i in chosen]
    odd = sum(a.strip() != b.strip() for a, b in zip(ours, pieces, strict=True))
    return odd <= FOREIGN * len(chosen)


def pieces_by_id(engine: Engine, ids: Ids) -> dict[int, str]:
    """The engine's own text of the tokens of a few texts, by id; empty where it does not show it."""
    chosen = sorted({i for _, _, other in ids[:PREVIEWED] for i in other})[:MOST]
    pieces = pieces_of(engine, chosen)
    return {} if pieces is None else dict(zip(chosen, pieces, strict=True))


def pieces_of(engine: Engine, ids: Sequence[int]) -> list[str] | None:
    """The text of tokens in the engine's own vocabulary; None where it does not show it."""
    ask: Callable[[Sequence[int]], list[str] | None] | None = getattr(engine, "pieces", None)
    return ask(ids) if ask and ids else None
