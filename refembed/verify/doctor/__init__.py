"""What a model file says that embedding needs and gets wrong: checks that run no text. Each finding says what to do.

    error    vectors will be wrong, or there will be none
    warning  they may be: depends on how the model was trained, or on who runs it
    note     worth knowing

What each check has cost people is in the threads named with it. `doctor_weights` looks at the weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

from refembed.errors import RefembedError
from refembed.gguf import GGUFFile
from refembed.hub.prompts import find
from refembed.model import ARCHITECTURES
from refembed.model.hparams import POOLING_NAMES
from refembed.model.unsupported import UNSUPPORTED
from refembed.pooling.heads import check_dense, check_rank
from refembed.pooling.poolers import UNNAMED, unnamed_pooling, usual_pooling
from refembed.tokenizer.pairs import TEMPLATE
from refembed.tokenizer.pretokenize import TABLE
from refembed.verify.doctor.finding import COLBERT, NO_DENSE, STORED_AS, Check, Finding, ModelFile

SEVERITIES = ("error", "warning", "note")
MOST_LINES = 5  # of an error that lists tensors
FOREVER = 1 << 20  # tokens: no model reads a longer text


def examine(f: GGUFFile) -> list[Finding]:
    """All findings about a file but for its weights, the worst first."""
    model_file = ModelFile(f)
    found = [finding for check in CHECKS for finding in check(model_file)]
    return in_order(found)


def in_order(found: list[Finding]) -> list[Finding]:
    """The worst first; among equals as they were found."""
    return sorted(found, key=lambda x: SEVERITIES.index(x.severity))


def loads(p: ModelFile) -> Iterator[Finding]:
    """Whether refembed, and so llama.cpp, can run it at all."""
    if any(p.arch in names.split() for names in UNSUPPORTED.values()):
        says = f"refembed does not compute architecture {p.arch!r}"
        yield Finding("warning", "architecture", says, "llama.cpp does; nothing here can be checked by running it")
        return
    if p.arch not in ARCHITECTURES:
        says = f"architecture {p.arch!r} is unknown" if p.arch else "the file names no architecture"
        yield Finding(
            "error", "architecture", says, "is this a language model? convert it again", "general.architecture"
        )
        return
    for pattern, (wrong, right, source) in STORED_AS.items():
        if p.arch == wrong and p.is_called(pattern):
            says = f"stored as {wrong}, whose tokens look back only, but a model of this name is a {right}"
            yield Finding("error", "architecture", says, f"convert it again ({source})", "general.architecture")
    loaded = p.model, p.tokenizer
    for e in p.trouble:
        yield Finding("error", "loading", brief(str(e), p), e.hint or "convert the model again")
    if loaded[0] is not None:
        try:
            check_dense(loaded[0], str(p.f.path))
        except RefembedError as e:
            yield Finding(
                "error", "dense layers", brief(str(e), p), e.hint or "convert the model again, with its dense layers"
            )


def brief(message: str, p: ModelFile) -> str:
    """An error on one line: no path, no hint, of a list of tensors the first few."""
    lines = [" ".join(line.split()) for line in message.partition("\n  hint: ")[0].splitlines()]
    more = f"; and {len(lines) - MOST_LINES} more" if len(lines) > MOST_LINES else ""
    return "; ".join(lines[:MOST_LINES]).removeprefix(f"{p.f.path}: ") + more


def pooling(p: ModelFile) -> Iterator[Finding]:
    """How one vector comes of many. llama.cpp#17203, #16451, ollama#11375, lilbee#382."""
    key = f"{p.arch}.pooling_type"
    causal = p.model.hparams.causal if p.model else not p.is_encoder
    if p.pooling is None:
        severity = "error" if p.calls_itself_embedder else "warning"
        number = p.md.of_type(key, int)
        says = UNNAMED if number in (None, -1, 2**32 - 1) else f"pooling {number} is unknown"
        number = next(n for n, name in POOLING_NAMES.items() if name == usual_pooling(causal))
        do = f"{unnamed_pooling(causal)}. To have it in the file, set {key} to {number}, {usual_pooling(causal)}"
        yield Finding(severity, "pooling", f"{says}, so each token has a vector", do, key)
        return
    if p.pooling == "cls" and causal and not p.is_encoder:
        says = "pooling takes the first token, but in a decoder that token has seen nothing but itself"
        yield Finding("error", "pooling", says, f"set {key} to 3, the last token, unless the model card says mean", key)
    if p.pooling == "last" and p.is_encoder:
        says = "pooling takes the last token of an encoder, its closing special token"
        yield Finding(
            "warning", "pooling", says, f"encoders use cls (2) or mean (1): see the model card, set {key}", key
        )
    if p.pooling == "mean" and causal and not p.is_encoder:
        says = "pooling takes the mean, but tokens of this decoder look back only"
        yield Finding("note", "pooling", says, "right only if the model was trained so: see the model card", key)


