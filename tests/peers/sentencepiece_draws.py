"""Drawn SentencePiece models, and what `transformers` makes of them: as tokenizer_draws.py, whose parts these share."""

from __future__ import annotations

import functools
import random
from typing import Any

from tests.peers.tokenizer_draws import (
    FAMILIES_OF_JSON,
    LETTERS,
    Draw,
    Json,
    added,
    finish,
    sequence,
    settings,
    template,
    token,
    trained,
)


def spm(rng: random.Random) -> Draw:
    """SentencePiece's own file."""
    layout = rng.choice(["llama", "llama", "gemma-embedding", "t5encoder", "xlm-roberta"])
    draw = Draw(layout)
    usual = "bpe" if layout in ("llama", "gemma-embedding") else "unigram"
    kind = draw.pick(rng, "model", {usual: (True, usual), "bpe": (layout in ("llama", "gemma-embedding"), "bpe"),
                                    "unigram": (True, "unigram"), "char": (False, "char")}, 0.8)  # fmt: skip
    options: Json = {"vocab_size": 440 if layout in ("llama", "gemma-embedding") else 150}
    options["byte_fallback"] = usual == "bpe"
    options["normalization_rule_name"] = "nmt_nfkc" if usual == "unigram" else "identity"
    if draw.pick(rng, "normalization", {"usual": (True, False), "other": (True, True)}, 0.8):
        options["normalization_rule_name"] = {"nmt_nfkc": "identity", "identity": "nmt_nfkc"}[
            options["normalization_rule_name"]
        ]
    options["remove_extra_whitespaces"] = draw.pick(
        rng, "spaces", {"usual": (True, usual == "unigram"), "other": (True, usual == "bpe")}, 0.8
    )
    prefix = layout != "gemma-embedding" and draw.pick(
        rng, "prefix", {"yes": (True, True), "no": (usual == "bpe", False)}, 0.7
    )
    options["add_dummy_prefix"] = prefix
    if draw.pick(rng, "suffix", {"no": (True, False), "yes": (False, True)}, 0.95):
        options["treat_whitespace_as_suffix"] = True
    roles = draw.pick(rng, "roles", {"usual": (True, (0, 1, 2, -1)), "Gemma": (True, (3, 2, 1, 0))})
    if layout == "xlm-roberta":
        roles = (0, 1, 2, -1)
    if layout == "t5encoder":
        roles = rng.choice([(2, -1, 1, 0), (0, 1, 2, -1)])
    options |= dict(zip(("unk_id", "bos_id", "eos_id", "pad_id"), roles, strict=True))
    symbols = draw.pick(rng, "symbols", {"none": (True, ""), "some": (True, "<ent>")}, 0.85)
    if symbols:
        options["user_defined_symbols"] = symbols
    name = {"t5encoder": "spiece.model", "xlm-roberta": "sentencepiece.bpe.model"}.get(layout, "tokenizer.model")
    draw.files[name] = trained(kind, **options)
    said: Json = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if layout in ("llama", "gemma-embedding"):
        said |= {
            "add_bos_token": True,
            "add_eos_token": draw.pick(rng, "EOS", {"no": (True, False), "yes": (True, True)}),
        }
        if layout == "llama":
            said |= draw.pick(rng, "add_prefix_space", {"silent": (True, {}), "no": (True, {"add_prefix_space": False}),
                                                        "yes": (True, {"add_prefix_space": True})})  # fmt: skip
    draw.files["tokenizer_config.json"] = said
    ids = {"bos_token_id": roles[1], "eos_token_id": roles[2], "pad_token_id": roles[3]}
    given = draw.pick(rng, "config.json", {"ids": (True, True), "silent": (True, False)}, 0.6)
    draw.config = {k: v for k, v in ids.items() if v >= 0} if given and layout != "xlm-roberta" else {}
    count = sentencepiece_size(draw.files[name])
    draw.size = count + (2 if layout == "xlm-roberta" else 0)
    draw.size += draw.pick(rng, "vocab_size", {"exact": (True, 0), "padded": (True, 5)})
    if draw.pick(rng, "an image token", {"no": (True, False), "yes": (True, True)}, 0.8):
        draw.files["added_tokens.json"] = {"<image_soft_token>": draw.size}
    return draw


