"""Token ids in, hidden states out. One architecture, one flat file; nothing here knows text, or how sums are done."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from refembed.arrays import Float
from refembed.errors import ModelError
from refembed.gguf import GGUFFile, Tensor
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.model.batch import Batch
from refembed.model.hparams import MAX_LAYERS, Hparams, read_hparams
from refembed.model.unsupported import refusal
from refembed.model.weights import bind


class Architectures(Mapping[str, ModuleType]):
    """general.architecture -> the file that computes it: TRAITS, Weights, forward. Imported when it is asked for."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def __getitem__(self, name: str) -> ModuleType:
        return importlib.import_module(f"{__name__}.{self.files[name]}")

    def __contains__(self, name: object) -> bool:
        return name in self.files

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


ARCHITECTURES = Architectures(
    {
        "bert": "bert",
        "bloom": "bloom",
        "chatglm": "chatglm",
        "cohere2": "cohere2",
        "command-r": "command_r",
        "deepseek2": "deepseek2",
        "dream": "dream",
        "ernie4_5": "ernie4_5",
        "eurobert": "eurobert",
        "exaone": "exaone",
        "exaone4": "exaone4",
        "falcon": "falcon",
        "falcon-h1": "falcon_h1",
        "gemma": "gemma",
        "gemma2": "gemma2",
        "gemma3": "gemma3",
        "gemma3n": "gemma3n",
        "gemma4": "gemma4",
        "gemma-embedding": "gemma_embedding",
        "gemma-embedding2": "gemma_embedding2",
        "glm4": "glm4",
        "gpt2": "gpt2",
        "gptneox": "gptneox",
        "gpt-oss": "gpt_oss",
        "granite": "granite",
        "granitehybrid": "granite_hybrid",
        "granitemoe": "granite_moe",
        "hunyuan-dense": "hunyuan_dense",
        "internlm2": "internlm2",
        "jina-bert-v2": "jina_bert_v2",
        "jina-bert-v3": "jina_bert_v3",
        "k2-horizon": "k2_horizon",
        "lfm2": "lfm2",
        "llada": "llada",
        "lfm2moe": "lfm2moe",
        "llada-moe": "llada_moe",
        "llama": "llama",
        "llama-embed": "llama_embed",
        "mamba": "mamba",
        "mamba2": "mamba2",
        "minicpm": "minicpm",
        "mistral3": "mistral3",
        "modern-bert": "modern_bert",
        "mpt": "mpt",
        "nemotron": "nemotron",
        "neo-bert": "neo_bert",
        "nomic-bert": "nomic_bert",
        "nomic-bert-moe": "nomic_bert_moe",
        "olmo2": "olmo2",
        "phi2": "phi2",
        "olmoe": "olmoe",
        "phi3": "phi3",
        "phimoe": "phimoe",
        "qwen2": "qwen2",
        "qwen2moe": "qwen2moe",
        "qwen2vl": "qwen2vl",
        "qwen3": "qwen3",
        "qwen35": "qwen35",
        "qwen35moe": "qwen35moe",
        "qwen3next": "qwen3next",
        "qwen3moe": "qwen3moe",
        "qwen3vl": "qwen3vl",
        "seed_oss": "seed_oss",
        "rwkv7": "rwkv7",
        "smollm3": "smollm3",
        "stablelm": "stablelm",
        "starcoder2": "starcoder2",
        "t5encoder": "t5encoder",
    }
)


@dataclass(frozen=True)
class Model:
    """An architecture with its weights."""

    hparams: Hparams
    weights: Any  # the architecture's Weights
    module: ModuleType

    @property
    def output(self) -> str:
        """llama.cpp's name for what `forward` returns."""
        return "result_embd_proj" if self.projection is not None else str(self.module.TRAITS.output)

    @property
    def projection(self) -> Any:
        """The matrix and bias of a last product that a file may have or not (qwen35); None where there is none."""
        return getattr(self.weights, "embd_proj", None)

    @property
    def width(self) -> int:
        """Channels of what `forward` returns: C, or where its last step is a product, n_embd_out."""
        projected = self.module.TRAITS.projected or self.projection is not None
        return self.hparams.n_embd_out if projected else self.hparams.n_embd

    @property
    def runs_alone(self) -> bool:
        """Whether llama.cpp runs each text in a micro-batch of its own, whatever comes with it."""
        return bool(self.module.TRAITS.runs_alone)

    def forward(self, batch: Batch, ops: Ops, tap: Tap = NO_TAP) -> Float:
        """Token ids (T) of S texts -> hidden states (T, width), in the dtype of `ops`."""
        hidden: Float = self.module.forward(self.weights, self.hparams, batch, ops, tap)
        return hidden


def load_model(f: GGUFFile) -> Model:
    """Read sizes, bind tensors. Raises ModelError for an unknown architecture or tensors that do not fit."""
    if not f.tensors and "tokenizer.ggml.tokens" in f.metadata:  # such as llama.cpp's ggml-vocab-*.gguf
        hint = "`refembed tokenize` takes it; embedding takes the whole model"
        raise ModelError(f"{f.path}: a vocabulary alone: it has a tokenizer and no weights", hint=hint)
    arch = f.metadata.string("general.architecture")
    if arch not in ARCHITECTURES:
        raise refusal(str(f.path), arch, ARCHITECTURES)
    if not f.tensors:
        raise ModelError(f"{f.path}: no tensors in it", hint="was the conversion interrupted? convert the model again")
    module = ARCHITECTURES[arch]
    hp = read_hparams(f, module.TRAITS)
    tensors = f.tensors if not module.TRAITS.nextn else without_drafts(f.tensors, hp.n_layer)
    weights = bind(module.Weights, tensors, hp.sizes, hp.n_layer, str(f.path), hp.layers, hp.sizes_of)
    return Model(hp, weights, module)


def without_drafts(tensors: Mapping[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """Without layers behind the last: they draft further tokens, and llama.cpp does not read them either."""
    drafts = tuple(f"blk.{il}." for il in range(n_layer, MAX_LAYERS))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(drafts)}
