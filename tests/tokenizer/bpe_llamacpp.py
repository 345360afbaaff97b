"""Live llama.cpp for many vocabularies in one process: ids of texts, pieces of ids, which files it refuses."""

from __future__ import annotations

import contextlib
import ctypes as ct
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


class Many:
    """A process that loads one vocabulary after the other.

    with Many() as engine:
        engine.open(path)                        # False where llama.cpp refuses the file
        engine.ids([b"a text"], add, parse)      # of the file opened last
        engine.pieces(special), engine.texts([[1, 2]], remove, unparse)
    """

    def __init__(self) -> None:
        env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )

    def ask(self, *request: Any) -> Any:
        """One request, one answer; None where the process has died of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def open(self, path: Path) -> bool:
        return bool(self.ask("open", str(path)))

    def ids(self, texts: Sequence[str | bytes], add: bool, parse: bool) -> list[list[int]]:
        raw = [t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass") for t in texts]
        found = self.ask("ids", [t.hex() for t in raw], add, parse)
        assert found is not None, "llama.cpp ended on one of the texts"
        return found

    def pieces(self, special: bool) -> list[bytes]:
        return [bytes.fromhex(p) for p in self.ask("pieces", special)]

    def texts(self, sequences: Sequence[Sequence[int]], remove: bool, unparse: bool) -> list[bytes]:
        return [bytes.fromhex(t) for t in self.ask("texts", [list(s) for s in sequences], remove, unparse)]

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self.process.wait(60)

    def __enter__(self) -> Many:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Worker:
    """The other end."""

    def __init__(self) -> None:
        from refembed.verify.engines.llamacpp_lib import Library

        self.lib = Library()
        self.lib.llama_backend_init()
        self.silent = ct.CFUNCTYPE(None, ct.c_int, ct.c_char_p, ct.c_void_p)(lambda *_: None)
        self.lib.llama_log_set(self.silent, None)
        self.model: Any = None

    def open(self, path: str) -> bool:
        if self.model:
            self.lib.llama_model_free(self.model)
        params = self.lib.llama_model_default_params()
        params.vocab_only = True
        self.model = self.lib.llama_model_load_from_file(os.fsencode(path), params)
        if self.model:
            self.vocab = ct.c_void_p(self.lib.llama_model_get_vocab(self.model))
        return bool(self.model)

    def ids(self, texts: list[str], add: bool, parse: bool) -> list[list[int]]:
        tokenize = self.lib["llama_tokenize"]
        found = []
        for text in map(bytes.fromhex, texts):
            room = (ct.c_int32 * (2 * len(text) + 8))()
            n = tokenize(self.vocab, text, len(text), room, len(room), ct.c_bool(add), ct.c_bool(parse))
            if n < 0:
                room = (ct.c_int32 * -n)()
                n = tokenize(self.vocab, text, len(text), room, len(room), ct.c_bool(add), ct.c_bool(parse))
            found.append(room[:n])
        return found

    def pieces(self, special: bool) -> list[str]:
        room = ct.create_string_buffer(1 << 16)
        piece, n = self.lib["llama_token_to_piece"], self.lib["llama_vocab_n_tokens"](self.vocab)
        sizes = (piece(self.vocab, i, room, len(room), 0, ct.c_bool(special)) for i in range(n))
        return [ct.string_at(room, size).hex() for size in sizes]

    def texts(self, sequences: list[list[int]], remove: bool, unparse: bool) -> list[str]:
        room = ct.create_string_buffer(1 << 20)
        found = []
        for ids in sequences:
            array = (ct.c_int32 * len(ids))(*ids)
            switches = (ct.c_bool(remove), ct.c_bool(unparse))
            n = self.lib["llama_detokenize"](self.vocab, array, len(ids), room, len(room), *switches)
            found.append(ct.string_at(room, n).hex())
        return found


def main() -> None:
    worker = Worker()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
