"""What to do about each verdict, in one line: the last line of every report.

A row of TABLE is a pattern of a cause's id and the advice; the first that matches counts. `{pooling}` and `{tokenizer}`
are the reference's, `{name}` is what the pattern caught, `{start}` begins a sentence about how the engine is started.
A hypothesis may bring advice of its own (`Hypothesis.advice`); one without either gets the advice of its stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from refembed.verify.reference import Reference
from refembed.verify.verdict import Cause, Verdict

NOTHING = "nothing to do"
ANOTHER = "another model?"  # in a cause where vectors have nothing to do with each other
OTHER_MODEL = "serve the file that was verified, or verify the file that is served"
RAW = "normalize its vectors to length 1, or compare by cosine; if lengths are meant to stay, pass --normalize -1"
BATCH = "until it is mended, send one text a request; pad with an attention mask that hides the padding, or not at all"
TABLE: tuple[tuple[str, str], ...] = (
    # the whole engine
    ("other-model|vocabulary|architecture", OTHER_MODEL),
    ("dimension-cut", "leave `dimensions` out of the request; if the cut is meant, normalize after it"),
    ("dimension", f"{OTHER_MODEL}; decode answers as float32, one vector a text"),
    ("order-same|zero-vector", "look at how requests reach the model: its input does not change the answer (a cache, a "
     "fixed buffer, an error that is caught)"),
    ("order-.*|stale", "give each text its own vector: return answers by `index`, and key caches by the whole text"),
    ("state", "clear all state between requests, and switch dropout and sampling off"),
    ("not-finite", "look for an overflow: run it in float32, and compare tensors to find where it begins"),
    ("vector-byte-order", "write and read floats as little-endian float32"),
    ("alone-wrong", "look at how a batch of one is built: its mask, its positions, a dimension that is squeezed away"),
    ("equal-lengths", "build the attention mask also where no text of a batch is padded"),
    ("cache-key-.*", "key caches by the whole text, byte for byte"),
    ("batch-dependent|across-texts|batch-cut|padding-(attended|pooled|left|zeros)|batch-.*", BATCH),
    ("pieces-pooled", "{start}--parallel 1, or with --kv-unified: else llama.cpp cuts texts of one batch into "
     "pieces, and pools each by itself"),
    ("positions-in-batch", "count positions of each text from its own beginning"),
    ("tokens", "make the tokenizer agree first: `refembed tokenize` shows the reference's tokens"),
    # lengths
    ("raw", RAW),
    ("unit", "switch normalization off, or pass --normalize 2 if length 1 is meant"),
    ("scaled-max|scaled-taxicab|scaled-\\d+-norm", "{start}--embd-normalize 2, or pass the norm that is meant with "
     "--normalize"),
    ("scaled-(sum|sqrt-T|n.1|n-2|padded)", "divide the sum of the token vectors by the number of tokens that the mask "
     "keeps, then normalize"),
    ("scaled.*", "normalize its vectors to length 1, in float32, as the last step"),
    # pooling
    ("pooling-none", "{start}--pooling {pooling}"),
    ("pooling-rank", "{start}--pooling {pooling}; scores are for /rerank"),
    ("pooling-(mean|cls|last|max|weightedmean)", "{start}--pooling {pooling}; if {name} is meant, verify with "
     "--pooling {name}"),
    ("pooling-b?float16", "pool in float32"),
    ("pooling-.*", "pool as the file says ({pooling}), over all tokens, special ones too"),
    ("dense-missing", "run the dense layers that follow pooling"),
    # text
    ("prefix '.*", "take the prompt out of the engine's settings; if it is meant, verify with --prefix and that text"),
    ("prefix-removed", "send the text as it is, its prefix too"),
    ("prompt.*", "keep or drop the prompt on both sides, and pool its tokens or not, alike: --prefix puts it before "
     "the reference's texts"),
    ("cut-.*-characters", "raise the limit of characters, or cut by tokens"),
    ("cut-.*", "raise the engine's longest input (max_seq_length, --ctx-size, --ubatch-size) to the "
     "model's {n_ctx} tokens; where it must cut, keep the closing token"),
    ("specials-unparsed", "parse special tokens in a text (llama.cpp: parse_special), or never send them"),
    ("tokenizer-.*|lower-case.*|upper-case|accents-.*", "take case and accents from the model's own tokenizer: the "
     "file says lowercase {lowercase}"),
    ("space-prefix|space-.*|stripped|spaces-.*|newline.*", "hand the text to the tokenizer untouched, and let the "
     "file's tokenizer settings decide on spaces"),
    ("latin-1|ascii-.*", "read and write texts as UTF-8"),
    ("white-space-.*|capitalized|digits-.*|period-behind|text-twice|(last|first)-character-lost|nul-behind|"
     "byte-order-mark|percent-encoded|reversed-text|empty-text", "hand the text to the tokenizer untouched"),
    ("json-escaped|quoted|html-escaped", "hand over the text itself: decode JSON once, and escape nothing"),
    ("nf.*", "leave Unicode as it is: the model's own tokenizer normalizes it"),
    # tokens
    ("no-(bos|eos|specials)|two-.*|extra-.*|.*-for-(bos|eos)", "add special tokens as the file says, once: `refembed "
     "tokenize TEXT` shows which"),
    ("padding-(\\d|multiple).*", "hide padding from attention and pooling (attention mask), or do not pad"),
    ("ids-.*", "use the vocabulary of the file: ids are shifted by one"),
    ("reversed-tokens|last-token-lost|doubled-text|unknown-dropped|repeats-dropped|first-word-lost|words-backwards|"
     "tokens-sorted", "hand the tokens over as they are, all of them, once"),
    # model
    ("layers?-.*", "run each layer of the file once, in the order of their numbers"),
    ("segment-.*|token_types-.*", "use the token types that the graph has: 0 for a single text"),
    ("(blk|attn|ffn|token|position|output|layer|dense|cls).*-(zero|negated|(rows|columns)-.*)",
     "load that tensor again, in the file's own order of rows and columns: `refembed info --tensors` lists them"),
    ("(blk|attn|ffn|token|position|output|layer|dense|cls).*-(B?F16|Q\\d.*|int\\d.*)", "use the file's own weights for "
     "that tensor, without rounding them again"),
    ("scale.*|soft-cap.*|embedding-scale.*|.*_embd-scale.*",
     "take that factor from the file, or from the architecture: `refembed explain` prints the formula with its value"),
    ("causal|bidirectional", "use the attention mask that the architecture has: {mask}"),
    ("parallel-in-turn|in-turn-parallel", "let feed-forward read what the architecture's graph gives it: the layer's "
     "normalized input where both halves are parallel, else the sum with attention"),
    ("post-norms-in-front", "put the norms where the architecture has them: behind attention and feed-forward"),
    ("norm-groups-.*", "normalize each group of channels by itself (attention.group_norm_groups)"),
    ("qk-norm-(by-head|whole)", "normalize queries and keys over as many channels as the weights of their norms have"),
    ("clamp-missing", "hold queries, keys and values within the file's attention.clamp_kqv"),
    ("rope-everywhere", "turn queries and keys only in the layers in which the architecture does"),
    ("rope-whole", "turn as many channels of a head as the file's rope.dimension_count says"),
    ("states-carried", "begin each text with a state of zeros: of a convolution, and of every layer that keeps one"),
    ("(decay|beta|delta|key-norm|output-gate|token-gate|step|skip|b-c|ssm|mixer|conv)-.*|values-not-scaled",
     "compute layers that keep a state as the architecture has them, with every tensor of the file: `refembed explain` "
     "prints each step"),
    ("experts.*|(value-)?router-.*|expert-.*|shared-expert-.*", "choose, weigh and run experts as the architecture "
     "does, with every tensor of the file: `refembed explain` prints each step"),
    ("sinks-.*", "give each head its attention sink: one more score in the softmax, whose share is dropped"),
    ("swiglu-.*", "compute the experts' gated unit as gpt-oss has it: clamped at 7, slope 1.702, and 1 added"),
    ("layer-kinds-.*|shared-keys-.*|per-layer-.*", "give each layer what is its own: its kind, its keys, its per-layer "
     "input (attention.sliding_window_pattern, attention.shared_kv_layers)"),
    ("gelu.*|relu.*|silu|tanh-only|no-activation|gate-.*", "use the activation that the file's architecture has"),
    ("eps-.*", "take epsilon from the file (layer_norm_epsilon, layer_norm_rms_epsilon)"),
    ("rope-.*|position.*|alibi-.*", "take positions and RoPE's settings (base, scaling, pairs) from the file"),
    ("window.*", "take the attention window from the file (attention.sliding_window, and its pattern)"),
    ("inputs-tf32.*", "for float32 switch TF32 off: torch.set_float32_matmul_precision('highest'), use_tf32=0 in ONNX "
     "Runtime, NVIDIA_TF32_OVERRIDE=0 for what multiplies by cuBLAS"),
    ("(inputs|results|sums)-b?float16", "for float32 switch autocast off; llama.cpp on a GPU: "
     "GGML_CUDA_CUBLAS_COMPUTE_TYPE=f32"),
    ("hidden-b?float16", "for float32 load the model so: dtype=torch.float32"),
    ("weights-.*", "{start}the file's own weights, and sums in float32"),
    (".*-missing|.*-swapped|.*-transposed|heads-.*|kv-heads-.*", "load every tensor of the file under its name and in "
     "its shape, and use it where the architecture does"),
    # vector
    ("vector-(b?float16|int8.*|binary|bits|\\d-decimals)", "ask for float32 vectors (`encoding_format` float), without "
     "quantization or rounding"),
    ("sigmoid.*|softmax", "leave the output's activation out: `raw` scores"),
    ("vector-.*", "give the pooled vector as it is, then normalize it"),
    ("tensor", "compare that operation's code with the formula that `refembed explain` prints for it"),
)  # fmt: skip
STAGES = {
    "text": "hand the text to the tokenizer untouched",
    "tokens": "make the tokens the reference's: `refembed tokenize TEXT` shows them",
    "batch": BATCH,
    "model": "make that operation do what the file's architecture asks for: `refembed explain` prints each formula",
    "weights": "load the file's own weights",
    "pooling": "pool as the file says ({pooling})",
    "vector": "give the pooled vector as it is, then normalize it",
}
UNEXPLAINED = (
    "find the first wrong tensor: record a run of the engine (llama-debug, or `refembed trace --save`) and give it "
    "to --against; or try fewer, shorter texts with --texts"
)


def with_remedies(verdict: Verdict, reference: Reference, info: dict[str, Any]) -> Verdict:
    """The verdict with what to do about each cause, and about the whole. reference: as the user asked for it."""
    causes = tuple(replace(c, remedy=c.remedy or remedy_of(c.id, reference, info)) for c in verdict.causes)
    return replace(verdict, causes=causes, remedy=remedy(verdict, causes, reference, info))


def remedy(verdict: Verdict, causes: Sequence[Cause], reference: Reference, info: dict[str, Any]) -> str:
    """One line: what to do now."""
    if verdict.kind == "unexplained":
        if ANOTHER in verdict.cause:
            more = untried_first(verdict)
            return f"{OTHER_MODEL}; if it is the same model, {more}" if more else OTHER_MODEL
        return untried_first(verdict) or (causes[0].remedy if causes and causes[0].id != "unexplained" else UNEXPLAINED)
    if verdict.kind == "differs":
        either = list(dict.fromkeys(c.remedy for c in causes if c.remedy))
        return either[0] if len(either) < 2 else f"either {either[0]}; or {either[1]}"
    return quiet_remedy(verdict, reference, info)


def quiet_remedy(verdict: Verdict, reference: Reference, info: dict[str, Any]) -> str:
    """Of an engine that agrees."""
    if verdict.evidence.precision:
        return f"{NOTHING}; {one_remedy(verdict.causes[0].id.split(' + ')[-1], reference, info)}"
    for remark in verdict.evidence.remarks:
        if "is the same in every text" in remark:
            return "start it with --pooling last, or as the model was trained: so its vectors do not distinguish texts"
        if found := re.search(r"pass (--pooling \w+)$", remark):
            return f"{NOTHING}; pass {found[1]} to refembed to have the same vectors"
        if "a setting, not a fault" in remark:
            return f"{NOTHING} if such lengths are meant; else start it with --embd-normalize 2"
    if reference.pooling == "none" and info.get("server"):
        return f"{NOTHING}; for one vector a text start it with --pooling mean, cls or last, as the model was trained"
    return NOTHING


def untried_first(verdict: Verdict) -> str:
    """Where time ran out, more time comes first."""
    return "give the search more time: --budget 600" if verdict.evidence.untried else ""


def remedy_of(id: str, reference: Reference, info: dict[str, Any], stage: str = "") -> str:
    """What to do about one cause; about two that come together, both."""
    parts = [part for part in id.split(" + ") if part]
    return "; and ".join(dict.fromkeys(one_remedy(part, reference, info, stage) for part in parts))


def one_remedy(id: str, reference: Reference, info: dict[str, Any], stage: str = "") -> str:
    """The advice of the first row that matches, with its blanks filled in."""
    for pattern, advice in TABLE:
        if found := re.fullmatch(pattern, id, re.DOTALL):
            return filled(advice, found, reference, info)
    return filled(STAGES.get(stage, STAGES["model"]), None, reference, info)


def filled(advice: str, found: re.Match[str] | None, reference: Reference, info: dict[str, Any]) -> str:
    """The advice about this model and this engine."""
    how = reference.pooling
    name = next((g for g in found.groups() if g), "") if found and found.groups() else ""
    hp = reference.model.hparams
    blanks: dict[str, Callable[[], object]] = {
        "{start}": lambda: "start it with " if info.get("server") == "llama-server" else "set it to ",
        "{pooling}": lambda: "mean (or another that gives one vector)" if how == "none" else how,
        "{name}": lambda: name,
        "{n_ctx}": lambda: reference.info.n_ctx,
        "{lowercase}": lambda: str(bool(getattr(reference.tokenizer.vocab, "lowercase", False))).lower(),
        "{mask}": lambda: "each token sees itself and those before it" if hp.causal else "every token sees all others",
    }
    for blank, value in blanks.items():
        if blank in advice:
            advice = advice.replace(blank, str(value()))
    if info.get("server") != "llama-server":  # its options are its own
        advice = advice.replace(
            "set it to --parallel 1, or with --kv-unified: else llama.cpp cuts",
            "send one text a request: the engine cuts",
        )
        advice = advice.replace("set it to --pooling ", "set its pooling to ").replace(
            "set it to --embd-normalize 2", "have it normalize to length 1"
        )
    return advice
