"""Draws folders, converts each, and compares token ids with the libraries that wrote the tokenizers.

    .venv-peers/bin/python -m tests.peers.tokenizer_folders --folders 300 --seed 1

A tiny model x a drawn tokenizer (tokenizer_draws.py) x the files it is in. What counts:

    same            every text has the ids of `tokenizers` or `sentencepiece`
    warned          some text has others, and convert warned
    silently wrong  some text has others, and convert said nothing: must be 0
    refused         ModelError; sound ones among them, those of which llama.cpp has every part, are listed
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import random
import re
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refembed.convert.folder import convert
from refembed.convert.models import RECIPES
from refembed.convert.recipes import ALWAYS
from refembed.errors import RefembedError
from refembed.tokenizer import load_tokenizer
from tests.hf_folders import bert_config, bert_shapes, write_json, write_weights
from tests.peers.sentencepiece_draws import drawn
from tests.peers.tokenizer_draws import Draw, Json

TEXTS = [
    "", "a", "Hello world", "the cat sat on the mat", "hello  two   spaces", " leading", "trailing ", "   ",
    "UPPER lower MiXed CAT Hello", "don't I'LL we've", "x=1+2;y<3", "12345 6 78", "unable embedding embeds",
    "naïve café ÄÖÜ ß", "cafe\u0301 decomposed", "漢字かな混じり文", "Привет мир", "مرحبا ٣", "😀 emoji 👍🏽",
    "tab\tand\nnewline\r\nend\n", "nbsp\u00a0here", "zero\u200bwidth", "\ufeffbom", "!?.,:;-_()[]{}\"'…—",
    "### ##ing #", "a_b-c", "wordwordwordword", "Ｆｕｌｌ ｗｉｄｔｈ ﬁ ½ ①", "Σίσυφος ΣΑΣ", "x " * 30, "qat on on",
    "newword a newwords", "two words", "embed the mat\u3000here",
]  # fmt: skip
NAMES_OF_TOKENS = ["[CLS] x [SEP]", "<s>hello</s>", "a <mask> b", "<extra>x", "x <x1> <x2> y", "<one>a b<one>c",
                   "a<r> b", "[NEW] [new] x", "<ent> a <ent>b", "<image_soft_token>", "[UNK] [PAD]"]  # fmt: skip
ALPHABET = "abcdehistou THE.,!?'-_#12  éüßñ漢字かПр\n"


def texts_for(draw: Draw, rng: random.Random) -> list[str]:
    """Nasty texts, and some drawn ones.

    Not among them is what llama.cpp itself, whatever a file says, takes otherwise than the library: the names of
    tokens in SentencePiece's own models, which it takes for text; a text of spaces alone in Unigram, before which
    llama.cpp puts none; and in WordPiece Hangul, marks that take space, and words of more than 100 characters.
    """
    spm = any(name.endswith(".model") for name in draw.files)
    more = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 40))) for _ in range(8)]
    texts = TEXTS + more + ([] if spm else NAMES_OF_TOKENS)
    return [t for t in texts if t.strip() or draw.family not in ("xlm-roberta", "t5encoder")]


SPACES = " \n\r\t\u00a0\u3000\u200b\ufeff"  # SentencePiece's usual map makes spaces of all

# What a warning says -> the texts that it concerns. A difference in any other text counts as silent.
CONCERNED: dict[str, Callable[[str, str], bool]] = {
    r"finds in another way: ": lambda text, said: any(
        name.lower() in text.lower()
        for name in re.findall(r"([^\s;]+|two words) (?:takes|counts|is looked|is found)", said)
    ),
    r"white space at the end of a text": lambda text, said: text != text.rstrip(SPACES),
    r"CR LF is one space": lambda text, said: "\r\n" in text,
    r"that are normalized": lambda text, said: re.findall(r"normalized, (.+?) for one", said)[0] in text,
    r"begins with a space": lambda text, said: text.startswith(" ") or bool(re.search("he|[<[]|word", text)),
    r"begins with white space": lambda text, said: (
        text != text.lstrip(SPACES) or bool(re.search(r"(?:newword|at)\s", text)) or bool(re.search(r"[>\]] ", text))
    ),
    r"normalizer NFC": lambda text, said: text != unicodedata.normalize("NFC", text),
    r"characters are .* \(max_input_chars_per_word\)": lambda text, said: any(
        len(word) > int(re.findall(r"more than (\d+)", said)[0])
        for word in re.findall(r"\w+", text.replace("\u200b", ""))
    ),
    r"prepend_scheme first": lambda text, said: "<" in text,
    r"at U\+0020 alone": lambda text, said: text.split() != text.split(" "),
    r"is left out|no row|have ids from": lambda text, said: "<" in text,
    r"a Unigram vocabulary": lambda text, said: True,
    r"replaces characters": lambda text, said: True,
    r"makes one space of several": lambda text, said: "  " in text or text != text.strip(" "),
    r"config.json says (bos|eos)_token_id": lambda text, said: True,
    r"never_split": lambda text, said: True,
}


def concerned(text: str, warnings: list[str]) -> bool:
    """Whether one of the warnings is about such texts."""
    return any(re.search(how, said) and about(text, said) for said in warnings for how, about in CONCERNED.items())


Judge = Callable[[str], list[int]]


def judge_of(draw: Draw, folder: Path) -> Judge:
    """What the library of this tokenizer makes of a text. Raises what the library raises."""
    model = next((name for name in draw.files if name.endswith(".model")), None)
    if model:
        return judge_of_pieces(draw, folder / model)
    if "vocab.txt" in draw.files:
        return judge_of_lines(draw, folder / "vocab.txt")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text).ids)


def judge_of_lines(draw: Draw, path: Path) -> Judge:
    """BERT's tokenizer on a vocab.txt, read as `transformers` reads it."""
    from tokenizers import BertWordPieceTokenizer

    said: Any = draw.files["tokenizer_config.json"]
    with path.open(encoding="utf-8") as lines:
        vocab = {line.rstrip("\n"): i for i, line in enumerate(lines)}
    tokenizer = BertWordPieceTokenizer(
        vocab, lowercase=said.get("do_lower_case", True), strip_accents=said.get("strip_accents"),
        handle_chinese_chars=said.get("tokenize_chinese_chars", True),
    )  # fmt: skip
    return lambda text: list(tokenizer.encode(text).ids)


