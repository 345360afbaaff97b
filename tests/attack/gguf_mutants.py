"""Structured mutants of GGUF files: sound models of many architectures and tokenizers with a key, a tensor or some
bytes changed, written byte by byte without refembed's writer, which would refuse most of them.
"""

from __future__ import annotations

import random
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import refembed
from refembed.gguf import open_gguf
from refembed.gguf.metadata import VALUE_TYPES
from refembed.gguf.quants import QUANT_TYPES
from refembed.testing.synthetic import synthetic, vocabulary
from tests.attack import draw
from tests.copies import copied

Key = tuple[bytes, int, bytes]  # name, type, the value's bytes
ALIGNMENT = 32
STRING, ARRAY, FLOAT32, FLOAT64 = 8, 9, 6, 12

ARCHS = (
    "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
    "gemma-embedding", "t5encoder", "llama", "qwen3", "qwen3vl", "gemma2", "gemma3", "phi3", "granitemoe", "minicpm",
    "mistral3", "smollm3", "lfm2", "llama-embed", "gemma-embedding2", "gpt2", "gptneox", "falcon", "stablelm",
    "command-r", "cohere2", "exaone4", "olmo2", "mpt", "nemotron", "glm4",
    "mistral3", "smollm3", "lfm2", "llama-embed", "gemma-embedding2", "gemma3n", "gemma4", "gpt-oss", "qwen2moe",
    "qwen2vl", "phimoe", "qwen35", "mamba", "mamba2", "falcon-h1", "granitehybrid", "rwkv7", "qwen35moe", "qwen3next",
    "lfm2moe", "deepseek2", "k2-horizon",
)  # fmt: skip


def vocabularies() -> dict[str, dict[str, tuple[object, str]]]:
    """tokenizer.ggml.model -> keys of a small vocabulary of that kind, 320 tokens."""
    words = [w.replace("▁", "Ġ") for w in vocabulary(101)]
    stand_ins = [chr(b) if 33 <= b < 127 or 161 <= b < 173 or b > 173 else chr(256 + b) for b in range(256)]
    found = {
        "llama": ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *vocabulary(61)[5:]],
        "t5": ["<pad>", "</s>", "<unk>", "▁", *vocabulary(321)[5:]],
        "gpt2": [*stand_ins, *(w for w in words if len(w) > 2)],
        "rwkv": ["<s>", *(f"\\x{b:02x}" for b in range(256)), *(f"ab{i}" for i in range(63))],
        "plamo2": ["<|plamo:unk|>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *("ab", "abc", "hello")],
    }  # fmt: skip
    made: dict[str, dict[str, tuple[object, str]]] = {}
    for kind, tokens in found.items():
        texts = [*dict.fromkeys(tokens), *(f"zz{i}" for i in range(320))][:320]
        kinds = [6 if t.startswith("<0x") else 3 if t.startswith("<") else 1 for t in texts]
        keys: dict[str, tuple[object, str]] = {
            "model": (kind, "STRING"),
            "tokens": ([t.encode() for t in texts], "ARRAY[STRING]"),
            "token_type": (kinds, "ARRAY[INT32]"),
            "scores": ([-float(i % 17) for i in range(320)], "ARRAY[FLOAT32]"),
            "eos_token_id": (2, "UINT32"),
        }
        if kind == "gpt2":
            pairs = ["Ġ t", "h e", "Ġt he", "c a", "ca t", "Ġ a", "o n"]
            keys |= {"pre": ("default", "STRING"), "merges": ([p.encode() for p in pairs], "ARRAY[STRING]")}
        made[kind] = {f"tokenizer.ggml.{key}": given for key, given in keys.items()}
    return made


DESCRIBING = ("info MODEL --metadata --tensors --json", "doctor MODEL")
COMPUTING = (
    "info MODEL --metadata --tensors",
    "tokenize -m MODEL 'Hello a cat!' --explain",
    "tokenize -m MODEL 'Hello <s> cat' --json",
    "detokenize -m MODEL 5 6",
    "quantize MODEL OUT q8_0 --force",
    "trace -m MODEL 'a cat'",
    "explain -m MODEL 'a cat' --json",
    "rerank -m MODEL 'a cat' 'a dog'",
    "embed -m MODEL 'a cat' --numerics ggml",
    f"embed -m MODEL '{'a cat ' * 200}' --truncate --numerics exact",
    "embed -m MODEL 'a cat' --semantics original",
)