def attention(p: ModelFile) -> Iterator[Finding]:
    """The causal flag."""
    key = f"{p.arch}.attention.causal"
    stored = p.md.of_type(key, bool)
    if p.arch == "t5encoder" and stored is not False:
        says = (
            "an encoder, but llama.cpp's embedding programs let its tokens look back only, unless the file says not to"
        )
        yield Finding("error", "attention", says, f"set {key} to false; its converter never writes the key", key)
    elif stored is True and p.is_encoder:
        says = "the file says that tokens look back only, but this architecture is an encoder"
        yield Finding(
            "warning", "attention", says, f"llama.cpp ignores it, other engines may not: set {key} to false", key
        )
    if stored is not False and not p.is_encoder and (source := p.said_to_see_all):
        says = "this model was trained with tokens that see the whole text, but the file lets them look back only"
        yield Finding("error", "attention", says, f"set {key} to false ({source})", key)
    if stored is False and p.arch and not p.is_encoder:
        says = "a decoder whose tokens see all that follows, as some embedders are trained"
        yield Finding(
            "note", "attention", says, "engines that ignore the key give other vectors: compare with verify", key
        )


def heads(p: ModelFile) -> Iterator[Finding]:
    """Rerankers. llama.cpp#25447, #16407, #13820: scores near zero, or NaN."""
    has_head = any(name.startswith("cls.") for name in p.tensors)
    if p.pooling == "rank":
        if p.model is not None:
            try:
                check_rank(p.model)
            except RefembedError as e:
                says = str(e).partition("\n")[0]
                yield Finding(
                    "error", "head", says, "convert the reranker again, so that its head comes along", "cls.*"
                )
        if not p.is_encoder and TEMPLATE not in p.md:
            says = "a reranker that is a decoder, without the template for a query and a document"
            yield Finding(
                "error", "head", says, f"add {TEMPLATE} from the model card; scores mean nothing without", TEMPLATE
            )
    elif not has_head and "rerank" in p.name.lower():
        says = "a reranker by its name, without a head (cls.output): it can embed texts, and score no pair"
        yield Finding("error", "head", says, "convert it again with a converter that keeps the head", "cls.output")
    elif has_head and p.is_encoder:
        says = "the file has a classifier's head, but does not call itself a reranker"
        do = f"for reranking set {p.arch}.pooling_type to 4 (rank), or pass --pooling rank; for embedding this is fine"
        yield Finding("note", "head", says, do, "cls.weight")


def modules(p: ModelFile) -> Iterator[Finding]:
    """Layers of a sentence-transformers model behind pooling. llama.cpp#18677, ollama#12426, plur#270."""
    wanted: tuple[str, ...] = ()
    if p.arch == "gemma-embedding" and not any(p.is_called(name) for name in NO_DENSE):
        wanted, who, do = (
            ("dense_2.weight", "dense_3.weight"),
            "EmbeddingGemma",
            "--sentence-transformers-dense-modules",
        )
    elif p.arch == "lfm2" and p.is_called(COLBERT):
        wanted, who, do = ("dense_2.weight",), "LFM2-ColBERT", "the folder 1_Dense next to its weights"
    missing = " and ".join(name for name in wanted if name not in p.tensors)
    if missing:
        says = f"{who} without {missing}: its vectors are not those of the model"
        yield Finding("error", "dense layers", says, f"convert again with {do}", missing)


