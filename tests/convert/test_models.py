"""refembed/convert/models.py against what llama.cpp's own converter wrote (tests/data), and on what it cannot take."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refembed.convert.folder import convert
from refembed.embedder import Embedder
from refembed.errors import ModelError
from refembed.gguf import open_gguf
from tests.hf_folders import stored, weights
from tests.record_converter import describe, unfold
from tests.record_models import DATA, DTYPE, FILE, OUTTYPES, build

RECORDS = json.loads((DATA / FILE).read_text(encoding="utf-8"))
NAMES = [name for name in RECORDS if name != "provenance"]

# Where the file is another one: a name for how words are cut, which the recorder took from the converter
QWEN2_CUT = (
    "qwen2", "qwen3", "eurobert", "olmo2", "seed_oss", "command-r", "qwen2moe", "qwen3moe", "olmoe", "exaone4",
    "starcoder2", "llama3", "smollm3", "granite", "chatglm", "glm4", "hunyuan-dense", "cohere2", "stablelm",
    "stablelm-parallel", "falcon-h1", "granitemoe", "granitehybrid", "granitehybrid-dense", "lfm2", "qwen3next",
    "qwen35", "qwen35-images", "lfm2-bidirectional", "gpt-oss", "gpt-oss-yarn", "gpt-oss-mxfp4", "qwen35moe",
    "deepseek2", "deepseek3", "lfm2moe", "granite-micro", "granite-experts", "llada-moe", "dream",
)  # fmt: skip
GPT2_CUT = ("gpt2", "gptneox", "gptneox-serial", "bloom", "falcon", "falcon-two-norms", "mamba", "mamba2")
PRE = dict.fromkeys(QWEN2_CUT, "qwen2") | dict.fromkeys(GPT2_CUT, "gpt-2")
PRE |= {"mpt": "mpt", "phi2": "phi-2", "modern-bert": "modern-bert", "roberta": "roberta-bpe"}
# AutoTokenizer gives any folder of these architectures tokens of Qwen's own
TOKENS = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}
OTHER_TOKENS = {"qwen2": TOKENS, "qwen35-images": TOKENS, "qwen35moe": TOKENS}
# The converter looks for layernorm_epsilon, which config.json of GlmForCausalLM does not have, and takes 1e-5
OTHER_VALUES = {"chatglm": {"chatglm.attention.layer_norm_rms_epsilon"}}
# This tokenizer.json puts nothing around a text, and so says the file; llama.cpp's converter asks it only where it does
OTHER_FLAGS = {"modern-bert": {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"}}
# A key without which llama.cpp refuses the file; the converter leaves it out where `transformers` 5 saved the folder.
# And the unknown token of a vocabulary in which it is token 0: without the key llama.cpp takes 2, which is </s>
UNKNOWN = {"tokenizer.ggml.unknown_token_id"}
MORE = {
    "modern-bert": {"modern-bert.attention.layer_norm_epsilon"},
    "t5encoder": UNKNOWN,
    "t5encoder-gated": UNKNOWN,
}


# PyTorch's exp in float32 is off by one bit here and there: a decay is compared with mathematics
DECAYS = (
    "mamba",
    "mamba2",
    "falcon-h1",
    "granitehybrid",
    "granitehybrid-dense",
    "qwen3next",
    "qwen35",
    "qwen35-images",
    "qwen35moe",
)


GROUPS = 2  # linear_num_key_heads of tests/peers/folders.py


WIDTHS = {"gpt-oss-mxfp4": 64, "gemma-embedding2": 20}  # of vectors that are not 48 numbers long


def without_decays(tensors: list[list[Any]]) -> list[list[Any]]:
    """Tensors as `describe` gives them, without the digest of a decay."""
    return [row[:3] if row[0].endswith("ssm_a") else row for row in tensors]


def check_decays(name: str, path: Path) -> None:
    """ssm_a is -e^A_log, correctly rounded."""
    decays = {n: t for n, t in open_gguf(path).tensors.items() if n.endswith("ssm_a")}
    assert bool(decays) == (name in DECAYS)
    logs = [n for n in RECORDS[name]["shapes"] if n.endswith("A_log")]
    assert len(logs) == len(decays)
    for log in logs:
        shape = tuple(RECORDS[name]["shapes"][log])
        bits = np.frombuffer(stored(weights(log, shape), DTYPE), np.uint16).astype(np.uint32) << 16
        wanted = np.array([-math.exp(x) for x in bits.view(np.float32)], np.float64).astype(np.float32)
        layer = re.findall(r"[.](\d+)[.]", log)[0]
        x = decays[f"blk.{layer}.ssm_a"].dequantize()
        if name.startswith("qwen35"):  # neighbors are heads of different groups: llama.cpp tiles keys over them
            wanted = wanted.reshape(GROUPS, -1).T.reshape(-1)
        assert np.array_equal(x.reshape(-1), wanted)


@pytest.mark.parametrize("outtype", OUTTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_what_llama_cpps_converter_makes_of_the_folder(name: str, outtype: str, tmp_path: Path) -> None:
    written = convert(build(RECORDS[name], tmp_path / name), tmp_path / "out.gguf", outtype=outtype)
    expected = unfold(RECORDS[name]["written"], outtype)
    if name not in PRE and name not in MORE and name not in DECAYS:
        assert hashlib.sha256(written.read_bytes()).hexdigest() == expected["sha256"]
    found = json.loads(json.dumps(describe(written)))
    assert without_decays(found["tensors"]) == without_decays(expected["tensors"])
    check_decays(name, written)
    assert set(found["keys"]) - set(expected["keys"]) == MORE.get(name, set())
    assert [key for key in found["keys"] if key not in MORE.get(name, set())] == list(expected["keys"])
    differ = {key for key, value in expected["keys"].items() if found["keys"][key] != value}
    assert differ == ({"tokenizer.ggml.pre"} if name in PRE else set()) | OTHER_TOKENS.get(
        name, set()
    ) | OTHER_FLAGS.get(name, set()) | OTHER_VALUES.get(name, set())
    if name in PRE:
        assert found["keys"]["tokenizer.ggml.pre"] == ["STRING", PRE[name]]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_one_that_refembed_runs(name: str, tmp_path: Path) -> None:
    e = Embedder.load(convert(build(RECORDS[name], tmp_path / name), tmp_path / "out.gguf"))
    assert e.embed("the cat", pooling="mean").shape == (WIDTHS.get(name, 48),)


def edit(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return damage


def config(**values: Any) -> Callable[[Path], None]:
    return edit("config.json", lambda c: c | values)


GEMMA_LAYERS = ["full_attention", *["sliding_attention"] * 6]
BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "fewer layers": ("qwen3", config(num_hidden_layers=3), "unexpected tensors: blk.3"),
    "more layers": ("qwen3", config(num_hidden_layers=5), "missing tensors: blk.4"),
    "too many layers": ("qwen3", config(num_hidden_layers=2**31 - 1), "llama.cpp takes at most 512 layers"),
    "no number": ("mpt", config(attn_config={"alibi": True, "alibi_bias_max": [1]}), r"alibi_bias_max is"),
    "no number either": ("mpt", config(attn_config={"alibi": True, "clip_qkv": "x"}), r"clip_qkv is"),
    "another width": ("qwen3", config(head_dim=12), r"is \[10\], config.json says \[12\]"),
    "a size that is text": ("llama", config(hidden_size="48"), "hidden_size is 48, not a size"),
    "RoPE that is scaled": ("llama", config(rope_parameters={"rope_type": "yarn"}), "rope_type is yarn"),
    "RoPE of no kind": ("llama", config(rope_parameters=[1]), "rope_parameters is"),
    "windows elsewhere": ("gemma3", config(layer_types=GEMMA_LAYERS), "layer_types are not those of Gemma 3"),
    "windows without a period": (
        "modern-bert", config(layer_types=["full_attention"] * 2 + ["sliding_attention"] * 2), "follow no period"
    ),
    "no window": ("gemma3", config(sliding_window=None), "sliding_window is 0, not a size"),
    "a vocabulary that is cut": (
        "t5encoder", lambda folder: (folder / "spiece.model").write_bytes(b"\x0a\x7fxx"), "not a SentencePiece model"
    ),
    "fewer experts": ("qwen3moe", config(num_experts=4, num_local_experts=4), "config.json says 4 experts"),
    "more experts": ("olmoe", config(num_experts=6), r"is \[5, 48\], config.json says \[6, 48\]"),
    "wider experts": ("qwen2moe", config(moe_intermediate_size=30), r"is \[48, 26\], config.json says \[48, 30\]"),
    "weights of experts as they are": ("qwen3moe", config(norm_topk_prob=False), "norm_topk_prob is False"),
    "layers without experts": ("qwen2moe", config(mlp_only_layers=[1]), "mlp_only_layers is"),
    "a window": ("exaone4", config(sliding_window=4), "sliding_window is 4"),
    "a window by default": (
        "exaone4", edit("config.json", lambda c: {k: v for k, v in c.items() if k != "sliding_window"}),
        "no sliding_window",
    ),
    "scores by layer": ("gpt2", config(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    "no tokenizer": ("gemma3", lambda folder: (folder / "tokenizer.model").unlink(), "no tokenizer.model"),
    "no words are cut": ("qwen2", edit("tokenizer.json", lambda t: t | {"pre_tokenizer": None}), "has no name here"),
    "a tokenizer of another kind": (
        "qwen2", edit("tokenizer.json", lambda t: t | {"model": {"type": "Unigram"}}), "not a byte-level BPE"
    ),
    "a tokenizer of no shape": ("qwen2", edit("tokenizer.json", lambda t: t | {"added_tokens": [1]}), "is not as"),
}  # fmt: skip


def test_an_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    record = RECORDS["qwen3moe"]
    shapes = {k: v for k, v in record["shapes"].items() if "layers.1.mlp.experts.3.up_proj" not in k}
    assert len(shapes) == len(record["shapes"]) - 1
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up_exps\.weight: no expert 3"):
        convert(build(record | {"shapes": shapes}, tmp_path / "bad"), tmp_path / "x.gguf")


@pytest.mark.parametrize("fault", BAD)
def test_a_folder_that_is_not_whole_is_one_clear_error(fault: str, tmp_path: Path) -> None:
    name, damage, message = BAD[fault]
    folder = build(RECORDS[name], tmp_path / "bad")
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        convert(folder, tmp_path / "x.gguf")
    assert caught.value.hint
    assert [p.name for p in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("qwen3", "rope_parameters", {"full_attention": 5}, "full_attention is 5, not a table"),
        ("llama", "rope_parameters", {"sliding_attention": "x"}, "sliding_attention is x, not a table"),
        ("qwen3", "rope_parameters", [1], r"rope_parameters is \[1\], not a table"),
        ("qwen3", "rope_scaling", "linear", "rope_scaling is linear, not a table"),
        ("modern-bert", "layer_types", [], r"layer_types is \[\], not a list of names"),
        ("modern-bert", "layer_types", ["full_attention", 3], "not a list of names"),
        ("qwen2", "layer_types", "full_attention", "not a list of names"),
        ("command-r", "logit_scale", "x", "logit_scale is x"),
        ("command-r", "logit_scale", [1], r"logit_scale is \[1\]"),
        ("command-r", "logit_scale", None, "no logit_scale"),
        ("command-r", "model_max_length", "long", "max_position_embeddings is long, not a size"),
        ("seed_oss", "attention_bias", "x", "attention_bias is x"),
    ],
)
def test_a_key_of_another_type_is_named(name: str, key: str, value: Any, message: str, tmp_path: Path) -> None:
    folder = build(RECORDS[name], tmp_path / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {key: value}), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        convert(folder, tmp_path / "out.gguf")
