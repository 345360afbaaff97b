"""`refembed info`: what a model file is. Reads no weights, and describes models that refembed cannot run too."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import click
import numpy as np

from refembed.cli.options import MODEL_SPELLINGS, json_option
from refembed.cli.show import escape, print_json, spell_shape, table
from refembed.errors import RefembedError
from refembed.gguf import GGUFFile, Metadata, StringArray, Tensor
from refembed.gguf.digest import sha256_of
from refembed.model import Model, load_model
from refembed.pipeline.opening import open_gguf
from refembed.pooling.poolers import POOLING_TYPES, resolve_pooling
from refembed.tokenizer import load_tokenizer

EPILOG = """\b
Examples:
  refembed info
  refembed info model.gguf
  refembed info model.gguf --tensors | grep attn_q
  refembed info model.gguf --metadata --json
"""

LABELS = {  # key in JSON, named as `Embedder.info` names it -> head in the table
    "name": "name",
    "path": "file",
    "file_size": "file size",
    "sha256": "sha256",
    "gguf_version": "GGUF version",
    "byteorder": "byte order",
    "architecture": "architecture",
    "n_embd": "channels",
    "n_embd_out": "vector length",
    "n_ctx": "longest text",
    "n_layer": "layers",
    "n_head": "heads",
    "n_ff": "feed-forward width",
    "n_params": "parameters",
    "n_tensors": "tensors",
    "quant_types": "tensor types",
    "pooling": "pooling",
    "own_heads": "further vectors",
    "tokenizer": "tokenizer",
    "n_vocab": "vocabulary",
    "runs": "refembed runs it",
}

SIZES = {  # key in JSON -> key in the file, `{arch}.` in front
    "n_embd": "embedding_length",
    "n_ctx": "context_length",
    "n_layer": "block_count",
    "n_head": "attention.head_count",
    "n_ff": "feed_forward_length",
}

UNITS = {"n_ctx": "tokens", "n_embd_out": "numbers", "n_vocab": "tokens"}
SHOWN_ITEMS, SHOWN_CHARACTERS = 4, 120  # of an array, of a string


@click.command("info", epilog=EPILOG)
@click.argument("model", required=False)
@click.option(*MODEL_SPELLINGS, "option", metavar="MODEL", help="The same as the argument.")
@click.option("--metadata", is_flag=True, help="List every key with its type and value; long values are shortened.")
@click.option(
    "--tensors", is_flag=True, help="List every tensor: name, shape, type, its first byte in the file, bytes."
)
@click.option("--sha256", is_flag=True, help="Add the hash of the file, which is read whole for it.")
@json_option
def command(
    model: str | None, option: str | None, metadata: bool, tensors: bool, sha256: bool, as_json: bool
) -> None:  # fmt: skip
    """Say what MODEL is: a GGUF file, or the name of a model (minilm if none is given).

    --json prints one object; with --metadata and --tensors these are in it, nothing shortened.
    """
    if model and option:
        raise click.UsageError("Give the model once: as the argument or with -m.")
    f = open_gguf(model or option or "minilm")
    if as_json:
        info = summary(f, sha256)
        info |= {"metadata": {k: typed(f.metadata, k) for k in f.metadata}} if metadata else {}
        info |= {"tensors": [record(t) for t in f.tensors.values()]} if tensors else {}
        print_json(info)
        return
    if sha256 or not (metadata or tensors):
        table(["what", "value"], [(LABELS[k], spoken(k, v)) for k, v in summary(f, sha256).items() if v is not None])
    if metadata:
        table(
            ["key", "type", "value"], [(escape(k), f.metadata.type_name(k), brief(f.metadata, k)) for k in f.metadata]
        )
    if tensors:
        listed = f.tensors.values()
        rows = [(escape(t.name), spell_shape(t.shape), t.type.name, str(t.offset), str(t.nbytes)) for t in listed]
        table(["tensor", "shape", "type", ">offset", ">bytes"], rows)


def summary(f: GGUFFile, sha256: bool) -> dict[str, Any]:
    """Everything in LABELS, None where the file does not say."""
    md, tensors = f.metadata, f.tensors.values()
    arch = md.string("general.architecture", "unknown")
    info = {
        "name": md.string("general.name", f.path.stem),
        "path": str(f.path),
        "file_size": f.size,
        "sha256": sha256_of(f.paths) if sha256 else None,
        "gguf_version": f.version,
        "byteorder": "little" if f.byteorder == "<" else "big",
        "architecture": arch,
        **{name: scalar(md, f"{arch}.{key}") for name, key in SIZES.items()},
        "n_embd_out": scalar(md, f"{arch}.embedding_length_out") or scalar(md, f"{arch}.embedding_length"),
        "n_params": sum(math.prod(t.shape) for t in tensors),
        "n_tensors": len(tensors),
        "quant_types": dict(Counter(t.type.name for t in tensors).most_common()),
        "pooling": pooling_of(md, arch),
        "own_heads": own_heads(md),
        "tokenizer": md.string("tokenizer.ggml.model", None),
        "n_vocab": len(md.strings("tokenizer.ggml.tokens", ())),
        "runs": verdict(f),
    }
    return {k: info[k] for k in LABELS if k in info and (k != "sha256" or sha256)}


def scalar(md: Metadata, key: str) -> Any:
    """A number, or a list where each layer has its own; None where the key is absent or holds no numbers."""
    value = md.get(key)
    return value.tolist() if isinstance(value, np.ndarray) else md.of_type(key, int)


def pooling_of(md: Metadata, arch: str) -> str:
    """The rule that `--pooling native` stands for."""
    key = f"{arch}.pooling_type"
    if key not in md:
        return resolve_pooling("native", None)
    number = md.of_type(key, int)
    return f"unknown ({md.type_name(key)})" if number is None else POOLING_TYPES.get(number, f"unknown ({number})")


def own_heads(md: Metadata) -> str | None:
    """What heads `refembed convert --heads` kept; None where it kept none."""
    found = []
    if kind := md.string("refembed.sparse.kind", ""):
        found.append(f"sparse ({kind})")
    if "refembed.multi_vector.bias" in md:
        found.append(f"multi-vector ({md.string('refembed.multi_vector.kind', 'token')})")
    return ", ".join(found) or None


def verdict(f: GGUFFile) -> str:
    """ "yes", or why not."""
    try:
        model = load_model(f)
        load_tokenizer(f)
        check_heads(model, f)
    except RefembedError as e:
        return f"no: {str(e).splitlines()[0].removeprefix(f'{f.path}: ')}"
    return "yes"


def check_heads(model: Model, f: GGUFFile) -> None:
    """Refuse what embedding would: a reranker without a head, dense layers of another width."""
    from refembed.pooling.heads import check_dense, check_rank

    check_dense(model, str(f.path))
    if model.hparams.pooling == "rank":
        check_rank(model)


def record(t: Tensor) -> dict[str, Any]:
    """A tensor's row: the shape is NumPy's, GGUF's `ne` reversed; the offset is the byte of the file."""
    return {"name": t.name, "shape": list(t.shape), "type": t.type.name, "offset": t.offset, "nbytes": t.nbytes}


