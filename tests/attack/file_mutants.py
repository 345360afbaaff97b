"""Mutants of the files that refembed writes itself: codes (.npz, .npy), journals, caches, traces and dumps."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from refembed.cli import run
from tests.attack import draw
from tests.tiny import tiny_bert

SCHEMES = (
    "int8",
    "uint8",
    "int8-global",
    "int8-vector",
    "binary",
    "ubinary",
    "pq:4",
    "matryoshka:8",
    "float16",
    "float32",
)
TEXTS = ["hello world", "the cat sat", "a dog.", "naïve café", "on the mat"]
HEAD = struct.Struct("<II")  # of a journal's record: length, CRC-32


def change_array(rng: random.Random, raw: bytes) -> bytes:
    """A .npy file: another head, other numbers, damage."""
    what = rng.randrange(4)
    if what == 0:
        return draw.damage(rng, raw)
    try:
        array = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except ValueError:
        return raw
    if what == 1:
        dtype = rng.choice(("<f4", "<f2", ">f4", "<f8", "i1", "u1", "<i8", "?", "<c8", "<U3", "<M8[s]", "V4", "O"))
        shape = tuple(rng.choice((n, 0, 1, 2**31, 2**62, n + 1, -1)) for n in array.shape)
        shape = rng.choice((shape, shape, (), (*shape, 1), array.shape[:1]))
        head = f"{{'descr': {dtype!r}, 'fortran_order': {rng.choice((True, False))}, 'shape': {shape!r}, }}".encode()
        head += b" " * (-(len(head) + 11) % 64) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + array.tobytes()
    if what == 2 and array.size and array.dtype.kind == "f":
        array = array.copy()
        array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 6e4, 0))
    elif array.ndim:
        array = array[: rng.randrange(len(array) + 1)]
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array))
    return out.getvalue()


def change_zip(rng: random.Random, raw: bytes) -> bytes:
    """An archive: a member changed, gone or twice, or damage."""
    if rng.random() < 0.2:
        return draw.damage(rng, raw)
    with zipfile.ZipFile(io.BytesIO(raw)) as z:
        members = {name: z.read(name) for name in z.namelist()}
    name = rng.choice(sorted(members))
    what = rng.randrange(6)
    if what == 0:
        del members[name]
    elif what == 1:
        members[rng.choice((name + "x", "x.npy", "../y.npy", "codes.npy"))] = members[name]
    elif name.endswith(".json"):
        tree = draw.change_json(rng, json.loads(members[name]), ("dimensions", "count", "scheme", "format", "meta"))
        members[name] = json.dumps(tree).encode("utf-8", "surrogatepass")
    else:
        members[name] = change_array(rng, members[name])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as z:
        for member, content in members.items():
            z.writestr(member, content)
    return out.getvalue()


def change_journal(rng: random.Random, raw: bytes) -> bytes:
    """A journal: a record changed and its checksum made right again, records in another order, or damage."""
    if rng.random() < 0.2:
        return draw.damage(rng, raw)
    at, payloads = 8, []
    while at < len(raw):
        length, _ = HEAD.unpack_from(raw, at)
        payloads.append(raw[at + 8 : at + 8 + length])
        at += 8 + length
    i = rng.randrange(len(payloads)) if rng.random() < 0.6 else 0
    what = rng.randrange(5)
    if what == 0:
        payloads.insert(rng.randrange(len(payloads)), payloads[i])
    elif what == 1:
        del payloads[i]
    elif i == 0 and what < 4:
        payloads[0] = json.dumps(draw.change_json(rng, json.loads(payloads[0]))).encode("utf-8", "surrogatepass")
    else:
        payloads[i] = draw.damage(rng, payloads[i])
    return raw[:8] + b"".join(HEAD.pack(len(p), zlib.crc32(p)) + p for p in payloads)


class FileMutants:
    """Draws mutants of files, each from its own number."""

    def __init__(self, folder: Path) -> None:
        self.model = tiny_bert(folder / "tiny.gguf")
        self.texts = folder / "texts.txt"
        self.texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        rng = np.random.default_rng(7)
        np.save(folder / "vectors.npy", rng.standard_normal((300, 16)).astype(np.float32))
        made = [(folder / "vectors.npy").read_bytes()]
        for scheme in SCHEMES:
            target = folder / "codes.npz"
            assert run(["compress", str(folder / "vectors.npy"), "--to", scheme, "--out", str(target), "--quiet"]) == 0
            made.append(target.read_bytes())
        self.codes = made
        self.cache = self.make_cache(folder)
        self.journal = self.make_journal(folder)
        self.traces = self.make_traces(folder)

    def make_cache(self, folder: Path) -> bytes:
        """A cache with the vectors of TEXTS."""
        path = folder / "vectors.sqlite"
        for left in folder.glob("vectors.sqlite*"):
            left.unlink()
        line = "embed -m MODEL --file TEXTS --cache-file CACHE --output OUT --quiet"
        paths = {"MODEL": self.model, "TEXTS": self.texts, "CACHE": path, "OUT": folder / "x.npy"}
        assert run(draw.command(line, **paths)) == 0
        return path.read_bytes()

    def make_journal(self, folder: Path) -> bytes:
        """What an interrupted run of TEXTS leaves."""
        from refembed import Embedder
        from refembed.corpus.writer import embed_corpus

        target = folder / "corpus.jsonl"
        part = target.with_name("corpus.jsonl.part")
        part.unlink(missing_ok=True)

        def stopping() -> Any:
            yield from TEXTS[:3]
            yield from TEXTS * 40
            raise KeyboardInterrupt

        try:
            embed_corpus(Embedder.load(self.model), stopping(), target)
        except KeyboardInterrupt:
            return part.read_bytes()
        raise AssertionError("nothing was interrupted")

    def make_traces(self, folder: Path) -> list[bytes]:
        """Traces of a text."""
        out = folder / "trace.npz"
        assert run(["trace", "-m", str(self.model), "the cat", "--save", str(out)]) == 0
        return [out.read_bytes()]

    def commands(self, rng: random.Random, folder: Path) -> list[list[str]]:
        """Write a mutant below `folder`; the command lines to run on it."""
        what = rng.randrange(10)
        if what < 5:
            return self.on_codes(rng, folder)
        if what < 7:
            part = folder / "corpus.jsonl.part"
            part.write_bytes(change_journal(rng, self.journal))
            (folder / "many.txt").write_text("\n".join([*TEXTS[:3], *TEXTS * 40]) + "\n", encoding="utf-8")
            paths = {"MODEL": self.model, "TEXTS": folder / "many.txt", "OUT": folder / "corpus.jsonl"}
            embed = draw.command("embed -m MODEL --file TEXTS --output OUT --quiet", **paths)
            return [embed, [*embed, "--resume"]]
        if what < 9:
            for left in folder.glob("vectors.sqlite*"):
                left.unlink()
            (folder / "vectors.sqlite").write_bytes(draw.damage(rng, self.cache))
            paths = {"MODEL": self.model, "TEXTS": self.texts, "CACHE": folder / "vectors.sqlite"}
            lines = ("embed -m MODEL --file TEXTS --cache-file CACHE --format json", "cache info CACHE --check --json")
            return [draw.command(line, **paths) for line in lines]
        path = folder / "mutant.npz"
        path.write_bytes(change_zip(rng, self.traces[0]))
        paths = {"MODEL": self.model, "TEXTS": self.texts, "MUTANT": path, "SOUND": folder / "trace.npz"}
        verify = "verify MODEL --against MUTANT --texts TEXTS --budget 1"
        second = verify if rng.random() < 0.1 else "diff SOUND MUTANT --json"
        return [draw.command(line, **paths) for line in ("diff MUTANT SOUND", second)]

    def on_codes(self, rng: random.Random, folder: Path) -> list[list[str]]:
        """Compressed vectors, or plain ones."""
        base = rng.choice(self.codes)
        zipped = base.startswith(b"PK")
        path = folder / ("mutant.npz" if zipped else "mutant.npy")
        path.write_bytes(change_zip(rng, base) if zipped else change_array(rng, base))
        out = folder / "out.npy"
        shutil.rmtree(out, ignore_errors=True)
        decode = ["compress", str(path), "--decode", "--out", str(out), "--quiet"]
        again = ["compress", str(path), "--to", rng.choice(SCHEMES), "--out", str(folder / "again.npz"), "--quiet"]
        return [["compress", str(path), "--json"], decode if zipped else again, again]
