"""What llama.cpp makes of a vocabulary: ids with a role, flags, and every token's text and bits; in its own process.

`LlamaCpp(path, vocab_only=True)` tokenizes; this asks for what embedding engines have no use for.
"""

from __future__ import annotations

import ctypes as ct
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.child import answers_about

ROLES = {  # our name -> llama_vocab_*
    **{r: r for r in ("bos", "eos", "sep", "pad", "mask", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep")},
    "fim_sep": "fim_sep",
}
FLAGS = ("add_bos", "add_eos", "add_sep")


def vocab_facts(paths: Sequence[Path]) -> list[dict[str, Any] | str | None]:
    """One entry a file: its facts, None where llama.cpp refuses it, "crash" where it dies of it."""
    return answers_about(["-m", "tests.tokenizer.llamacpp"], paths)


def read(lib: Any, path: str) -> dict[str, Any] | None:
    """Facts of one file; ids that llama.cpp has not are None."""
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return None
    vocab = ct.c_void_p(lib.llama_model_get_vocab(model))

    def ask(name: str, *arguments: Any, result: Any = ct.c_int32) -> Any:
        function = lib[f"llama_vocab_{name}"]
        function.restype = result
        return function(vocab, *arguments)

    n = ask("n_tokens")
    ids = {role: ask(name) for role, name in ROLES.items()}
    return {
        "roles": {role: None if id == -1 else id for role, id in ids.items()},
        **{flag: ask(f"get_{flag}", result=ct.c_bool) for flag in FLAGS},
        "attributes": [ask("get_attr", i) for i in range(n)],
        "texts": [ask("get_text", i, result=ct.c_char_p).hex() for i in range(n)],
    }


def main() -> None:
    from refembed.verify.engines.llamacpp_lib import Library

    lib = Library()
    lib.llama_backend_init()
    for path in sys.stdin.read().splitlines():
        print(json.dumps(read(lib, path)), flush=True)


if __name__ == "__main__":
    main()