def judge_of_pieces(draw: Draw, path: Path) -> Judge:
    """SentencePiece, and around a text what the classes of `transformers` put there."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    said: Any = draw.files["tokenizer_config.json"]
    bos, eos = said.get("add_bos_token", False), said.get("add_eos_token", True)
    if draw.family == "gemma-embedding":
        said = said | {"add_prefix_space": False}
    if said.get("add_prefix_space") is not None:
        model = sentencepiece_model_pb2.ModelProto()
        model.ParseFromString(path.read_bytes())
        model.normalizer_spec.add_dummy_prefix = said["add_prefix_space"]
        library = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    if draw.family == "xlm-roberta":
        return lambda text: [0, *(i + 1 if i else 3 for i in library.encode(text)), 2]
    front, back = [library.bos_id()] * bos, [library.eos_id()] * eos
    return lambda text: [*front, *library.encode(text), *back]


SIZES = {"C": 8, "H": 2, "D": 4, "HD": 8, "KD": 8, "F": 8, "2F": 16, "3C": 24, "P": 16, "K": 2, "types": 1,
         "buckets": 4, "R": 1}  # fmt: skip
CLASSES = {
    "qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "gemma-embedding": "Gemma3Text", "eurobert": "EuroBert",
    "modern-bert": "ModernBert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "t5encoder": "T5Encoder",
}  # fmt: skip


def build(draw: Draw, folder: Path) -> Path:
    """Write the folder: one layer of eight channels, and the drawn tokenizer."""
    folder.mkdir(parents=True)
    if draw.family in ("wordpiece", "vocab.txt"):
        sizes = (8, 8, 1, draw.size, 16)
        write_json(folder / "config.json", bert_config(*sizes) | draw.config)
        write_weights(folder, bert_shapes(*sizes), "F32")
    else:
        name = CLASSES[draw.family]
        recipe, sizes_of = RECIPES[name], SIZES | {"V": draw.size}
        shapes = {}
        for ours, letters, theirs, optional in recipe.rows:
            stem = theirs.split("|")[0].replace("{}", recipe.layers + "0")
            if ours.startswith("cls") or (name == "T5Encoder" and "ffn_gate" in ours):
                continue  # of classifiers; of gated feed-forward layers
            if "?" not in optional or "relative" in stem:
                shapes[f"{stem}.weight"] = tuple(sizes_of[x] for x in letters.split())
                if recipe.biases.get(ours.rsplit(".", 1)[-1]) == ALWAYS:
                    shapes[f"{stem}.bias"] = shapes[f"{stem}.weight"][:1]
        write_json(folder / "config.json", config(name, draw))
        write_weights(folder, shapes, "F32")
    for file, content in draw.files.items():
        if isinstance(content, bytes):
            (folder / file).write_bytes(content)
        else:
            write_json(folder / file, content)
    return folder


def config(name: str, draw: Draw) -> Json:
    """config.json of a tiny model of this architecture."""
    import transformers

    sizes = {
        "vocab_size": draw.size, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 16,
        "type_vocab_size": 1, "layer_norm_eps": 1e-5, "rms_norm_eps": 1e-6, "sliding_window": 8, "local_attention": 8,
        "layer_types": ["sliding_attention"] if name == "Gemma3Text" else ["full_attention"],
        "global_attn_every_n_layers": 3, "use_bidirectional_attention": True,
    }  # fmt: skip
    if name == "T5Encoder":
        sizes = {"vocab_size": draw.size, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2,
                 "relative_attention_num_buckets": 4, "feed_forward_proj": "relu"}  # fmt: skip
    kind: str = getattr(transformers, f"{name.removesuffix('Encoder')}Config").model_type
    return {"architectures": [f"{name}Model"], "model_type": kind} | sizes | draw.config


@dataclass
class Outcome:
    """What became of a folder."""

    draw: Draw
    verdict: str  # "same", "warned", "silently wrong", "refused", "no tokenizer" (its library refuses it)
    reason: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """For the report."""
        return f"{self.draw.family} [{', '.join(self.draw.chosen)}]: {self.reason}"


class Caught(logging.Handler):
    """Collects what convert warns of."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def outcome(draw: Draw, place: Path, seed: str) -> Outcome:
    """Convert the folder and compare ids."""
    folder = build(draw, place / "model")
    rng, caught, log = random.Random(seed), Caught(), logging.getLogger("refembed.convert")
    try:
        judge = judge_of(draw, folder)
        wanted = {text: judge(text) for text in texts_for(draw, rng)}
    except Exception as e:  # the library's own errors have no class of their own
        return Outcome(draw, "no tokenizer", str(e))
    log.addHandler(caught)
    try:
        tokenizer = load_tokenizer(convert(folder, place / "model.gguf"))
    except RefembedError as e:
        return Outcome(draw, "refused", str(e).replace(str(place), "").replace("\n", " "))
    finally:
        log.removeHandler(caught)
    differs = []
    for text, ids in wanted.items():
        try:
            found: Any = tokenizer.encode(text, add_special=True, parse_special=True)
        except RefembedError as e:
            differs.append(f"{text!r}: {e}")  # one clear error is not silent
            continue
        if found != ids:
            differs.append(f"{text!r}: {found}, the library has {ids}")
            if not concerned(text, caught.messages):
                return Outcome(draw, "silently wrong", differs[-1], caught.messages)
    return Outcome(draw, "warned" if differs else "same", "".join(differs[:1]), caught.messages)