def bases(folder: Path) -> list[Path]:
    """Write the sound models, small ones."""
    made = []
    for i, arch in enumerate(ARCHS):
        more = {"X": 4} if arch in ("nomic-bert-moe", "granitemoe") else {}
        kind = ("F32", "Q8_0", "F16", "Q4_0")[i % 4]
        sizes = {"C": 64, "H": 4, "D": 16, "F": 64} if kind in ("Q8_0", "Q4_0") else {}
        made.append(
            synthetic(
                folder / f"{arch}.gguf", arch, n_layer=2, V=101, pooling=1 + i % 3, type_name=kind, **sizes, **more
            )
        )
    for kind, keys in vocabularies().items():
        base = synthetic(folder / "base.gguf", "qwen3", n_layer=1, V=320, pooling=3)
        gone = {k: None for k in open_gguf(base).metadata if k.startswith("tokenizer.")}
        made.append(copied(base, folder / f"tokens-{kind}.gguf", gone | keys))
    labels = {"classifier.output_labels": ([b"no", b"yes"], "ARRAY[STRING]")}
    tensors = {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"}
    made.append(synthetic(folder / "rank.gguf", "bert", n_layer=1, pooling=4, keys=labels, optional=tensors))
    return made


@dataclass
class Raw:
    """A GGUF file, taken apart."""

    keys: list[Key]
    tensors: list[list[object]]  # name, ne, type, offset
    data: bytes
    version: int = 3
    counts: tuple[int, int] | None = None  # tensors and keys, where the file lies about them
    tail: bytes = field(default=b"")

    def pack(self) -> bytes:
        """The file."""
        n_tensors, n_keys = self.counts or (len(self.tensors), len(self.keys))
        out = bytearray(b"GGUF" + struct.pack("<IQQ", self.version, n_tensors % 2**64, n_keys % 2**64))
        for name, kind, raw in self.keys:
            out += struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + raw
        for name, ne, kind, offset in self.tensors:
            dims = [n % 2**64 for n in ne]  # type: ignore[union-attr]
            out += struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)  # type: ignore[arg-type,operator]
            out += struct.pack("<IQ", kind % 2**32, offset % 2**64)  # type: ignore[operator]
        out += bytes(-len(out) % ALIGNMENT)
        return bytes(out + self.data + self.tail)


def take_apart(path: Path) -> Raw:
    """A sound file in parts."""
    raw, f = path.read_bytes(), open_gguf(path)
    n_tensors, n_keys = struct.unpack_from("<QQ", raw, 8)
    at, keys = 24, []
    starts = [f.metadata.offset(key) for key in f.metadata]
    for i, key in enumerate(f.metadata):
        name = key.encode()
        following = [*f.metadata][i + 1].encode() if i + 1 < n_keys else b""
        begin = starts[i]
        end = starts[i + 1] - 12 - len(following) if following else value_end(raw, begin, f.metadata.type_name(key))
        keys.append((name, struct.unpack_from("<I", raw, begin - 4)[0], raw[begin:end]))
        at = end
    tensors = []
    for _ in range(n_tensors):
        (length,) = struct.unpack_from("<Q", raw, at)
        name, at = raw[at + 8 : at + 8 + length], at + 8 + length
        (n,) = struct.unpack_from("<I", raw, at)
        ne = list(struct.unpack_from(f"<{n}Q", raw, at + 4))
        kind, offset = struct.unpack_from("<IQ", raw, at + 4 + 8 * n)
        tensors.append([name, ne, kind, offset])
        at += 16 + 8 * n
    return Raw(keys, tensors, raw[f.data_offset :])


def value_end(raw: bytes, begin: int, kind: str) -> int:
    """The byte behind the last key's value: a number or a string."""
    if kind == "STRING":
        return begin + 8 + int(struct.unpack_from("<Q", raw, begin)[0])
    if kind.startswith("ARRAY"):
        item, count = struct.unpack_from("<IQ", raw, begin)
        end = begin + 12
        for _ in range(count):
            end = end + 8 + struct.unpack_from("<Q", raw, end)[0] if item == STRING else end + VALUE_TYPES[item].size
        return end
    return begin + next(t.size for t in VALUE_TYPES if t.name == kind)


