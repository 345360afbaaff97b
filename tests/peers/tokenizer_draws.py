"""Drawn tokenizers: the parts that a tokenizer.json, a vocab.txt or a SentencePiece model can have, put together.

Every part carries whether llama.cpp has it ("sound"): a folder of sound parts alone is one that `convert` should take.
"""

from __future__ import annotations

import base64
import functools
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

SENTENCE = "the cat sat on mat dog hello world embed ding s ed ing un able a b c d e f g h don t I ll we ve 1 2 12 é ü"
WORDS = SENTENCE.split()
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-#[]<>()éüßäñ漢字かなПривет٣مرحبا_/|:;=+…"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")


@dataclass
class Draw:
    """A folder's tokenizer: the files, and what was drawn for them."""

    family: str
    files: dict[str, Json | str | bytes] = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    size: int = 0  # config.json's vocab_size
    chosen: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)  # parts that llama.cpp does not have

    def pick(self, rng: random.Random, what: str, options: dict[str, tuple[bool, Any]], usual: float = 0.6) -> Any:
        """One of the options, the first with probability `usual`. name -> (whether llama.cpp has it, value)"""
        names = list(options)
        name = names[0] if rng.random() < usual else rng.choice(names)
        self.chosen.append(f"{what}: {name}")
        if not options[name][0]:
            self.unsound.append(f"{what}: {name}")
        return options[name][1]


def token(i: int, content: str, **flags: bool) -> Json:
    """An entry of added_tokens."""
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": i, "content": content} | usual | flags


def template(*items: str, ids: dict[str, int]) -> Json:
    """A TemplateProcessing; "A" is the text."""
    single = [
        {"Sequence": {"id": "A", "type_id": 0}} if item == "A" else {"SpecialToken": {"id": item, "type_id": 0}}
        for item in items
    ]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    named = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in items if t != "A"}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}


def roberta(cls: str, sep: str, ids: dict[str, int], kind: str = "RobertaProcessing") -> Json:
    """What stands around RoBERTa's texts, or BERT's."""
    more = {"trim_offsets": True, "add_prefix_space": False} if kind == "RobertaProcessing" else {}
    return {"type": kind, "sep": [sep, ids[sep]], "cls": [cls, ids[cls]], **more}


def added(draw: Draw, rng: random.Random, first: int, taken: str) -> list[Json]:
    """Tokens beyond the vocabulary."""
    return draw.pick(  # type: ignore[no-any-return]
        rng,
        "added",
        {
            "none": (True, []),
            "special": (True, [token(first, "<extra>")]),
            "two": (True, [token(first, "<x1>"), token(first + 1, "<x2>", lstrip=True)]),
            "word": (True, [token(first, "newword", special=False, normalized=True)]),
            "spaced": (True, [token(first, "two words", special=False)]),
            "single word": (True, [token(first, "<one>", single_word=True)]),
            "rstrip": (True, [token(first, "<r>", rstrip=True)]),
            "capitals": (True, [token(first, "[NEW]", normalized=True)]),
            "of the vocabulary": (True, [token(-1, taken, special=False)]),
            "a gap before": (False, [token(first + 3, "<far>")]),
        },
    )


def settings(draw: Draw, rng: random.Random, names: Json) -> None:
    """tokenizer_config.json, which may contradict."""
    more = draw.pick(
        rng,
        "settings",
        {
            "names": (True, {}),
            "flags": (True, {"add_bos_token": rng.random() < 0.5, "add_eos_token": rng.random() < 0.5}),
            "case": (True, {"do_lower_case": rng.random() < 0.5}),
        },
    )
    if draw.pick(rng, "tokenizer_config.json", {"there": (True, True), "absent": (True, False)}, 0.8):
        draw.files["tokenizer_config.json"] = names | more


def finish(draw: Draw, rng: random.Random, tokenizer: Json, count: int) -> Draw:
    """Sizes, and what a tokenizer.json says that concerns no ids."""
    draw.size = count + draw.pick(rng, "vocab_size", {"exact": (True, 0), "padded": (True, 7)})
    limits = draw.pick(rng, "limits", {"none": (True, (None, None)), "both": (True, (TRUNCATION, PADDING))})
    draw.files["tokenizer.json"] = {"version": "1.0", "truncation": limits[0], "padding": limits[1], **tokenizer}
    return draw


