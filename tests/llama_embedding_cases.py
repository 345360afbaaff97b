"""Command lines of llama-embedding, the models and files they name; `record_llama_embedding` records what it prints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refembed.testing.synthetic import synthetic
from tests.copies import copied
from tests.pooling.test_rerank import FLAGS, HEAD, TEMPLATE, YES_NO
from tests.tiny import tiny_bert


def reranker(path: Path, arch: str, more: dict[str, Any], **options: Any) -> Path:
    """A model with a head."""
    plain = synthetic(path.with_suffix(".plain"), arch, pooling=4, P=300, **options)
    made = copied(plain, path, more)
    plain.unlink()
    return made


WITH_EOS = FLAGS | {"tokenizer.ggml.eos_token_id": (3, "UINT32")}  # without one llama-embedding ends in an exception

MODELS: dict[str, Callable[[Path], Path]] = {
    "bert": tiny_bert,
    "nameless": lambda path: tiny_bert(path, pooling=None),
    "decoder": lambda path: synthetic(path, "qwen3", pooling=3, K=2, P=300),
    "reranker": lambda path: reranker(path, "bert", WITH_EOS, optional=HEAD),
    "labels": lambda path: reranker(path, "bert", WITH_EOS, optional=HEAD, keys=YES_NO),
    "template": lambda path: reranker(path, "qwen3", TEMPLATE, optional=["cls.output.weight"], K=2, keys=YES_NO),
}

FILES = {
    "lines.txt": b"hello world\r\nthe cat\\nsat\n\non the mat\n\n",
    "bytes.bin": b"the cat\nhello \x00 world \xff\n",
    "sixty.txt": b"\n".join(b"the cat sat " * 18 + b"hello " * (i % 5) for i in range(50)),
    "short.txt": b"\n".join(b"the dog " + b"a" * (i % 7) for i in range(300)),
    "pairs.txt": b"the cat\ta dog sat on the mat\nhello\tworld\nno pair at all\n",
}

TWO, FOUR = r"hello world\nthe cat", r"hello world\nthe cat\n\na dog sat on the mat."
FORMATS = ("", "array", "json", "json+", "raw")

# (model, arguments). It aborts where a batch has fewer tokens than --parallel, which is 256 by default. Cases of a
# reranker ask for -1, as it normalizes with memory that is not its own
CASES: list[tuple[str, list[str]]] = [
    *(("bert", ["-p", text, "--embd-output-format", f]) for f in FORMATS for text in ("hello world", FOUR)),
    *(("bert", ["-p", TWO, "--embd-normalize", n, "--embd-output-format", f])
      for n in ("-1", "0", "1", "3", "6") for f in ("", "array", "json+", "raw")),
    *(("bert", ["-p", TWO, "--pooling", p, "--embd-output-format", f])
      for p in ("none", "cls", "last") for f in ("", "json+", "raw")),
    ("bert", ["-p", "hello", "--pooling", "none", "--embd-output-format", "json+", "--embd-normalize", "-1"]),
    ("bert", ["-p", "hello", "--pooling", "none", "--embd-normalize", "0"]),
    ("nameless", ["-p", TWO]),
    ("bert", ["-p", "A<#sep#>the cat", "--embd-separator", "<#sep#>"]),
    ("bert", ["-p", "<#sep#>the cat<#sep#>", "--embd-separator", "<#sep#>", "--embd-output-format", "array"]),
    ("bert", ["-p", r"a\nb", "--embd-separator", r"\n"]),
    ("bert", ["-p", r"a\nb", "--no-escape"]),
    ("bert", ["-p", r"a\nb", "--no-escape", "--embd-separator", r"\n"]),
    ("bert", ["-p", r"a\tb \x41 \q \x4 \xzz \\ \' \" " + "\\"]),
    ("bert", ["-p", r"größe漢字 x\nÄÄÄÄÄÄÄ\n🦊🦊🦊 cat"]),
    ("bert", ["-p", r"nul \x00 byte\nthe cat"]),
    ("bert", ["-p", ""]),
    ("bert", ["-p", "the [SEP] cat [CLS]"]),
    ("bert", ["-f", "lines.txt", "--embd-separator", "\n"]),
    ("bert", ["--file", "lines.txt", "--embd-output-format", "raw", "--no-escape"]),
    ("bert", ["-bf", "bytes.bin"]),
    ("bert", ["-bf", "bytes.bin", "--embd-output-format", "json"]),
    ("bert", ["-f", "sixty.txt", "--embd-output-format", "raw"]),
    ("bert", ["-f", "short.txt", "--embd-output-format", "raw"]),
    ("bert", ["-p", FOUR, "-c", "256", "-b", "16", "-ub", "16", "-t", "1", "--embd-output-format", "array"]),
    ("bert", ["-p", FOUR, "-b", "12", "-np", "4", "--embd-output-format", "array"]),
    ("bert", ["-p", FOUR, "-b", "8", "-np", "4"]),
    ("bert", ["-p", TWO, "--verbose-prompt", "--embd-output-format", "raw"]),
    ("bert", ["-p", r"größe\nthe [SEP]", "--verbose-prompt"]),
    ("bert", ["-p", TWO, "--embd_normalize", "0", "--embd_output_format", "json", "--no-warmup", "-ngl", "0"]),
    ("bert", ["-p", TWO, "-fa", "off", "--embd-output-format", "array"]),
    ("bert", ["-p", TWO, "-fa", "off", "-nr", "--embd-output-format", "array"]),
    ("bert", ["-p", TWO, "--attention", "causal", "-np", "4", "--embd-output-format", "array"]),
    ("bert", ["-p", TWO, "--attention", "non-causal", "--embd-output-format", "array"]),
    *(("decoder", ["-p", FOUR.replace(r"\n\n", r"\n"), "-np", "4", "--embd-output-format", f]) for f in FORMATS),
    # one text: of several that differ in length it computes a part first, and a mean, or a token that sees all, misses
    # the rest
    *(("decoder", ["-p", "the cat sat on", "--attention", a, "-np", "4", "--pooling", p, "--embd-output-format",
                   "array"])
      for a in ("causal", "non-causal") for p in ("mean", "last", "none")),
    *(("decoder", ["-p", TWO, "--attention", "causal", "-np", "4", "--pooling", p, "--embd-output-format", "array"])
      for p in ("last", "none")),
    *((model, ["-p", text, "--embd-normalize", "-1", "--embd-output-format", f])
      for model in ("reranker", "labels", "template") for f in ("", "raw")
      for text in (r"the cat\ta dog\nhello\tthe mat was in it", "no pair")),
    ("reranker", ["-p", r"a\tb\tc", "--embd-normalize", "-1"]),
    ("reranker", ["-p", "a||b dog", "--cls-separator", "||", "--embd-normalize", "-1"]),
    ("reranker", ["-p", "a|b;the cat|dog", "--cls-separator", "|", "--embd-separator", ";", "--embd-normalize", "-1"]),
    ("reranker", ["-f", "pairs.txt", "--embd-normalize", "-1", "--embd-output-format", "raw", "--verbose-prompt"]),
    ("bert", ["-p", "a", "--pooling", "sum"]),
    ("bert", ["-p", "a", "--attention", "both"]),
    ("bert", ["-p", "a", "--nosuchflag"]),
    ("bert", ["-f", "nosuch.txt"]),
]  # fmt: skip

# what differs on purpose: (model, arguments) -> llama-embedding's fault
DIFFERENT: list[tuple[str, list[str]]] = [
    ("bert", ["-p", "a", "--embd-output-format", "nosuch"]),
    ("bert", ["-p", "a", "--log-disable"]),
    ("bert", ["-p", "a", "--embd-normalize", "-2", "--embd-output-format", "array"]),
    ("reranker", ["-p", r"a\tb", "--embd-normalize", "-1", "--embd-output-format", "array"]),
]


def prepare(folder: Path) -> dict[str, str]:
    """Write models and files; SHA-256 of each model."""
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return {
        name: hashlib.sha256(build(folder / f"{name}.gguf").read_bytes()).hexdigest() for name, build in MODELS.items()
    }