def scalar(rng: random.Random, kind: int) -> bytes:
    """A value of that type, at an edge."""
    if kind == STRING:
        raw = draw.text(rng).encode("utf-8", "surrogatepass") if rng.random() < 0.9 else rng.randbytes(6)
        return struct.pack("<Q", len(raw)) + raw
    if kind == ARRAY:
        item = rng.choice([t.id for t in VALUE_TYPES if t.id != ARRAY or rng.random() < 0.3])
        count = rng.choice((0, 1, 2, 3, 4, 101, 320))
        return struct.pack("<IQ", item, count) + b"".join(
            scalar(rng, item if item != ARRAY else 9) for _ in range(count if item != ARRAY else min(count, 2))
        )
    if kind in (FLOAT32, FLOAT64):
        number = rng.choice(draw.FLOATS)
        return (
            struct.pack("<d", number)
            if kind == FLOAT64
            else struct.pack("<f", number if abs(number) < 3e38 or number != number else float("inf"))
        )
    size = VALUE_TYPES[kind].size
    return (rng.choice(draw.EDGES) % 256**size if rng.random() < 0.6 else rng.randrange(0, 9)).to_bytes(size, "little")


READERS = ("model/hparams.py", "tokenizer/vocab.py", "pooling/heads.py", "cli/info.py", "verify/doctor/__init__.py")
# Words that these have in quotes: most keys that are read are among them
KNOWN = sorted(
    {
        word
        for reader in READERS
        for word in re.findall(
            r'"([a-z_0-9]+(?:\.[a-z_0-9]+)*)"', (Path(refembed.__file__).parent / reader).read_text(encoding="utf-8")
        )
        if len(word) > 4
    }
)


def change_keys(rng: random.Random, raw: Raw) -> None:
    """One key: another value, another type, gone, twice, elsewhere, new."""
    i = rng.randrange(len(raw.keys))
    name, kind, stored = raw.keys[i]
    what = rng.randrange(8)
    if what < 2:
        raw.keys[i] = name, kind, scalar(rng, kind)
    elif what < 4:
        other = rng.randrange(len(VALUE_TYPES))
        raw.keys[i] = name, other, scalar(rng, other)
    elif what == 4:
        del raw.keys[i]
    elif what == 5:
        arch = next((v[8:] for k, _, v in raw.keys if k == b"general.architecture"), b"bert")
        word = rng.choice(KNOWN).encode()
        prefix = rng.choice((arch + b".", arch + b".", b"tokenizer.ggml.", b"general."))
        other = rng.randrange(len(VALUE_TYPES))
        raw.keys.append(
            (word if word.startswith((b"tokenizer.", b"general.")) else prefix + word, other, scalar(rng, other))
        )
    elif what == 6:
        raw.keys[i] = (
            rng.choice((name + b"\0", name[:-1], name.upper(), b"", name + b"x" * rng.choice((1, 70000)))),
            kind,
            stored,
        )
    else:
        raw.keys.append(raw.keys[i] if rng.random() < 0.3 else (name, *raw.keys[rng.randrange(len(raw.keys))][1:]))


def change_array(rng: random.Random, raw: Raw) -> None:
    """An array: an item changed, its count, its item type, one item more or less."""
    arrays = [i for i, key in enumerate(raw.keys) if key[1] == ARRAY]
    if not arrays:
        return
    i = rng.choice(arrays)
    name, _, stored = raw.keys[i]
    item, count = struct.unpack_from("<IQ", stored)
    body = stored[12:]
    items = split_items(item, count, body)
    if items is None:
        return
    what = rng.randrange(5)
    if what == 0 and items:
        for _ in range(rng.choice((1, 1, 20))):
            items[rng.randrange(len(items))] = scalar(rng, item)
    elif what == 1 and items:
        items[rng.randrange(len(items))] = items[rng.randrange(len(items))]
    elif what == 2:
        items = items[: rng.randrange(len(items) + 1)]
    elif what == 3:
        items += [scalar(rng, item) for _ in range(rng.choice((1, 5, 200)))]
    else:
        item = rng.randrange(ARRAY)
        items = [scalar(rng, item) for _ in items]
    raw.keys[i] = name, ARRAY, struct.pack("<IQ", item, len(items)) + b"".join(items)


