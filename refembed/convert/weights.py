"""Which files of a Hugging Face folder hold the weights, and the tensors in them.

    model.safetensors                                     that file alone, whatever lies next to it
    model.safetensors.index.json, model-0000k-of-0000n    the files that the index names
    model-0000k-of-0000n.safetensors without an index     all n of them
    one model.VARIANT.safetensors and nothing else        that one, and a remark says so

`transformers` looks in the same order. Pickled weights, ONNX files and LoRA adapters are refused, each with what to do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from refembed.convert.files import check_named
from refembed.convert.safetensors import Entry, SafetensorsFile
from refembed.convert.wordpiece import read_json
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
QUANTIZED = (  # ends of names that GPTQ, AWQ, bitsandbytes, compressed-tensors, FP8 and MLX give to parts of a matrix
    ".qweight", ".qzeros", ".g_idx", ".scales", ".biases", ".weight_packed", ".weight_scale", ".weight_scale_inv",
    ".weight_shape", ".weight_zero_point", ".absmax", ".quant_map", ".SCB", "_blocks", "_scales",
)  # fmt: skip
NO_MODEL = re.compile(r"\d+_(Dense|Pooling|Normalize)")  # folders of sentence-transformers' other modules
FLOATS = ("F64", "F32", "F16", "BF16")


def open_weights(folder: Path, notes: list[str]) -> list[Entry]:
    """Every tensor of the folder's safetensors, in the order the converter takes them: by file, then by name.

    notes  is added to where something is left aside

    ModelError where there are no weights that can be read, or a file of them is missing.
    """
    parts, places = find_parts(folder, notes)
    for part in parts:
        if not (folder / part).is_file():
            found = f"{folder / INDEX}: it names {quote(part)}, and there is no such file"
            raise ModelError(found, hint="fetch the folder again")
    entries = []
    for part in parts:
        file = SafetensorsFile(check_named(folder / part))
        entries += [file[name] for name in sorted(file)]
    names = {entry.name for entry in entries}
    if len(names) < len(entries) or (places and names != set(places)):
        odd = sorted(names ^ set(places)) or ["one of them twice"]
        raise ModelError(f"{folder}: {INDEX} and the files differ: {quote(odd[0])}", hint="fetch the folder again")
    return entries


def find_parts(folder: Path, notes: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The names of the files, and tensor -> file where an index says so."""
    check_adapter(folder)
    others = sorted(p.name for p in folder.glob("model*.safetensors") if p.name != SINGLE)
    if (folder / SINGLE).is_file():
        return [SINGLE], {}
    if (folder / INDEX).exists():
        places = read_json(folder / INDEX).get("weight_map")
        if (
            not isinstance(places, dict)
            or not places
            or not all(isinstance(p, str) and Path(p).name == p for p in places.values())
        ):
            found = f"{folder / INDEX}: no weight_map of tensors to files next to it"
            raise ModelError(found, hint="is the file whole?")
        return sorted(set(places.values())), places
    shards = [name for name in others if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)]
    if shards:
        count = int(shards[0].rpartition("-of-")[2].partition(".")[0])
        wanted = [f"{shards[0][: shards[0].index('-') + 1]}{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
        if shards != wanted:
            found = f"{folder}: {len(shards)} of {count} shards of the weights, and no {INDEX}"
            raise ModelError(found, hint="fetch the folder again")
        return shards, {}
    if len(others) == 1:
        notes.append(f"there is no {SINGLE}: the weights are those of {others[0]}")
        return others, {}
    raise ModelError(f"{folder}: no {SINGLE}", hint=absent_hint(folder, others))


def check_adapter(folder: Path) -> None:
    """ModelError where the folder is an adapter that PEFT saved."""
    if (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        hint = f"convert its base model, {quote(str(base))}; or merge the adapter into it and save that"
        raise ModelError(f"{folder}: adapter_config.json: a LoRA adapter, not a model", hint=hint)


def check_model(folder: Path) -> None:
    """ModelError where the folder has no config.json, with what it seems to be."""
    if (folder / "config.json").exists():
        return
    check_adapter(folder)
    inside = sorted(folder.glob("*.gguf"))
    if inside:
        hint = f"give the file: {inside[0]}"
    elif (folder / "params.json").is_file() and any(folder.glob("consolidated*")):
        hint = (
            "a model as Mistral or Meta publish it; fetch the repository's files for `transformers`, with config.json"
        )
    elif nested := sorted(p.parent.name for p in folder.glob("*/config.json") if not NO_MODEL.match(p.parent.name)):
        hint = f"there is one in {folder / nested[0]}: name that folder"
    else:
        hint = "give a .gguf file, or a folder as Hugging Face has them"
    raise ModelError(f"{folder}: a folder without config.json", hint=hint)


def unknown_tensor(entry: Entry, folder: Path, architecture: str) -> ModelError:
    """The error for a tensor of a name that the architecture does not have, or that only quantized weights have."""
    if entry.name.endswith(QUANTIZED):
        hint = "convert the model in float32, float16 or bfloat16, and quantize the GGUF file: --outtype q8_0"
        return ModelError(f"{folder}: the weights are quantized (tensor {quote(entry.name)})", hint=hint)
    hint = f"{architecture} has none of that name that refembed knows"
    return ModelError(f"{folder}: tensor {quote(entry.name)}", hint=hint)


def absent_hint(folder: Path, variants: list[str]) -> str:
    """What to do about a folder without weights that can be read."""
    if variants:
        return f"{' and '.join(variants[:3])} are variants: rename the one that you want"
    if any(folder.glob("pytorch_model*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("tf_model.h5")):
        return "save the model again with save_pretrained(folder, safe_serialization=True)"
    inside = sorted(p.parent.name for p in folder.glob(f"*/{SINGLE}") if (p.parent / "config.json").is_file())
    inside = [name for name in inside if not NO_MODEL.match(name)]
    if inside:
        return f"there is one in {folder / inside[0]}: name that folder"
    if any(folder.glob("onnx/*.onnx")) or any(folder.glob("*.onnx")):
        return "the folder has the model as ONNX only; fetch its safetensors"
    return "is the folder whole?"


def check_floats(entry: Entry, folder: Path) -> None:
    """ModelError for weights that are whole numbers: quantized ones, of a kind that config.json does not name."""
    if entry.dtype not in FLOATS:
        hint = f"weights are {', '.join(FLOATS)}; convert the model before it was quantized"
        raise ModelError(f"{folder}: tensor {quote(entry.name)} is stored as {entry.dtype}", hint=hint)


def check_place(entry: Entry, shape: tuple[int, ...], target: str, other: Entry | None, folder: Path) -> None:
    """ModelError for a tensor of another shape than config.json says, or where `other` becomes the same one."""
    if entry.shape != shape:
        found = f"tensor {quote(entry.name)} is {list(entry.shape)}, config.json says {list(shape)}"
        raise ModelError(f"{folder}: {found}", hint="are these files of one model?")
    if other is not None:
        found = f"{folder}: {quote(entry.name)} and {quote(other.name)} are both {target}"
        raise ModelError(found, hint="one of them has to go")