def merged(rng: random.Random) -> Draw:
    """A tokenizer.json of SentencePiece's BPE, as `transformers` 5 saves Llama and Gemma, without a tokenizer.model."""
    draw = Draw(rng.choice(["llama", "gemma-embedding"]))
    vocab, pairs = pieces_and_merges()
    special = [token(i, t) for i, t in enumerate(("<unk>", "<s>", "</s>"))]
    ids = {t["content"]: t["id"] for t in special}
    extra = added(draw, rng, len(vocab), "he")
    extra = [t | {"id": vocab.get(t["content"], t["id"])} for t in extra]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

    def metaspace(scheme: str, split: bool = False) -> Json:
        return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}

    prepend = sequence("normalizers", {"type": "Prepend", "prepend": "▁"}, spaces)
    normalizer, cutter = draw.pick(
        rng, "spaces",
        {"Gemma": (True, (spaces, split)), "Llama": (True, (prepend, None)),
         "first": (True, (None, metaspace("first"))),
         "never": (True, (None, metaspace("never"))), "split": (False, (None, metaspace("always", True))),
         "NFKC": (False, (sequence("normalizers", {"type": "NFKC"}, spaces), None)),
         "none": (False, (None, None))}, 0.3,
    )  # fmt: skip
    post = draw.pick(
        rng, "post-processor",
        {"front": (True, template("<s>", "A", ids=ids)), "both": (True, template("<s>", "A", "</s>", ids=ids)),
         "none": (True, None), "back": (True, template("A", "</s>", ids=ids))}, 0.3,
    )  # fmt: skip
    change = draw.pick(rng, "merges", {"whole": (True, ""), "one is missing": (False, "missing"),
                                       "out of order": (False, "order")}, 0.8)  # fmt: skip
    if change == "missing":
        pairs = [p for p in pairs if p != ["t", "he"]]
    if change == "order":
        pairs = [["t", "he"], *(p for p in pairs if p != ["t", "he"])]
    settings(draw, rng, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    draw.config = draw.pick(rng, "config.json", {"silent": (True, {}), "another": (True, {"bos_token_id": 5})}, 0.6)
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
             "vocab": vocab, "merges": pairs}  # fmt: skip
    return finish(
        draw, rng,
        {"added_tokens": [*special, *extra], "normalizer": normalizer, "pre_tokenizer": cutter, "post_processor": post,
         "decoder": None, "model": model},
        len(vocab) + sum(t["id"] >= len(vocab) for t in extra),
    )  # fmt: skip


@functools.cache
def pieces_and_merges() -> tuple[dict[str, int], list[list[str]]]:
    """A vocabulary and the pairs of its pieces, those of one piece together: what `transformers` makes of a model."""
    words = ["he", "▁t", "the", "▁the", "at", "cat", "▁cat", "in", "ing", "▁c", "ed", "▁▁", "ll", "▁on", "on"]
    letters = dict.fromkeys([*"▁", *LETTERS])
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *words, *letters]
    vocab = {t: i for i, t in enumerate(dict.fromkeys(tokens))}
    pairs = [[w[:i], w[i:]] for w in words for i in range(1, len(w)) if w[:i] in vocab and w[i:] in vocab]
    return vocab, pairs


def sentencepiece_size(data: Any) -> int:
    """How many pieces a model has."""
    import sentencepiece

    return int(sentencepiece.SentencePieceProcessor(model_proto=data).vocab_size())


FAMILIES = (*FAMILIES_OF_JSON, spm, spm, merged)


def drawn(seed: int, number: int) -> Draw:
    """Folder `number` of a seed, the same every time."""
    rng = random.Random(f"{seed}/{number}")
    return FAMILIES[number % len(FAMILIES)](rng)