TRUNCATION = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
PADDING = {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
           "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip


def bert_normalizer(lower: bool = True, strip: bool | None = None, chinese: bool = True, clean: bool = True) -> Json:
    return {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": strip,
            "lowercase": lower}  # fmt: skip


def sequence(key: str, *parts: Json) -> Json:
    return {"type": "Sequence", key: list(parts)}


WORDPIECE_NORMALIZERS = {
    "BERT": (True, bert_normalizer()),
    "cased": (True, bert_normalizer(False)),
    "accents kept": (True, bert_normalizer(True, False)),
    "cased, accents stripped": (True, bert_normalizer(False, True)),
    "in a sequence": (True, sequence("normalizers", bert_normalizer())),
    "no ideographs": (False, bert_normalizer(chinese=False)),
    "no cleaning": (False, bert_normalizer(clean=False)),
    "NFKC": (False, sequence("normalizers", {"type": "NFKC"}, {"type": "Lowercase"})),
    "NFD": (False, sequence("normalizers", {"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"})),
    "none": (False, None),
}
DIGITS = {"type": "Digits", "individual_digits": True}
WORDPIECE_PRE_TOKENIZERS = {
    "BERT": (True, {"type": "BertPreTokenizer"}),
    "in a sequence": (True, sequence("pretokenizers", {"type": "BertPreTokenizer"})),
    "WhitespaceSplit": (False, {"type": "WhitespaceSplit"}),
    "Whitespace": (False, {"type": "Whitespace"}),
    "digits": (False, sequence("pretokenizers", {"type": "BertPreTokenizer"}, DIGITS)),
    "none": (False, None),
}


def wordpiece_post_processors(cls: str, sep: str, vocab: dict[str, int]) -> dict[str, tuple[bool, Any]]:
    return {
        "template": (True, template(cls, "A", sep, ids=vocab)),
        "BertProcessing": (True, roberta(cls, sep, vocab, "BertProcessing")),
        "RobertaProcessing": (True, roberta(cls, sep, vocab)),
        "other way round": (True, template(sep, "A", cls, ids=vocab)),
        "none": (False, None),
        "front alone": (False, template(cls, "A", ids=vocab)),
        "three": (False, template(cls, "[MASK]", "A", sep, ids=vocab)),
    }


def wordpiece(rng: random.Random) -> Draw:
    """A tokenizer.json of type WordPiece."""
    draw = Draw("wordpiece")
    unk = draw.pick(rng, "unk", {"[UNK]": (True, "[UNK]"), "<unk>": (True, "<unk>"), "absent": (False, "[NONE]")}, 0.8)
    cls, sep = draw.pick(rng, "ends", {"BERT": (True, ("[CLS]", "[SEP]")), "RoBERTa": (True, ("<s>", "</s>"))}, 0.8)
    special = ["[PAD]", unk if unk != "[NONE]" else "[UNK]", cls, sep, "[MASK]"]
    prefix = draw.pick(rng, "prefix", {"##": (True, "##"), "@@": (False, "@@")}, 0.95)
    pieces = [*special, *LETTERS, *(prefix + c for c in LETTERS), *(w for w in WORDS if len(w) > 1)]
    pieces += [prefix + "ing", prefix + "ed", "Hello", "CAT"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    extra = added(draw, rng, len(vocab), "cat")
    extra = [t | {"id": vocab.get(t["content"], t["id"])} for t in extra]
    normalizer = draw.pick(rng, "normalizer", WORDPIECE_NORMALIZERS)
    cutter = draw.pick(rng, "pre-tokenizer", WORDPIECE_PRE_TOKENIZERS, 0.7)
    post = draw.pick(rng, "post-processor", wordpiece_post_processors(cls, sep, vocab), 0.7)
    most = draw.pick(rng, "characters of a word", {"100": (True, 100), "200": (True, 200), "5": (True, 5)}, 0.85)
    settings(draw, rng, {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"})
    model = {"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": prefix,
             "max_input_chars_per_word": most, "vocab": vocab}  # fmt: skip
    first = [token(vocab[t], t) for t in special]
    return finish(
        draw, rng,
        {"added_tokens": [*first, *extra], "normalizer": normalizer, "pre_tokenizer": cutter, "post_processor": post,
         "decoder": None, "model": model},
        len(vocab) + sum(t["id"] >= len(vocab) for t in extra),
    )  # fmt: skip


def vocab_txt(rng: random.Random) -> Draw:
    """A vocab.txt and no tokenizer.json."""
    draw = Draw("vocab.txt")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *("##" + c for c in LETTERS)]
    pieces += [*(w for w in WORDS if len(w) > 1), "##ing", "Hello", "CAT"]
    pieces = list(dict.fromkeys(pieces))
    if missing := draw.pick(rng, "missing", {"none": (True, ""), "[CLS]": (False, "[CLS]"), "[SEP]": (False, "[SEP]"),
                                             "[UNK]": (False, "[UNK]"), "[MASK]": (True, "[MASK]")}, 0.8):  # fmt: skip
        pieces[pieces.index(missing)] = "zzz"
    lines = draw.pick(rng, "lines", {"plain": (True, pieces), "twice": (True, [*pieces, "cat", "new"]),
                                     "blank": (True, [*pieces, "", "new"]),
                                     "blank at the end": (True, [*pieces, ""])})  # fmt: skip
    end = draw.pick(rng, "line ends", {"LF": (True, "\n"), "CRLF": (True, "\r\n")}, 0.7)
    draw.files["vocab.txt"] = (end.join(lines) + end).encode()
    kind = draw.pick(rng, "class", {"BertTokenizer": (True, "BertTokenizer"), "none": (True, None),
                                    "DistilBertTokenizerFast": (True, "DistilBertTokenizerFast"),
                                    "BertJapaneseTokenizer": (False, "BertJapaneseTokenizer"),
                                    "AlbertTokenizer": (False, "AlbertTokenizer")}, 0.7)  # fmt: skip
    said = draw.pick(rng, "settings", {"none": (True, {}), "cased": (True, {"do_lower_case": False}),
                                       "accents": (True, {"strip_accents": False}),
                                       "no ideographs": (False, {"tokenize_chinese_chars": False}),
                                       "no basic": (False, {"do_basic_tokenize": False}),
                                       "MeCab": (False, {"word_tokenizer_type": "mecab"})})  # fmt: skip
    draw.files["tokenizer_config.json"] = said | ({"tokenizer_class": kind} if kind else {})
    draw.size = len(lines) + draw.pick(rng, "vocab_size", {"exact": (True, 0), "padded": (True, 5)})
    return draw


@functools.cache
def merges() -> tuple[tuple[str, str], ...]:
    """Byte pairs that lead to some words, as training would find them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)  # fmt: skip
    learner.train_from_iterator([" ".join(WORDS)] * 20 + ["hello world the cat sat on the mat 1234"] * 20, trainer)
    import json

    return tuple(tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"])


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = BYTES | {"use_regex": True}


def split(regex: str, behavior: str = "Isolated") -> Json:
    """A Split by that regular expression, then bytes."""
    part = {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}
    return sequence("pretokenizers", part, BYTES)


BYTE_PRE_TOKENIZERS = {
    "GPT-2": (True, GPT2),
    "Qwen2": (True, split(QWEN2)),
    "Llama 3": (True, split(LLAMA3)),
    "a space before": (False, GPT2 | {"add_prefix_space": True}),
    "removed": (False, split(QWEN2, "Removed")),
    "merged": (False, split(QWEN2, "MergedWithNext")),
    "uncut": (False, BYTES),
    "digits": (False, sequence("pretokenizers", DIGITS, GPT2)),
    "other way round": (False, sequence("pretokenizers", BYTES, split(QWEN2)["pretokenizers"][0])),
}


def byte_post_processors(ids: dict[str, int]) -> dict[str, tuple[bool, Any]]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    return {
        "none": (True, None),
        "both": (True, template("<s>", "A", "</s>", ids=ids)),
        "ByteLevel": (True, byte_level),
        "front": (True, template("<s>", "A", ids=ids)),
        "back": (True, template("A", "</s>", ids=ids)),
        "other way round": (True, template("</s>", "A", "<s>", ids=ids)),
        "RoBERTa": (True, roberta("<s>", "</s>", ids)),
        "sequence": (True, sequence("processors", byte_level, template("A", "</s>", ids=ids))),
        "text alone": (True, template("A", ids=ids)),
        "two in front": (False, template("<s>", "<mask>", "A", ids=ids)),
    }


def byte_pairs(rng: random.Random) -> Draw:
    """A tokenizer.json of byte-level BPE."""
    from tokenizers import pre_tokenizers

    draw = Draw(rng.choice(["qwen2", "qwen3", "llama", "eurobert", "modern-bert", "roberta"]))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    if draw.pick(rng, "special", {"behind": (True, False), "in the vocabulary": (True, True)}):
        vocab |= {t: len(vocab) + i for i, t in enumerate(("<s>", "</s>", "<mask>"))}
    special = [token(vocab.get(t, len(vocab) + i), t) for i, t in enumerate(("<s>", "</s>", "<mask>"))]
    ids = {t["content"]: t["id"] for t in special}
    count = max(len(vocab), max(ids.values()) + 1)
    extra = [t | {"id": vocab.get(t["content"], t["id"])} for t in added(draw, rng, count, "he")]
    mine = "GPT-2" if draw.family in ("modern-bert", "roberta") else "Llama 3" if "ro" in draw.family else "Qwen2"
    cutter = draw.pick(rng, "pre-tokenizer", {mine: BYTE_PRE_TOKENIZERS[mine]} | BYTE_PRE_TOKENIZERS)
    merging = draw.pick(rng, "ignore_merges", {"no": (True, False), "yes": (True, True)})
    unreachable = draw.pick(rng, "a token without merges", {"no": (True, False), "yes": (True, True)}, 0.8)
    if unreachable:  # only one that ignore_merges finds
        free = next(i for t, i in vocab.items() if t == "on" or t == "Ġon")
        vocab = {("qat" if i == free else t): i for t, i in vocab.items()}
    pairs = [list(p) for p in merges() if p[0] in vocab and p[1] in vocab and p[0] + p[1] in vocab]
    if unreachable and merging != (cutter == BYTE_PRE_TOKENIZERS["Llama 3"][1]):
        draw.unsound.append("ignore_merges without a name")
    normalizer = draw.pick(
        rng, "normalizer",
        {"none": (True, None), "NFC": (True, {"type": "NFC"}), "NFKC": (False, {"type": "NFKC"}),
         "Lowercase": (False, {"type": "Lowercase"}), "Prepend": (False, {"type": "Prepend", "prepend": "x"})}, 0.8,
    )  # fmt: skip
    post = draw.pick(rng, "post-processor", byte_post_processors(ids), 0.2)
    settings(draw, rng, {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"})
    draw.config = draw.pick(
        rng, "config.json", {"silent": (True, {}), "the same": (True, {"bos_token_id": ids["<s>"]}),
                             "another": (True, {"bos_token_id": 5, "eos_token_id": 6})}, 0.4,
    )  # fmt: skip
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": merging,
             "vocab": vocab, "merges": pairs}  # fmt: skip
    suffix = draw.pick(rng, "suffix", {"none": (True, None), "</w>": (False, "</w>")}, 0.95)
    model["end_of_word_suffix"] = suffix
    return finish(
        draw, rng,
        {"added_tokens": [*special, *extra], "normalizer": normalizer, "pre_tokenizer": cutter,
         "post_processor": post, "decoder": None, "model": model},
        count + sum(t["id"] >= count for t in extra),
    )  # fmt: skip


@functools.cache
def trained(kind: str, **options: Any) -> bytes:
    """A SentencePiece model of some sentences."""
    import sentencepiece

    text = "\n".join([" ".join(WORDS), "hello world the cat sat on the mat", "unable embedding 12 12", LETTERS] * 30)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus.txt"
        corpus.write_text(text, encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(Path(scratch) / "m"), model_type=kind, hard_vocab_limit=False,
            minloglevel=2, num_threads=1, **options,
        )  # fmt: skip
        return (Path(scratch) / "m.model").read_bytes()


def charsmap() -> str:
    """SentencePiece's usual map of characters, as tokenizer.json holds it."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    model.ParseFromString(trained("unigram", vocab_size=150, normalization_rule_name="nmt_nfkc"))
    return base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()


def unigram(rng: random.Random) -> Draw:
    """A tokenizer.json of type Unigram."""
    draw = Draw(rng.choice(["xlm-roberta", "xlm-roberta", "t5encoder"]))
    front = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces: list[tuple[str, float]] = [(t, 0.0) for t in front] + [("▁", -3.0)]
    pieces += [(c, -5.0 - i / 100) for i, c in enumerate(dict.fromkeys(LETTERS))]
    pieces += [(f"▁{w}", -2.0 - i / 50) for i, w in enumerate(WORDS) if len(w) > 1] + [("ing", -2.5), ("at", -3.5)]
    pieces += draw.pick(rng, "pieces", {"plain": (True, []), "across words": (False, [("t▁t", -1.0)])}, 0.95)
    if draw.pick(rng, "a piece U+2581", {"yes": (True, False), "no": (False, True)}, 0.95):
        pieces = [p for p in pieces if p[0] != "▁"]
    special = [token(i, t) for i, t in enumerate(front)]
    ids = {t["content"]: t["id"] for t in special}
    extra = added(draw, rng, len(pieces), "at")
    known = {t: i for i, (t, _) in enumerate(pieces)}
    extra = [t | {"id": known.get(t["content"], t["id"])} for t in extra]
    mapped = {"type": "Precompiled", "precompiled_charsmap": charsmap()}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    collapse = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": rng.choice([" ", "▁"])}
    normalizer = draw.pick(
        rng, "normalizer",
        {"Precompiled": (True, mapped), "in a sequence": (True, sequence("normalizers", mapped)),
         "collapsed": (True, sequence("normalizers", mapped, collapse)),
         "stripped": (True, sequence("normalizers", mapped, strip, collapse)), "none": (True, None),
         "Lowercase": (False, sequence("normalizers", mapped, {"type": "Lowercase"})),
         "NFKC": (False, {"type": "NFKC"})},
    )  # fmt: skip
    words, space = {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                                                 "split": True}  # fmt: skip
    cutter = draw.pick(
        rng, "pre-tokenizer",
        {"words": (True, sequence("pretokenizers", words, space)), "Metaspace": (True, space),
         "unsplit": (True, space | {"split": False}), "first": (True, space | {"prepend_scheme": "first"}),
         "never": (True, space | {"prepend_scheme": "never"}),
         "words, never": (False, sequence("pretokenizers", words, space | {"prepend_scheme": "never"})),
         "another sign": (False, space | {"replacement": "_"}), "digits": (False, sequence("pretokenizers", words,
             {"type": "Digits", "individual_digits": True}, space)), "WhitespaceSplit": (False, words),
         "none": (False, None)},
    )  # fmt: skip
    if {"normalizer: collapsed", "normalizer: stripped"} & {*draw.chosen} and "pre-tokenizer: never" in draw.chosen:
        draw.unsound.append("spaces that are merged, and none before a text")
    post = draw.pick(
        rng, "post-processor",
        {"both": (True, template("<s>", "A", "</s>", ids=ids)), "back": (True, template("A", "</s>", ids=ids)),
         "none": (True, None), "front": (True, template("<s>", "A", ids=ids)),
         "RoBERTa": (True, roberta("<s>", "</s>", ids)),
         "three": (False, template("<s>", "A", "</s>", "</s>", ids=ids))}, 0.4,
    )  # fmt: skip
    settings(draw, rng, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "cls_token": "<s>"})
    unk = draw.pick(rng, "unk_id", {"3": (True, 3), "none": (False, None), "another": (False, 4)}, 0.9)
    fallback = draw.pick(rng, "byte_fallback", {"no": (True, False), "yes": (False, True)}, 0.95)
    return finish(
        draw, rng,
        {"added_tokens": [*special, *extra], "normalizer": normalizer, "pre_tokenizer": cutter, "post_processor": post,
         "decoder": None, "model": {"type": "Unigram", "unk_id": unk, "vocab": [list(p) for p in pieces],
                                    "byte_fallback": fallback}},
        len(pieces) + sum(t["id"] >= len(pieces) for t in extra),
    )  # fmt: skip


FAMILIES_OF_JSON = (wordpiece, wordpiece, vocab_txt, byte_pairs, byte_pairs, unigram, unigram)
