"""Finds, loads and declares llama.cpp's C functions. Runs in the worker only: no process may hold two ggml builds.

Homes are known of two kinds: an extension file that exports the whole C API, as in the PyPI wheel `xllamacpp`, and a
folder of shared libraries as llama.cpp's own build, llama-server's packages and node-llama-cpp lay them out. Builds of
the last two years are driven alike: what has been renamed since is found under its older name.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import importlib.util
import mmap
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refembed.errors import EngineError
from refembed.verify.engines import llamacpp_abi as abi
from refembed.verify.engines.llamacpp_layouts import CONTEXT_LAYOUTS, MODEL_LAYOUTS

PINNED = "2026.10.11549"  # every bound in this project is measured against this build
INSTALL = f'pip install "xllamacpp=={PINNED}"'

# separate libraries in the order in which they are loaded; wheels rename those they bundle: libgomp-a34b3233.so.1.0.0
BUNDLED, SUFFIX = r"-[0-9a-f]{8}", r"\.[.\w]+"
STEMS = ("libgomp", "libggml-base", "libggml-cpu", "libggml-rpc", "libggml", "libllama")

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
# what a function was called before; the first that is there serves
OLDER = {
    "llama_model_n_ctx_train": ("llama_n_ctx_train",),
    "llama_model_n_embd": ("llama_n_embd",),
    "llama_model_n_embd_out": ("llama_model_n_embd", "llama_n_embd"),  # no model had another width then
    "llama_model_free": ("llama_free_model",),
    "llama_vocab_n_tokens": ("llama_n_vocab",),
    "llama_model_load_from_file": ("llama_load_model_from_file",),
    "llama_init_from_model": ("llama_new_context_with_model",),
}
# what stands in for a function where there is none; before 2025 a model was its own vocabulary
ABSENT: dict[str, Callable[..., Any]] = {
    "llama_model_get_vocab": lambda model: model,
    "llama_model_n_cls_out": lambda model: 1,
    "llama_get_memory": lambda context: None,
    "llama_memory_clear": lambda memory, data: None,
}
CLEAR = ("llama_kv_self_clear", "llama_kv_cache_clear")  # what emptied the KV cache before llama_memory_clear did
NORMALIZE = "_Z21common_embd_normalizePKfPfii"  # void common_embd_normalize(const float *, float *, int, int), C++


class Library:
    """llama.cpp's functions, from one shared library or several; `lib.llama_decode(...)` once declared.

    lib  None: the installed wheel; a folder: libllama* and libggml* in it; a file that has all of it
    cpu  of a folder with one CPU backend per processor kind, the kind to use ("haswell"); None: the best that runs here
    Raises EngineError when nothing is found, a function is missing, or a structure has another layout than we know.
    """

    def __init__(self, lib: str | None = None, cpu: str | None = None) -> None:
        self.parts: list[ct.CDLL] = []
        self.files = [wheel_file()] if lib is None else library_files(Path(lib))
        self.load_all(self.files)
        self.declare()
        self.check()
        if lib is not None and Path(lib).is_dir():
            self.load_backends(Path(lib), cpu)

    def load_all(self, files: Sequence[Path]) -> None:
        """Load files, each once those that it needs are there: what wheels bundle comes in no order."""
        waiting, failed = list(files), {}
        while waiting:
            for file in waiting:
                try:
                    self.parts.append(ct.CDLL(os.fspath(file)))
                except OSError as e:
                    failed[file] = e
            left = [file for file in waiting if file in failed]
            if len(left) == len(waiting):
                raise EngineError(f"{left[-1]}: cannot be loaded: {failed[left[-1]]}")
            waiting, failed = left, {}

    def name_of(self, name: str) -> str:
        """The name under which this build has a function, its own where it has none."""
        return next((known for known in (name, *OLDER.get(name, ())) if known in self), name)

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
        missing = [name for name in FUNCTIONS if self.name_of(name) not in self and name not in ABSENT]
        if missing:
            names = ", ".join(str(f) for f in self.files)
            raise EngineError(f"{names}: not a llama.cpp this engine can drive; missing: {', '.join(missing)}")
        for name, (result, *arguments) in FUNCTIONS.items():
            if self.name_of(name) in self:
                function = self[self.name_of(name)]
                function.restype, function.argtypes = result, arguments
            else:
                function = ABSENT[name]
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:  # reached only for what `declare` and `check` did not set
        raise AttributeError(f"{name} is not declared in FUNCTIONS")

    def build_number(self) -> int:
        """llama.cpp's build number as the library has it; 0 where that part of llama.cpp is not in it."""
        if "llama_build_number" in self:
            ask = self["llama_build_number"]
            ask.restype, ask.argtypes = ct.c_int, ()
            return int(ask())
        parts = list(self.parts)
        with contextlib.suppress(OSError):  # it may need what is not there, such as curl
            common = sorted(self.files[-1].parent.glob("libllama-common*"))  # of newer separate libraries
            parts += [ct.CDLL(os.fspath(f)) for f in common[:1]]
        for part in parts:
            with contextlib.suppress(ValueError):
                return ct.c_int.in_dll(part, "LLAMA_BUILD_NUMBER").value
        return 0

    def clear_memory(self, context: int) -> bool:
        """Empty a context's KV cache. Whether there is one: encoders have none in newer builds."""
        for name in CLEAR:
            if "llama_get_memory" not in self and name in self:
                clear = self[name]
                clear.restype, clear.argtypes = None, (PTR,)
                clear(context)
                return True
        memory = self.llama_get_memory(context)
        if memory:
            self.llama_memory_clear(memory, True)
        return bool(memory)

    def check(self) -> None:
        """Take the structure layouts that fit and declare the functions that pass them."""
        abi.check_tensor_layout(self)
        abi.check_batch_layout(self)
        self.layouts = {}
        for what, layouts, user, arguments in (
            ("model", MODEL_LAYOUTS, "llama_model_load_from_file", (STR,)),
            ("context", CONTEXT_LAYOUTS, "llama_init_from_model", (PTR,)),
        ):
            default = f"llama_{what}_default_params"
            label, struct = abi.matching_layout(self, default, layouts)
            self.layouts[what] = label
            make, use = self[default], self[self.name_of(user)]
            make.restype, make.argtypes = struct, ()
            use.restype, use.argtypes = PTR, (*arguments, struct)
            setattr(self, default, make)
            setattr(self, user, use)

    def load_backends(self, folder: Path, cpu: str | None) -> None:
        """A folder's CPU code may be a plug-in: load the named one, or let ggml choose."""
        if cpu is None and "ggml_backend_load_all_from_path" not in self:
            return  # there were no plug-ins yet
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


