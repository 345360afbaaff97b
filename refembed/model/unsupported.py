"""Architectures that llama.cpp runs and refembed does not, so that a file of one is refused by what it is.

llama.cpp embeds with nearly all of them (`llama-embedding` takes the last norm of any decoder); few were trained for
it. Names are values of general.architecture (llama.cpp's src/llama-arch.cpp).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from refembed.errors import ModelError

# why not -> which
UNSUPPORTED = {
    "its layers keep a state from token to token": """
        arwkv7 bailingmoe3 deepseek4 glm5-next jamba kimi-k3 kimi-linear minimax-01 nemotron_h nemotron_h_moe
        plamo2 qwen4exp rwkv6 rwkv6qwen2""",
    "it is a diffusion model with experts": "rnd1",
    "it drafts for another model, whose states it needs": "dflash eagle3 gemma4-assistant",
    "it is a model of pictures or of sound": "clip pockettts qwen3tts wavtokenizer-dec",
    "it is an encoder with a decoder; its encoder alone, t5encoder, is computed": "t5",
    "it decides between answers": "clef vllm-decision2",
    "its layers or experts are of a kind that is not computed": """
        afmoe apertus arcee arctic baichuan bailingmoe bailingmoe2 beam bitnet chameleon codeshell cogvlm cohere2moe
        dbrx deci deepseek deepseek2-ocr deepseek32 dots1 dots3note ernie4_5-moe exaone-moe glm-dsa glm4moe gptj
        granite_swa graniteswitch grok grovemoe hrm_text hunyuan-moe hunyuan_vl hy_v3 hy_v4 jais jais2 kolibri1
        laguna llama4 maincoder maion-coder maple mellum mimo2 minicpm3 minimax-m2 minimax-m3 mistral4 muse-glimmer
        muse-spark nanbeige olmo openelm orion paddleocr pangu-embedded plamo plamo3 plm qwen qwen3vlmoe refact
        smallthinker spark2_5 starcoder step35 talkie xverse""",
}

# Matrices are stored turned, and llama.cpp turns what they multiply, from b11739 on: a Walsh-Hadamard transform of each
# block, and signs. It is not computed here: ten keys say which matrices, tables of embeddings and heads are turned and
# how, llama.cpp takes them only in graphs that it has checked, and the files that have them write text.
ROTATED = "prism.hadamard.version"


def refusal(path: str, arch: str, computed: Collection[str]) -> ModelError:
    """The error for a file of an architecture that refembed does not compute: why, or which name is near."""
    for why, names in UNSUPPORTED.items():
        if arch in names.split():
            return ModelError(
                f"{path}: refembed does not compute architecture {arch!r}", hint=f"llama.cpp knows it: {why}"
            )
    near = [name for name in difflib.get_close_matches(arch, computed, 3, 0.8) if is_slip(arch, name)]
    other = f"is it {near[0]!r}?" if near else "this one is unknown here; llama.cpp, or a newer refembed, may know it"
    hint = f"it computes {', '.join(sorted(computed))}; {other}"
    return ModelError(f"{path}: refembed does not compute architecture {arch!r}", hint=hint)


def is_slip(arch: str, name: str) -> bool:
    """Whether a name close to another is a slip of the pen: the same numbers, and neither begins with the other.

    The next version or variant of a model has a name as close, and another graph: gemma-embedding3, qwen4, bert-moe.
    """
    numbers = re.findall(r"\d+", arch) == re.findall(r"\d+", name)
    return numbers and not arch.startswith(name) and not name.startswith(arch)
