"""Pre-tokenizers: what `tokenizer.ggml.pre` names, and what follows from the name.

Byte-pair encoding merges within pieces only. How a text is cut into pieces, and some flags for which no key exists,
follow from the name alone: TABLE below, one row for each rule. The rules go back to the models' own `tokenizer.json`,
as far as llama.cpp follows it; mirrors llama_vocab::impl::load and llm_tokenizer_bpe of src/llama-vocab.cpp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from refembed.errors import ModelError
from refembed.gguf.metadata import nearest
from refembed.tokenizer.pretokenize_split import (
    Stage,
    before_threes,
    by_characters,
    by_classes,
    by_han,
    split,
    threes_from_the_right,
)


@dataclass(frozen=True)
class PreTokenizer:
    """What a name stands for. A key of the file, where one exists, has the last word but for force_bos."""

    stages: tuple[Stage, ...]
    ignore_merges: bool = False  # a piece that is a token is that token, whatever the merges say
    add_bos: bool = False  # unless tokenizer.ggml.add_bos_token says otherwise
    force_bos: bool = False  # whatever tokenizer.ggml.add_bos_token says
    no_bos: bool = False  # no id is BOS unless tokenizer.ggml.bos_token_id names one
    add_sep: bool = False  # unless tokenizer.ggml.add_sep_token says otherwise
    clean_spaces: bool = True  # detokenizing drops the space before punctuation
    lowercase: bool = True  # unless tokenizer.ggml.normalizer.lowercase says otherwise
    byte_encode: bool = True  # tokens are spelled in GPT-2's alphabet of bytes; else in UTF-8, odd bytes as <0xHH>
    escape_spaces: bool = False  # U+0020 is U+2581 in tokens
    whole_newlines: bool = False  # a piece of line feeds that is a token is that token, whatever the merges say
    word_starts: bool = False  # lines start with U+2581, and each U+2581 starts a piece
    optional_merges: bool = False  # tokenizer.ggml.merges may be absent

    def split(self, text: str) -> list[str]:
        """Pieces of a text, in order; joined they are the text (with word_starts: and U+2581 before some lines)."""
        pieces = split(text, self.stages)
        return [word for piece in pieces for word in starting_words(piece)] if self.word_starts else pieces

    def cutters(self) -> list[Callable[[str], list[str]]]:
        """`split` step by step: each cuts every piece of the one before it, and needs to know nothing but the piece."""
        stages: list[Callable[[str], list[str]]] = [functools.partial(split, stages=(stage,)) for stage in self.stages]
        return [*stages, starting_words] if self.word_starts else stages


def starting_words(piece: str) -> list[str]:
    """ "a▁b" -> "▁a" "▁b"; line feeds stay."""
    if not piece.strip("\n"):
        return [piece]
    head, *words = piece.split("▁")
    return [f"▁{word}" for word in ([head, *words] if head else words)]


# -- the rules -------------------------------------------------------------------------------------------------------

# Classes, to stand within brackets: what is ASCII of them, and the byte that all others become.
N = r"0-9\xd1"
L = r"A-Za-z\xd2"
UPPER, LOWER = r"A-Z\xd2", r"a-z\xd2"  # letters; beyond ASCII every one is both
P = r"!-#%-*,-/:;?@\[-\]_{}\xd3"
M = r"\xd4"
S = r"$+<=>\^`|~\xd5"
ASCII_MARKS = r"[!-/:-@\[-`{-~]"  # punctuation and symbols
HAN_LETTERS, HAN = r"\xd6", r"\xd6\xd7"  # ideographs; with what is not assigned among them. Told apart by by_han only

# What most rules are put together from, in the order in which it is tried.
LOWER_CONTRACTION = "'(?:[stmd]|re|ve|ll)"
CONTRACTION = "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
LEAD = rf"[^\r\n{L}{N}]?"  # anything, a space above all, that goes with the letters behind it
WORD = rf"{LEAD}[{L}]+"
MARKED_WORD = rf"{LEAD}[{L}{M}]+"
CASED_WORD = (rf"{LEAD}[{UPPER}]*[{LOWER}]+", rf"{LEAD}[{UPPER}]+[{LOWER}]*")
CASED_MARKED_WORD = (rf"{LEAD}[{UPPER}{M}]*[{LOWER}{M}]+", rf"{LEAD}[{UPPER}{M}]+[{LOWER}{M}]*")
ONE_DIGIT, THREE_DIGITS, ALL_DIGITS = rf"[{N}]", rf"[{N}]{{1,3}}", rf"[{N}]+"
OTHERS = rf" ?[^\s{L}{N}]+"
LINE_ENDS = r"\s*[\r\n]+"
SPACES = (r"\s+(?!\S)", r"\s+")  # the last space before something is left to what follows

GPT2 = by_classes(LOWER_CONTRACTION, rf" ?[{L}]+", rf" ?[{N}]+", OTHERS, *SPACES)
LLAMA3 = by_classes(CONTRACTION, WORD, THREE_DIGITS, rf"{OTHERS}[\r\n]*", LINE_ENDS, *SPACES)
QWEN2 = by_classes(CONTRACTION, WORD, ONE_DIGIT, rf"{OTHERS}[\r\n]*", LINE_ENDS, *SPACES)
UFAKZEKA = by_classes(WORD, ONE_DIGIT, rf"{OTHERS}[\r\n]*", LINE_ENDS, *SPACES)
QWEN35 = by_classes(CONTRACTION, MARKED_WORD, ONE_DIGIT, rf" ?[^\s{L}{M}{N}]+[\r\n]*", LINE_ENDS, *SPACES)
MINICPM5 = by_classes(CONTRACTION, WORD, ALL_DIGITS, rf"{OTHERS}[\r\n]*", LINE_ENDS, *SPACES)
SEED_CODER = by_classes(CONTRACTION, WORD, ONE_DIGIT, rf" ?[^\s{L}{N}\r\n]+", LINE_ENDS, *SPACES)
BAILING = by_classes(CONTRACTION, WORD, ONE_DIGIT, rf"{OTHERS}[\r\n]*", r"\s*[\r\n]", *SPACES)
EXAONE_WORDS = rf"{LEAD}[{L}][{L}{M}]*(?: [{L}][{L}{M}]*)*"
EXAONE_MOE = by_classes(CONTRACTION, EXAONE_WORDS, ONE_DIGIT, rf"{OTHERS}[\r\n/]?", r"\s*[\r\n]", *SPACES)
JAIS2_SPACES = (*(rf"\s{{{2**k}}}(?!\S)" for k in range(9, 1, -1)), r"\s{1,2}(?!\S)", r"\s")
JAIS2 = by_classes(CONTRACTION, WORD, THREE_DIGITS, rf"{OTHERS}[\r\n]*", LINE_ENDS, *JAIS2_SPACES)

MAY_CONTRACT = f"(?:{CONTRACTION})?"
NO_WORD = (rf"{OTHERS}[\r\n/]*", LINE_ENDS, *SPACES)
GPT4O = by_classes(*(word + MAY_CONTRACT for word in CASED_WORD), THREE_DIGITS, *NO_WORD)
TEKKEN = by_classes(*CASED_WORD, ONE_DIGIT, *NO_WORD)
GRANITE = by_classes(*(word + MAY_CONTRACT for word in CASED_MARKED_WORD), THREE_DIGITS, *NO_WORD)
TINY_AYA = by_classes(MARKED_WORD + MAY_CONTRACT, THREE_DIGITS, *NO_WORD)
YOUTU = by_classes(MARKED_WORD + MAY_CONTRACT, ONE_DIGIT, *NO_WORD)

ASCII_WORD, FREE_WORD = rf"{ASCII_MARKS}[A-Za-z]+", rf"[^\r\n{L}{P}{S}]?[{L}{M}]+"
DEEPSEEK3 = by_classes(ASCII_WORD, FREE_WORD, rf" ?[{P}{S}]+[\r\n]*", LINE_ENDS, *SPACES)
SPARK = by_classes(ASCII_WORD, FREE_WORD, rf" ?[{P}{S}]+", r"[\r\n]", *SPACES)

KIMI_WORD = rf"[^\r\n{L}{N}{HAN}]?[{L}]+{MAY_CONTRACT}"
KIMI_K2 = by_han(rf"[{HAN}]+", KIMI_WORD, THREE_DIGITS, rf" ?[^\s{L}{N}{HAN_LETTERS}]+[\r\n]*", LINE_ENDS, *SPACES)

DIGIT, DIGITS, TO_THREE_DIGITS = by_classes(ONE_DIGIT), by_classes(ALL_DIGITS), by_classes(THREE_DIGITS)
EXACTLY_THREE = by_characters("[0-9]{3}")
LINES = by_characters(r"[^\n]+", r"\n+")
BREAK = by_characters(r"[\r\n]")
MARKS = by_classes(rf"[{P}$+<=>\^~|]+")
FALCON_MARKS = by_classes(rf"[{P}$+<=>\^~|`]+")
PORO = by_characters(r" ?[^(\s|.,!?…。，、।۔،)]+")
KANA_AND_HAN = "[\u4e00-\u9fa5\u3040-\u30ff]+"
EAST_ASIAN = by_characters(KANA_AND_HAN)
HANGUL_AND_HAN = by_characters("[\u0800-\u9fa5\uac00-\ud7ff]+")
YOUTU_SCRIPTS = by_characters(
    "[가-힣ㄱ-ㆎ]+", "[！…“”‘’—：；，\u3001-\u303f\ufe30-\ufe4f]+", "[\u3105-\u312f]+", KANA_AND_HAN
)
AFMOE_SCRIPTS = by_characters(
    "[\u0e40-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2f00-\u2fdf\u3040-\u30ff\u3400-\u4dbf\u4e00-\ufaff"
    "\uff65-\uff9f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af]+"
)

# What DeepSeek-LLM takes for letters: those that have a case, by an older Unicode.
CASED_LETTERS = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376-377 37B-37D 37F 386 388-38A 38C 38E-3A1
3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77
1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE
1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124
2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183-2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2-2CF3
A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A
10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
CASED_RUNS = "".join(
    f"\\U{int(a, 16):08x}-\\U{int(b or a, 16):08x}" for a, _, b in (r.partition("-") for r in CASED_LETTERS.split())
)
DEEPSEEK_LLM_WORD = by_characters(rf"\s?[{CASED_RUNS}]+")
DEEPSEEK_LLM_MARKS = by_characters("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+")
TRAILING_SPACES = by_characters(r"\s+\Z")
CODER_WORD = by_classes(rf"\s?[{L}]+")
CODER_MARKS = by_classes(rf"\s?[{P}]+")
SENTINEL = by_characters("<sentinel:[0-9]+>")
IMAGE = by_characters("IMGIMG[A-I]{1,4}Z")
CHAMELEON_SPACES = by_characters(r"[\t\n]|    |  ")
CHAMELEON_MARK = by_classes(rf"[{P}!-/:-@\[-`{{-~]")
UNSPACED = by_characters(r"\S+")


# -- the table -------------------------------------------------------------------------------------------------------

TABLE: dict[str, PreTokenizer] = {}


def row(names: str, *stages: Stage, **flags: bool) -> None:
    """One row of TABLE: names that mean the same, stages in order, and the flags that are not as usual."""
    rule = PreTokenizer(stages, **flags)
    TABLE.update(dict.fromkeys(names.split(), rule))


# fmt: off
row("default", MARKS, GPT2, DIGITS, EXACTLY_THREE)
row("gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais", GPT2)
row("jina-v1-en jina-v2-code roberta-bpe", GPT2, add_sep=True)
row("trillion granite-docling", GPT2, clean_spaces=False)
row("starcoder refact codeshell exaone minerva-7b mellum2", DIGIT, GPT2)
row("command-r smollm", DIGIT, GPT2, clean_spaces=False)
row("falcon", FALCON_MARKS, GPT2, EXACTLY_THREE)
row("chameleon", SENTINEL, IMAGE, CHAMELEON_SPACES, DIGIT, CHAMELEON_MARK, GPT2, add_bos=True, clean_spaces=False)

row("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", LLAMA3,
    ignore_merges=True, add_bos=True)
row("dbrx smaug-bpe", LLAMA3)
row("chatglm-bpe", LLAMA3, no_bos=True)
row("glm4 glm5", LLAMA3, no_bos=True, ignore_merges=True)
row("jais-2", JAIS2)
row("minicpm5", TO_THREE_DIGITS, MINICPM5, ignore_merges=True)

row("qwen2 deepseek-r1-qwen kormo f2llmv2 hunyuan solar-open grok-2", QWEN2, clean_spaces=False)
row("megrez stablelm2", QWEN2)
row("laguna", LINES, QWEN2, clean_spaces=False)
row("qwen35", QWEN35, clean_spaces=False)
row("ufakzeka", UFAKZEKA, clean_spaces=False)
row("seed-coder", SEED_CODER, clean_spaces=False)
row("bailingmoe bailingmoe2 llada-moe", BAILING, clean_spaces=False)
row("exaone-moe", EXAONE_MOE)

row("gpt-4o llama4 kanana2 talkie minimax-m2", GPT4O, clean_spaces=False)
row("tekken", TEKKEN, clean_spaces=False, ignore_merges=True, add_bos=True)
row("granite-embed-multi-97m", GRANITE, clean_spaces=False, ignore_merges=True)
row("tiny_aya cohere2moe", threes_from_the_right, TINY_AYA, clean_spaces=False)
row("youtu", YOUTU_SCRIPTS, YOUTU, clean_spaces=False, ignore_merges=True)
row("kimi-k2", KIMI_K2, clean_spaces=False, optional_merges=True)

row("deepseek-v3 hunyuan-dense hy_v4 joyai-llm", TO_THREE_DIGITS, EAST_ASIAN, DEEPSEEK3, clean_spaces=False)
row("spark2_5", TO_THREE_DIGITS, EAST_ASIAN, SPARK, DIGIT, clean_spaces=False)
row("afmoe", threes_from_the_right, AFMOE_SCRIPTS, DEEPSEEK3, clean_spaces=False)
row("deepseek-llm", BREAK, DEEPSEEK_LLM_WORD, DEEPSEEK_LLM_MARKS, TRAILING_SPACES, HANGUL_AND_HAN, DIGITS,
    clean_spaces=False)
row("deepseek-coder", BREAK, CODER_WORD, CODER_MARKS, HANGUL_AND_HAN, DIGIT, clean_spaces=False)

row("bloom gpt3-finnish", PORO)
row("poro-chat", PORO, clean_spaces=False)
row("viking", PORO, DIGIT, clean_spaces=False)
row("superbpe", DIGITS, before_threes, clean_spaces=False)

row("gemma4 granite-embed-multi-311m", LINES,
    escape_spaces=True, byte_encode=False, force_bos=True, whole_newlines=True)
row("mmbert", LINES, escape_spaces=True, byte_encode=False, word_starts=True, whole_newlines=True)
row("sarvam-moe", LINES, escape_spaces=True, byte_encode=False, clean_spaces=False)
row("whitespace", UNSPACED, byte_encode=False, lowercase=False)
# fmt: on


def defaults_of(pre: str, kind: str = "gpt2", where: str = "the model") -> PreTokenizer:
    """The row of TABLE for a file.

    pre    tokenizer.ggml.pre; "", which is what an absent key counts as, is "default"
    kind   tokenizer.ggml.model: gemma4 has a pre-tokenizer of its own, whatever the file names
    where  the file's name, for errors

    ModelError for a name that is not in TABLE.
    """
    name = "gemma4" if kind == "gemma4" else pre or "default"
    if name not in TABLE:
        hint = (
            nearest(name.lower(), TABLE)
            or f"refembed knows {len(TABLE)} names, all of llama.cpp's; convert the model again"
        )
        raise ModelError(f"{where}: tokenizer.ggml.pre is {pre!r}, which llama.cpp does not know", hint=hint)
    return TABLE[name]
