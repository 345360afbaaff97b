"""What llama.cpp's own GGUF reader makes of files: gguf_init_from_file of the pinned wheel, in a process of its own.

verdicts(paths)     one entry a file: a dict of all that llama.cpp read, None where it refused, "crash" where it died
tensor_types()      (name, weights per block, bytes per block, dot type) of every type id it knows
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

from tests.child import answer, answers_about

STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by type
TYPE_COUNT = 43  # GGML_TYPE_COUNT of the pinned build; ids from there on are read out of bounds


def verdicts(paths):
    """Ask about many files. A file that ends the process is "crash"."""
    return answers_about(["-m", "tests.gguf.llamacpp"], paths)


def tensor_types():
    """id -> (name, weights per block, bytes per block, id of the type activations are rounded to, or None)."""
    return dict(enumerate(json.loads(answer(["-m", "tests.gguf.llamacpp", "types"]))))


class Params(ctypes.Structure):
    """struct gguf_init_params"""

    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]


class CpuTraits(ctypes.Structure):
    """struct ggml_type_traits_cpu"""

    _fields_ = [
        ("from_float", ctypes.c_void_p),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    ]


def library():
    import xllamacpp

    lib = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    id, ctx = ctypes.c_int64, ctypes.c_void_p
    for name, result, arguments in (
        ("ggml_type_name", ctypes.c_char_p, [ctypes.c_int]),
        ("ggml_blck_size", ctypes.c_int64, [ctypes.c_int]),
        ("ggml_type_size", ctypes.c_size_t, [ctypes.c_int]),
        ("ggml_get_type_traits_cpu", ctypes.POINTER(CpuTraits), [ctypes.c_int]),
        ("gguf_init_from_file", ctx, [ctypes.c_char_p, Params]),
        ("gguf_free", None, [ctx]),
        ("gguf_get_version", ctypes.c_uint32, [ctx]),
        ("gguf_get_alignment", ctypes.c_size_t, [ctx]),
        ("gguf_get_data_offset", ctypes.c_size_t, [ctx]),
        ("gguf_get_n_kv", ctypes.c_int64, [ctx]),
        ("gguf_get_key", ctypes.c_char_p, [ctx, id]),
        ("gguf_get_kv_type", ctypes.c_int, [ctx, id]),
        ("gguf_get_val_str", ctypes.c_char_p, [ctx, id]),
        ("gguf_get_val_data", ctx, [ctx, id]),
        ("gguf_get_arr_type", ctypes.c_int, [ctx, id]),
        ("gguf_get_arr_n", ctypes.c_size_t, [ctx, id]),
        ("gguf_get_arr_data", ctx, [ctx, id]),
        ("gguf_get_arr_str", ctypes.c_char_p, [ctx, id, ctypes.c_size_t]),
        ("gguf_get_n_tensors", ctypes.c_int64, [ctx]),
        ("gguf_get_tensor_name", ctypes.c_char_p, [ctx, id]),
        ("gguf_get_tensor_type", ctypes.c_int, [ctx, id]),
        ("gguf_get_tensor_offset", ctypes.c_size_t, [ctx, id]),
        ("gguf_get_tensor_size", ctypes.c_size_t, [ctx, id]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def read(lib, path):
    """All that gguf.h hands out about a file. Bytes are hex; strings end at their first NUL, as C gives them out."""
    ctx = lib.gguf_init_from_file(path.encode(), Params(True, None))
    if not ctx:
        return None
    fields = []
    for i in range(lib.gguf_get_n_kv(ctx)):
        type = lib.gguf_get_kv_type(ctx, i)
        item, value = None, None
        if type == STRING:
            value = lib.gguf_get_val_str(ctx, i).hex()
        elif type != ARRAY:
            value = ctypes.string_at(lib.gguf_get_val_data(ctx, i), SIZES[type]).hex()
        else:
            item, n = lib.gguf_get_arr_type(ctx, i), lib.gguf_get_arr_n(ctx, i)
            if item == STRING:
                value = [lib.gguf_get_arr_str(ctx, i, j).hex() for j in range(n)]
            else:
                value = ctypes.string_at(lib.gguf_get_arr_data(ctx, i), n * SIZES[item]).hex() if n else ""
        fields.append([lib.gguf_get_key(ctx, i).hex(), type, item, value])
    tensors = [
        [
            lib.gguf_get_tensor_name(ctx, i).hex(),
            lib.gguf_get_tensor_type(ctx, i),
            lib.gguf_get_tensor_offset(ctx, i),
            lib.gguf_get_tensor_size(ctx, i),
        ]
        for i in range(lib.gguf_get_n_tensors(ctx))
    ]
    about = {
        "version": lib.gguf_get_version(ctx),
        "alignment": lib.gguf_get_alignment(ctx),
        "data_offset": lib.gguf_get_data_offset(ctx),
        "fields": fields,
        "tensors": tensors,
    }
    lib.gguf_free(ctx)
    return about


def describe(lib, id):
    """One row of tensor_types()."""
    cpu = lib.ggml_get_type_traits_cpu(id).contents
    dot = cpu.vec_dot_type if cpu.vec_dot else None
    return lib.ggml_type_name(id).decode(), lib.ggml_blck_size(id), lib.ggml_type_size(id), dot


def main():
    lib = library()
    if sys.argv[1:] == ["types"]:
        print(json.dumps([describe(lib, i) for i in range(TYPE_COUNT)]))
        return
    for path in sys.stdin.read().splitlines():
        print(json.dumps(read(lib, path)), flush=True)


if __name__ == "__main__":
    main()