def library_files(lib: Path) -> list[Path]:
    """The files to load of a folder, or of one file, each behind those that it needs. EngineError where one is absent.

    A folder has separate libraries (libggml-base, libggml, libllama; older builds have no libggml-base, some a
    libggml-cpu that libggml is linked with), or one extension file that exports the C API.
    """
    shared = sorted(f for f in (lib if lib.is_dir() else lib.parent).glob("*") if is_shared(f.name))
    separate = [next((f for f in shared if re.fullmatch(stem + SUFFIX, f.name)), None) for stem in STEMS]
    bundled = [f for f in shared if re.search(BUNDLED + SUFFIX, f.name) and not f.name.startswith("libllama")]
    main = [f for f in separate if f and lib.is_dir()]
    if separate[-1] is None or lib.is_file():
        main = [lib] if lib.is_file() else [f for f in shared if lib.is_dir() and exports_llama(f)][:1]
    if not main:
        raise EngineError(
            f"{lib}: no libllama.so in it, and no file that exports llama.cpp's C API",
            hint="give the folder of a llama.cpp build's libraries",
        )
    return bundled + main


def is_shared(name: str) -> bool:
    """Whether a file name is that of a shared library, or of an extension of Python or Node.js."""
    return bool(re.search(r"\.(so|dylib|pyd|node)(\.\d+[a-z]?)*$", name))


def exports_llama(file: Path) -> bool:
    """Whether an extension file names llama.cpp's C functions to others: their names are in its table of symbols."""
    if not file.stat().st_size:
        return False
    with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"\0llama_model_default_params\0") >= 0