def length(p: ModelFile) -> Iterator[Finding]:
    """The longest text."""
    key = f"{p.arch}.context_length"
    n = p.md.of_type(key, int)
    if not p.arch or (p.model is None and n is None):
        return
    rows = p.tensors["position_embd.weight"].shape[0] if "position_embd.weight" in p.tensors else None
    if not n:
        yield Finding("error", "context", f"the longest text is {n} tokens", f"set {key} as the model card says", key)
    elif rows is not None and rows != n:
        says = f"the file promises {n} tokens, but has positions for {rows}"
        yield Finding("error", "context", says, f"set {key} to {rows}", key)
    elif n > FOREVER:
        says = f"the longest text is {n:,} tokens, which no model was trained on"
        yield Finding(
            "warning", "context", says, f"set {key} as the model card says; servers reserve memory for it", key
        )
    elif n < 64:
        says = f"the longest text is {n} tokens: nearly every text will be cut or refused"
        yield Finding("warning", "context", says, f"check {key} against the model card", key)


def pre_tokenizer(p: ModelFile) -> Iterator[Finding]:
    """How byte-pair encoding cuts a text first. llama.cpp#18756."""
    key = "tokenizer.ggml.pre"
    if p.md.of_type("tokenizer.ggml.model", str) != "gpt2":
        return
    pre = p.md.of_type(key, str)
    if key in p.md and pre is None:
        return  # not a string: `loads` says so
    if pre is None:
        says = "the file names no pre-tokenizer; llama.cpp takes its default, which fits next to no model"
        yield Finding("error", "pre-tokenizer", says, "convert again with a converter that knows the model", key)
    elif pre == "default":
        says = "the pre-tokenizer is llama.cpp's default, which fits next to no model"
        do = "compare ids with the original: refembed tokenize --compare tokenizer.json; convert again if they differ"
        yield Finding("warning", "pre-tokenizer", says, do, key)
    elif pre not in TABLE:
        says = f"pre-tokenizer {pre!r} is unknown: llama.cpp refuses it"
        yield Finding("error", "pre-tokenizer", says, "a newer llama.cpp may know it; else convert again", key)


def split_files(p: ModelFile) -> Iterator[Finding]:
    """Several files, and what lies behind the last tensor."""
    if len(p.f.paths) > 1:
        says = f"a model of {len(p.f.paths)} files"
        do = "open the first; the others must lie in the same folder. llama-gguf-split --merge makes one of them"
        yield Finding("note", "files", says, do)
    if p.f.trailing:
        says = f"{p.f.trailing:,} bytes behind the last tensor belong to no tensor"
        yield Finding("warning", "files", says, "the file was written twice or added to: download it again")
    if p.f.alignment != 32:
        says = f"tensors are aligned to {p.f.alignment} bytes, not to the usual 32"
        severity = "warning" if p.f.alignment < 32 else "note"
        do = "some readers assume 32: convert again without general.alignment"
        yield Finding(severity, "alignment", says, do, "general.alignment")
    if p.f.byteorder == ">":
        says = "a big-endian file"
        yield Finding("warning", "byte order", says, "most machines refuse it: gguf-convert-endian MODEL little")


def norms(p: ModelFile) -> Iterator[Finding]:
    """The small number under the root."""
    for kind in ("layer_norm_epsilon", "layer_norm_rms_epsilon"):
        key = f"{p.arch}.attention.{kind}"
        eps = p.md.of_type(key, float)
        if eps is not None and not 0 < eps <= 1e-3:
            says = f"the norms add {eps:g} under the root; models have 1e-12 to 1e-5"
            yield Finding("error" if eps <= 0 else "warning", "norms", says, "check it against config.json", key)


def prompts(p: ModelFile) -> Iterator[Finding]:
    """What stands before each text. A reranker has none: its pairs are made otherwise."""
    if p.pooling == "rank":
        return
    try:
        known = find(p.f)
    except RefembedError as e:
        yield Finding("warning", "prompts", brief(str(e), p), e.hint or "mend it, or move it away")
        return
    if known is not None:
        names = "|".join(known.prompts)
        do = f"ask for one of them, refembed embed --prompt-name {names}; with other programs write it before each text"
        yield Finding("note", "prompts", known.says(), do)


def special_tokens(p: ModelFile) -> Iterator[Finding]:
    """BOS, EOS, SEP: see `doctor_tokens`, imported when asked for."""
    from refembed.verify.doctor.tokens import check_tokens

    yield from check_tokens(p)


def weights_types(p: ModelFile) -> Iterator[Finding]:
    """Types: see `doctor_weights`."""
    from refembed.verify.doctor.weights import check_types

    yield from check_types(p.f)


CHECKS: tuple[Check, ...] = (
    loads, pooling, attention, heads, modules, length, special_tokens, pre_tokenizer, prompts, norms, weights_types,
    split_files,
)  # fmt: skip
