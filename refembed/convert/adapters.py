"""LoRA adapters that a checkpoint has inside its tensors, one for each task: jina-embeddings-v3.

    encoder.layers.0.mixer.Wqkv.parametrizations.weight.0.lora_A (tasks, r, C)  ->  blk.0.attn_qkv.weight.lora_a (r, C)
                                                        .lora_B (tasks, 3C, r)  ->                     .lora_b (3C, r)

Each task becomes a GGUF file of its own next to the model's, lora-TASK-MODEL.gguf, which `--lora` takes. Mirrors
XLMRobertaModel of llama.cpp's conversion/bert.py. The factors of the table of tokens are stored as rows of tokens and,
turned, as columns; those of the segments change places.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.convert.config import Config
from refembed.convert.families import RECIPES, stem_of
from refembed.convert.graph import with_defaults
from refembed.convert.safetensors import Entry
from refembed.convert.tensors import FACTORS, plain_name, rows_by_name
from refembed.convert.weights import check_floats, open_weights, unknown_tensor
from refembed.convert.wordpiece import read_json
from refembed.errors import ModelError
from refembed.gguf import GGUFWriter
from refembed.gguf.cursor import quote

TABLE, SEGMENTS = "token_embd", "token_types"


def tasks_of(folder: Path) -> list[str]:
    """The tasks that a checkpoint has adapters for; [] for one without. ModelError where they have no proper names."""
    path = folder / "config.json"
    found = read_json(path, required=True).get("lora_adaptations")
    if not found:
        return []
    if not isinstance(found, list) or not all(isinstance(t, str) and re.fullmatch(r"[\w.-]+", t) for t in found):
        raise ModelError(f"{path}: lora_adaptations is {quote(str(found))}", hint="a list of names")
    return found


def write_adapters(folder: Path, model: Path) -> list[Path]:
    """Write the adapters of a checkpoint next to its model's file. Returns their paths.

    ModelError where the factors do not fit the matrices, RequestError where a file cannot be written.
    """
    tasks = tasks_of(folder)
    if not tasks:
        return []
    raw = read_json(folder / "config.json", required=True)
    architecture = str(raw["architectures"][0])
    stem = stem_of(architecture, raw)
    config = Config(folder, architecture, RECIPES[stem], with_defaults(stem, raw), stem)
    prompts = config.inner("task_instructions")
    alpha, rank = config.number("lora_alpha") or 1.0, config.size("lora_rank")
    factors = [factor for entry in open_weights(folder, []) if (factor := named(entry, config, rank, len(tasks)))]
    paths = []
    for i, task in enumerate(tasks):
        writer = GGUFWriter(config.recipe.arch)
        writer.add("general.type", "adapter", "STRING")
        writer.add("adapter.type", "lora", "STRING")
        writer.add("adapter.lora.alpha", float(alpha), "FLOAT32")
        writer.add("adapter.lora.task_name", task, "STRING")
        if prompts:
            if not isinstance(prompts.get(task), str):
                raise ModelError(f"{config.path}: task_instructions has none for {task}", hint="is the file whole?")
            if prompts[task]:
                writer.add("adapter.lora.prompt_prefix", prompts[task], "STRING")
        for name, x in factors:
            part = np.ascontiguousarray(x[i].T if name == f"{TABLE}.weight.lora_b" else x[i], np.float32)
            writer.add_tensor(name, part, part.shape, "F32")
        paths.append(writer.write(model.with_name(f"lora-{task}-{model.name}")))
    return paths


def named(entry: Entry, config: Config, rank: int, tasks: int) -> tuple[str, npt.NDArray[Any]] | None:
    """A factor of all tasks (tasks, ...), by the name that GGUF has for it; None for any other tensor."""
    name = next((entry.name.removeprefix(p) for p in config.recipe.prefixes if entry.name.startswith(p)), entry.name)
    name = plain_name(name)
    if not name.endswith(FACTORS) or name.startswith("pooler."):
        return None
    end = name[-1].lower()
    layer = re.match(re.escape(config.recipe.layers) + r"(\d+)(\..*)", name)
    number, part = (layer[1], "{}" + layer[2]) if layer else ("", name)
    stem = part[: -len(FACTORS[0])].removesuffix(".weight")
    rows = rows_by_name(config).get(stem, [])
    if not rows:
        raise unknown_tensor(entry, config.folder, config.architecture)
    check_floats(entry, config.folder)
    target, shape, *_ = rows[0]
    out, width = (config.sizes[letter] for letter in shape.split())
    wanted = (tasks, rank, width) if end == "a" else (tasks, out, rank)
    if target in (TABLE, SEGMENTS):
        wanted = (tasks, out, rank) if end == "a" else (tasks, rank, width)
    if entry.shape != wanted:
        found = f"tensor {quote(entry.name)} is {list(entry.shape)}, config.json says {list(wanted)}"
        raise ModelError(f"{config.folder}: {found}", hint="are these files of one model?")
    if target == SEGMENTS:
        end = "b" if end == "a" else "a"
    return f"{target.format(number)}.weight.lora_{end}", entry.values()