def split_items(item: int, count: int, body: bytes) -> list[bytes] | None:
    """The items of an array; None for arrays of arrays."""
    if item == ARRAY:
        return None
    if item != STRING:
        size = VALUE_TYPES[item].size
        return [body[i * size : i * size + size] for i in range(count)]
    items, at = [], 0
    for _ in range(count):
        end = at + 8 + struct.unpack_from("<Q", body, at)[0]
        items.append(body[at:end])
        at = end
    return items


def change_tensors(rng: random.Random, raw: Raw) -> None:
    """One tensor: another shape, type, name or place, gone, twice, or numbers that are not finite."""
    if not raw.tensors:
        return
    i = rng.randrange(len(raw.tensors))
    name, ne, kind, offset = raw.tensors[i]
    assert isinstance(name, bytes)
    assert isinstance(ne, list)
    assert isinstance(offset, int)
    what = rng.randrange(9)
    if what == 0:
        ne = [*ne]
        ne[rng.randrange(len(ne))] = rng.choice(draw.EDGES)
    elif what == 1:
        ne = rng.choice(([*ne, 1], [*ne, 1, 1], [1, *ne], ne[::-1], ne[:1], [], [*ne, 2], [0], [*ne, 1, 1, 1]))
    elif what == 2:
        kind = rng.choice((rng.choice(QUANT_TYPES).id, rng.choice(draw.EDGES)))
    elif what == 3:
        name = rng.choice(
            (
                name + b"\0",
                name + b"\0x",
                b"",
                name[:-1],
                name + b".x",
                b"x" * 64,
                b"x" * 63,
                rng.randbytes(5),
                rng.choice(raw.tensors)[0],
            )
        )  # type: ignore[arg-type]
    elif what == 4:
        offset = rng.choice((rng.choice(draw.EDGES), offset + 32, offset + 1, offset - 32, len(raw.data)))
    elif what == 5:
        del raw.tensors[i]
        return
    elif what == 6:
        raw.tensors.append(
            [rng.choice((name, b"extra.weight", b"cls.weight", b"blk.9.attn_q.weight")), ne, kind, offset]
        )
        return
    else:
        at = offset + 4 * rng.randrange(16)
        number = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, 0.0, 1e-45)))
        raw.data = raw.data[:at] + number * rng.choice((1, 40)) + raw.data[at + 4 :]
        return
    raw.tensors[i] = [name, ne, kind, offset]


def change_frame(rng: random.Random, raw: Raw) -> None:
    """Counts, version, what is behind the last tensor, and where the data ends."""
    what = rng.randrange(4)
    if what == 0:
        raw.counts = rng.choice(draw.EDGES), len(raw.keys)
    elif what == 1:
        raw.counts = len(raw.tensors), rng.choice((rng.choice(draw.EDGES), len(raw.keys) + 1, len(raw.keys) - 1))
    elif what == 2:
        raw.version = rng.choice((0, 1, 2, 3, 4, 3 << 24, 2**31))
    else:
        raw.data = raw.data[: rng.randrange(len(raw.data) + 1)]


class GGUFMutants:
    """Draws mutants of the sound models, each from its own number."""

    def __init__(self, folder: Path) -> None:
        self.sound = [take_apart(path) for path in bases(folder)]

    def mutant(self, rng: random.Random) -> bytes:
        """One file."""
        base = rng.choice(self.sound)
        raw = Raw([*base.keys], [list(t) for t in base.tensors], base.data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            rng.choice(
                (change_keys, change_keys, change_keys, change_array, change_tensors, change_tensors, change_frame)
            )(rng, raw)
        packed = raw.pack()
        return draw.damage(rng, packed) if rng.random() < 0.1 else packed

    def commands(self, rng: random.Random, folder: Path) -> list[list[str]]:
        """Write a mutant below `folder`; the command lines to run on it."""
        path = folder / "mutant.gguf"
        path.unlink(missing_ok=True)  # never shorten a file that an earlier failure may keep mapped
        path.write_bytes(self.mutant(rng))
        second = rng.choice((*DESCRIBING, rng.choice(COMPUTING)))
        return [
            draw.command(line, MODEL=path, OUT=folder / "q.gguf") for line in ("embed -m MODEL 'Hello a cat!'", second)
        ]