def survey(folders: int, seed: int) -> list[Outcome]:
    """The outcomes of that many folders."""
    found = []
    for number in range(folders):
        with tempfile.TemporaryDirectory() as place:
            found.append(outcome(drawn(seed, number), Path(place), f"{seed}/{number}"))
    return found


def report(found: list[Outcome]) -> str:
    """What the survey says, in lines."""
    counts = collections.Counter(o.verdict for o in found)
    sound = [o for o in found if o.verdict == "refused" and not o.draw.unsound]
    lines = [f"{len(found)} folders: " + ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))]
    for family in sorted({o.draw.family for o in found}):
        mine = collections.Counter(o.verdict for o in found if o.draw.family == family)
        lines.append(f"  {family:16} " + ", ".join(f"{n} {verdict}" for verdict, n in sorted(mine.items())))
    lines.append(f"silently wrong: {counts['silently wrong']}")
    lines += [f"  {o.line}" for o in found if o.verdict == "silently wrong"]
    lines.append(f"sound ones refused: {len(sound)}")
    lines += [f"  {o.line}" for o in sound]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folders", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warned", action="store_true", help="list the folders with warnings, too")
    options = parser.parse_args()
    logging.getLogger("gguf").setLevel(logging.ERROR)
    logging.getLogger("refembed.convert").propagate = False
    found = survey(options.folders, options.seed)
    print(report(found))
    if options.warned:
        for o in found:
            if o.verdict in ("warned", "no tokenizer"):
                print(json.dumps([o.line, o.warnings], ensure_ascii=False))


if __name__ == "__main__":
    main()