def spoken(key: str, value: Any) -> str:
    """A value as people write it."""
    if key == "quant_types":
        return ", ".join(f"{kind} ({n})" for kind, n in value.items())
    if key == "file_size":
        return f"{value / 2**20:.1f} MiB ({value:,} bytes)"
    shown = f"{value:,}" if isinstance(value, int) else escape(str(value))
    return f"{shown} {UNITS[key]}" if key in UNITS else shown


def typed(md: Metadata, key: str) -> dict[str, Any]:
    """Type and whole value of a key, fit for JSON: a number that is not finite becomes a string."""
    return {"type": md.type_name(key), "value": jsonable(md[key], md.type_name(key))}


def jsonable(value: Any, kind: str) -> Any:
    """Lists for arrays; FLOAT32 in the fewest digits that read back to it."""
    if isinstance(value, (list, np.ndarray, StringArray)):
        return [jsonable(v, kind[6:-1]) for v in value]
    if isinstance(value, (float, np.floating)):
        value = float(str(np.float32(value))) if kind == "FLOAT32" else float(value)
        return value if math.isfinite(value) else str(value)
    return value.item() if isinstance(value, np.generic) else value


def brief(md: Metadata, key: str) -> str:
    """A value on one line; of an array the first items and its length."""
    kind, value = md.type_name(key), md[key]
    if not isinstance(value, (list, np.ndarray, StringArray)):
        return escape(str(jsonable(value, kind)), SHOWN_CHARACTERS)
    items = [escape(str(v), SHOWN_CHARACTERS // SHOWN_ITEMS) for v in jsonable(value[:SHOWN_ITEMS], kind)]
    more = ", ..." if len(value) > SHOWN_ITEMS else ""
    return f"[{', '.join(items)}{more}] ({len(value):,} item{'s' if len(value) != 1 else ''})"
