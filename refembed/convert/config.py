"""config.json of a folder, read for a recipe: sizes, numbers, RoPE's bases, labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refembed.convert.families import CHECKPOINTS
from refembed.convert.graph import ROPE_DEFAULT, THETAS, names_of
from refembed.convert.planned import read_labels
from refembed.convert.recipes import Recipe
from refembed.convert.scaling import LAYER_KINDS, kind_of, table_of
from refembed.errors import ModelError
from refembed.gguf.cursor import quote

MOST_LAYERS = 512  # LLAMA_MAX_LAYERS: llama.cpp refuses a file with more
LAYERS_27B = 62  # of the one Gemma 3 whose scores llama.cpp scales by C/H

SIZES = {  # GGUF key -> what config.json may call it, in the order of the file
    "block_count": ("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    "context_length": ("max_position_embeddings", "n_positions", "max_seq_len"),
    "embedding_length": ("hidden_size", "d_model", "n_embd", "n_embed"),
    "feed_forward_length": ("intermediate_size", "d_ff", "n_inner"),
    "attention.head_count": ("num_attention_heads", "num_heads", "n_head", "n_heads"),
    "attention.head_count_kv": ("num_key_value_heads",),
}
WIDENED = ("GPT2", "Bloom", "Falcon", "MPT", "Mpt")  # feed-forward is four times as wide where config.json is silent


@dataclass(frozen=True)
class Config:
    """config.json of a folder, and the recipe of its architecture."""

    folder: Path
    architecture: str  # Hugging Face's name of the class
    recipe: Recipe
    raw: dict[str, Any]  # with the library's defaults
    stem: str  # of RECIPES
    notes: list[str] = field(default_factory=list)  # what the file will lack, a sentence each
    answers: tuple[int, int] | None = None  # ids of "yes" and "no", of a Qwen3 reranker
    file_type: int = 0  # general.file_type

    @property
    def path(self) -> Path:
        """Of the file, for errors."""
        return self.folder / "config.json"

    def size(self, *names: str, default: int = 0) -> int:
        """The first of these sizes that config.json states: a whole number above zero. 0: it must state one."""
        value = next((self.raw[n] for n in names if self.raw.get(n) is not None), default)
        if type(value) is not int or not 0 < value < 2**31:
            raise ModelError(f"{self.path}: {names[0]} is {quote(str(value))}, not a size", hint="is the file whole?")
        return value

    def number(self, *names: str) -> float | None:
        """The first of these numbers; None where there is none."""
        value = next((self.raw[n] for n in names if self.raw.get(n) is not None), None)
        if value is not None and (type(value) not in (int, float) or not 0 < value < 1e12):
            raise ModelError(f"{self.path}: {names[0]} is {quote(str(value))}", hint="a number above zero")
        return value

    def needed_number(self, name: str) -> float:
        """`number`, which must be there."""
        if (value := self.number(name)) is None:
            raise ModelError(f"{self.path}: no {name}", hint="a number above zero")
        return float(value)

    @property
    def classifies(self) -> bool:
        """Whether there is a head that scores."""
        return self.architecture.endswith("ForSequenceClassification")

    @property
    def gated(self) -> bool:
        """Whether a T5 has a gated feed-forward part."""
        return str(self.raw.get("feed_forward_proj")).startswith("gated")

    @property
    def two_norms(self) -> bool:
        """Whether a Falcon has a norm for attention and another for feed-forward."""
        count = self.raw.get("num_ln_in_parallel_attn")
        return bool(self.raw.get("new_decoder_architecture")) and count in (None, 2)

    @property
    def thetas(self) -> tuple[float | None, float | None]:
        """RoPE's base, of layers that see all and of layers with a window, whichever way config.json spells them."""
        spelled = "rope_parameters" if self.raw.get("rope_parameters") else "rope_scaling"
        found = table_of(self.path, self.raw, spelled)
        parts = [table_of(self.path, found, kind) for kind in LAYER_KINDS]
        usual, usual_local = THETAS.get(self.stem, ROPE_DEFAULT)
        names = ("global_rope_theta", "rope_theta", "rotary_emb_base")
        theta = parts[0].get("rope_theta") or found.get("rope_theta") or self.number(*names)
        local = parts[1].get("rope_theta") or self.number("local_rope_theta", "rope_local_base_freq")
        for value in (theta, local):
            if value is not None and (type(value) not in (int, float) or not 0 < value < 1e12):
                raise ModelError(f"{self.path}: rope_theta is {quote(str(value))}", hint="a number above zero")
        return theta or usual, local or usual_local

    @property
    def query_scale(self) -> float:
        """What Gemma's norm of queries is multiplied by: llama.cpp scales scores by the width of a head, and by C/H in
        the model of 62 layers; config.json may ask for another width.
        """
        sizes = self.sizes
        width = sizes["C"] / sizes["H"] if self.size(*SIZES["block_count"]) == LAYERS_27B else sizes["D"]
        asked = self.number("query_pre_attn_scalar") or width
        return 1.0 if abs(asked / width - 1) < 1e-6 else float((width / asked) ** 0.5)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names; () where nothing is classified and nothing is named."""
        return read_labels(self.path, self.raw, classifies=self.classifies)

    @property
    def sizes(self) -> dict[str, int]:
        """The letters of rows."""
        C = self.size(*SIZES["embedding_length"])
        H = self.size(*SIZES["attention.head_count"]) if self.recipe.attention else 1
        D = self.size("head_dim", "d_kv", default=256 if self.recipe.arch.startswith("gemma") else C // H)
        D = D if self.recipe.head_width else C // H
        F = self.feed_forward if self.recipe.attention else C
        K = self.kv_heads(H)
        P = self.size(*SIZES["context_length"], default=512)
        sizes = {"C": C, "H": H, "D": D, "HD": H * D, "KD": K * D, "F": F, "2F": 2 * F, "3C": 3 * C, "P": P, "K": K}
        sizes |= {"HD+2KD": (H + 2 * K) * D}
        sizes |= {"V": self.size("vocab_size"), "types": self.size("type_vocab_size", default=2)}
        sizes |= {"X": self.experts, "exp": (exp := self.size("moe_intermediate_size", default=F))}
        sizes |= {"2exp": 2 * exp, "1": 1}
        sizes |= {"shexp": self.size("shared_expert_intermediate_size", default=F)}
        sizes |= {"buckets": self.size("relative_attention_num_buckets", default=32), "R": len(self.labels) or 1}
        return sizes | (self.recipe.sizes(self) if self.recipe.sizes else {})

    def kv_heads(self, heads: int) -> int:
        """How many heads have keys of their own. Falcon's config.json states a number that some models ignore."""
        if self.stem == "Falcon":
            one = self.raw.get("multi_query") and not self.raw.get("new_decoder_architecture")
            return 1 if one else self.size("num_kv_heads", default=heads)
        return self.size("num_key_value_heads", default=heads)

    @property
    def width(self) -> int:
        """Feed-forward's where config.json is silent: GPT-2's, four times the channels; an expert's where there is no
        other; 0: it must say.
        """
        if not self.recipe.dense:
            return self.size("moe_intermediate_size", "expert_intermediate_size")
        return 4 * self.size(*SIZES["embedding_length"]) if self.stem in WIDENED else 0

    @property
    def feed_forward(self) -> int:
        """Feed-forward's width; where config.json lists one for each layer, they are to be the same."""
        listed = self.raw.get("intermediate_size")
        if isinstance(listed, list) and listed:
            if any(n != listed[0] for n in listed) or type(listed[0]) is not int or not 0 < listed[0] < 2**31:
                found = f"{self.path}: intermediate_size is {quote(str(listed[:4]))}"
                raise ModelError(found, hint="refembed converts layers of the same width")
            return int(listed[0])
        return self.size(*SIZES["feed_forward_length"], default=self.width)

    @property
    def dense_layers(self) -> int:
        """How many layers have feed-forward without experts, of a model in which they stand first."""
        n = next((self.raw[k] for k in ("first_k_dense_replace", "num_dense_layers") if self.raw.get(k) is not None), 0)
        if type(n) is not int or not 0 <= n <= self.layers:
            found = f"{self.path}: first_k_dense_replace is {quote(str(n))} of {self.layers} layers"
            raise ModelError(found, hint="a number of layers")
        return n

    @property
    def layers(self) -> int:
        """How many there are."""
        n = self.size(*SIZES["block_count"])
        if n > MOST_LAYERS:
            says = f"{self.path}: {SIZES['block_count'][0]} is {n}; llama.cpp takes at most {MOST_LAYERS} layers"
            raise ModelError(says, hint="is the file whole?")
        return n

    @property
    def turned(self) -> int:
        """How many channels of a head RoPE turns."""
        part = self.rope.get("partial_rotary_factor") or self.number("partial_rotary_factor", "rotary_pct")
        part = part or CHECKPOINTS[self.stem].turns or 1.0
        turned = int(part * self.sizes["D"]) if isinstance(part, (int, float)) and 0 < part <= 1 else 0
        if not turned or turned % 2:
            hint = "a part of each head is turned, an even number of channels"
            raise ModelError(f"{self.path}: partial_rotary_factor is {quote(str(part))}", hint=hint)
        return turned

    @property
    def sections(self) -> list[int]:
        """How many pairs RoPE turns by a picture's time, height and width (M-RoPE); [] where config.json is silent."""
        found = self.rope.get("mrope_section")
        if found is None:
            return []
        if not isinstance(found, list) or len(found) > 4 or not all(type(n) is int and 0 <= n < 1024 for n in found):
            raise ModelError(f"{self.path}: mrope_section is {quote(str(found))}", hint="three whole numbers")
        return [*found, 0, 0, 0, 0][:4]

    @property
    def rope(self) -> dict[str, Any]:
        """What config.json says of RoPE, of layers that see the whole text."""
        found = self.inner("rope_parameters") or self.inner("rope_scaling")
        return table_of(self.path, found, LAYER_KINDS[0]) or found

    @property
    def yarn_growth(self) -> float | None:
        """How much YaRN lets scores grow, mscale_all_dim; None where config.json is silent."""
        value = self.rope.get("mscale_all_dim")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    @property
    def deepstack_layers(self) -> int:
        """How many layers what looks at images adds to (Qwen3-VL)."""
        found = self.inner("vision_config").get("deepstack_visual_indexes", [8, 16, 24])
        if not isinstance(found, list):
            raise ModelError(f"{self.path}: deepstack_visual_indexes is {quote(str(found))}", hint="a list of layers")
        return len(found)

    @property
    def original_context(self) -> int:
        """The context before RoPE was stretched."""
        key = "original_max_position_embeddings"
        found = self.raw.get(key) or self.rope.get(key) or self.sizes["P"]
        if type(found) is not int or not 0 < found < 2**31:
            raise ModelError(f"{self.path}: {key} is {quote(str(found))}, not a size", hint="is the file whole?")
        return found

    @property
    def stretched_base(self) -> float | None:
        """RoPE's base where HunYuan asks for another one by `alpha` (rope_type dynamic); None: it is not asked for."""
        if kind_of(self.rope) != "dynamic":
            return None
        alpha: Any = self.rope.get("alpha")
        theta, width = self.thetas[0], self.sizes["D"]
        if type(alpha) not in (int, float) or not 0 < alpha < 1e12:
            found = f"{self.path}: rope_type is dynamic, and its alpha {quote(str(alpha))}"
            raise ModelError(found, hint="llama.cpp knows HunYuan's, which is a number")
        if theta != 10000.0 or self.sizes["P"] not in (1 << 15, 1 << 18):
            found = f"{self.path}: rope_type is dynamic with rope_theta {theta} and {self.sizes['P']} positions"
            raise ModelError(found, hint="llama.cpp's converter takes 10000 and 32768 or 262144 for granted")
        return float(theta * alpha ** (width / (width - 2)))

    def multiplier(self, name: str) -> float:
        """A number, 1 where config.json is silent; "ssm_multipliers.2" is one of a list."""
        key, dot, i = name.partition(".")
        value = self.raw.get(key)
        if dot and value is not None:
            value = value[int(i)] if isinstance(value, list) and len(value) > int(i) else "none"
        if value is None:
            return 1.0
        if type(value) not in (int, float) or not -1e12 < value < 1e12:
            raise ModelError(f"{self.path}: {name} is {quote(str(value))}", hint="a number; is the file whole?")
        return float(value)

    def inner(self, key: str) -> dict[str, Any]:
        """The table under a key, {} where there is none."""
        return table_of(self.path, self.raw, key)

    def number_of(self, key: str, name: str, default: float | None = None) -> float | None:
        """A number in the table under a key; the default where it is not there or null."""
        value = self.inner(key).get(name)
        if value is not None and (type(value) not in (int, float) or not 0 <= value < 1e12):
            raise ModelError(f"{self.path}: {key}.{name} is {quote(str(value))}", hint="a number, 0 or above")
        return default if value is None else float(value)

    @property
    def experts(self) -> int:
        """How many there are in a layer; 0 where the architecture has none."""
        routed = any(name.endswith("ffn_gate_inp") for name, _, _, _ in self.recipe.rows)
        none = self.raw.get("num_local_experts") == 0 or not self.raw.get("enable_moe_block", True)
        return self.size("num_local_experts", "num_experts", "n_routed_experts") if routed and not none else 0

    def layer_kinds(self, *known: str) -> list[str]:
        """layer_types: a name for each layer, one of these. ModelError for others, or too few."""
        kinds = names_of(self.path, self.raw, "layer_types") or []
        if len(kinds) != self.layers or any(kind not in known for kind in kinds):
            found = f"{self.path}: layer_types has {len(kinds)} names for {self.layers} layers: {quote(str(kinds[:4]))}"
            raise ModelError(found, hint=f"one for each layer, of {', '.join(known)}")
        return kinds

    @property
    def attention_layers(self) -> frozenset[int]:
        """Layers with attention, of a model that has others, too."""
        kinds = names_of(self.path, self.raw, "layer_types") or names_of(self.path, self.raw, "layers_block_type")
        if kinds is None:
            some, every = self.raw.get("full_attn_idxs"), self.raw.get("full_attention_interval", 4)
            if isinstance(some, list) and all(type(il) is int for il in some):
                return frozenset(some)
            if type(every) is not int or every < 1:
                raise ModelError(f"{self.path}: full_attention_interval is {quote(str(every))}", hint="a whole number")
            return frozenset(il for il in range(self.layers) if (il + 1) % every == 0)
        if len(kinds) != self.layers:
            hint = "one for each layer; is the file whole?"
            raise ModelError(f"{self.path}: layer_types has {len(kinds)} names for {self.layers} layers", hint=hint)
        return frozenset(il for il, kind in enumerate(kinds) if kind in ("attention", "full_attention"))

    @property
    def routed_layers(self) -> frozenset[int]:
        """Layers with experts, of a Nomic BERT: every n-th, from the second on."""
        every = self.size("moe_every_n_layers")
        return frozenset(il for il in range(self.layers) if il % every == 1)

    @property
    def first_position(self) -> int:
        """RoBERTa counts places from here; its tables of positions have as many rows that no text uses."""
        pad = self.raw.get("pad_token_id")
        if type(pad) is not int or not 0 <= pad < self.size("max_position_embeddings") - 1:
            hint = "RoBERTa counts places from it: the first token stands at pad_token_id + 1"
            raise ModelError(f"{self.path}: pad_token_id is {quote(str(pad))}", hint=hint)
        return pad + 1
