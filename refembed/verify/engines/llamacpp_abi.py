"""llama.cpp's C structures as ctypes sees them, and the check that they fit the library at hand.

llama.h promises no stable ABI: `llama_context_params` grows every few months, in the middle. A layout is therefore
believed only after the library itself has filled it: its documented defaults (llama.h, `llama_*_default_params`) must
come out in every field, and where the machine lets us look, exactly as many bytes must be written as the layout has.
The other structures are checked the same way, on an object whose contents we know: a tensor, a batch.

Mirrors include/llama.h and ggml/include/ggml.h. Booleans are bytes here: a C bool read from the wrong place would
turn any rubbish into True.
"""

from __future__ import annotations

import ctypes as ct
import platform
from collections.abc import Sequence
from typing import Any, TypeAlias

from refembed.errors import EngineError

Field: TypeAlias = "tuple[str, Any, Any]"  # name, C type, default; a tuple of defaults, or ... for any value
Struct: TypeAlias = "type[ct.Structure]"

EVAL_CALLBACK = ct.CFUNCTYPE(ct.c_bool, ct.c_void_p, ct.c_bool, ct.c_void_p)  # (tensor, ask, user data)
LOG_CALLBACK = ct.CFUNCTYPE(None, ct.c_int, ct.c_char_p, ct.c_void_p)  # (level, text, user data)

I32P = ct.POINTER(ct.c_int32)
ANY = ...


def rows(ctype: Any, **defaults: Any) -> list[Field]:
    """Neighboring fields of one C type."""
    return [(name, ctype, value) for name, value in defaults.items()]


class Batch(ct.Structure):
    """llama_batch: n_tokens rows of one call."""

    _fields_ = (
        ("n_tokens", ct.c_int32),
        ("token", I32P),
        ("embd", ct.POINTER(ct.c_float)),
        ("pos", I32P),
        ("n_seq_id", I32P),
        ("seq_id", ct.POINTER(I32P)),
        ("logits", ct.POINTER(ct.c_int8)),
    )


class BufferOverride(ct.Structure):
    """llama_model_tensor_buft_override: the memory for tensors whose name fits a pattern."""

    _fields_ = (("pattern", ct.c_char_p), ("buft", ct.c_void_p))


class GgmlInit(ct.Structure):
    """ggml_init_params."""

    _fields_ = (("mem_size", ct.c_size_t), ("mem_buffer", ct.c_void_p), ("no_alloc", ct.c_bool))


class GgmlTensor(ct.Structure):
    """ggml_tensor, its leading fields: ne is the shape, fastest axis first; nb the stride of each axis in bytes."""

    _fields_ = (
        ("type", ct.c_int),
        ("buffer", ct.c_void_p),
        ("ne", ct.c_int64 * 4),
        ("nb", ct.c_size_t * 4),
        ("op", ct.c_int),
        ("op_params", ct.c_int32 * 16),
        ("flags", ct.c_int32),
        ("src", ct.c_void_p * 10),
        ("view_src", ct.c_void_p),
        ("view_offs", ct.c_size_t),
        ("data", ct.c_void_p),
        ("name", ct.c_char * 64),
    )


def tensor_at(address: int) -> Any:
    """The ggml_tensor at an address."""
    return ct.cast(address, ct.POINTER(GgmlTensor)).contents


def structure(name: str, fields: Sequence[Field]) -> Struct:
    """A ctypes structure of these fields."""
    return type(name, (ct.Structure,), {"_fields_": [(field, ctype) for field, ctype, _ in fields]})


def matching_layout(lib: Any, function: str, layouts: dict[str, Sequence[Field]]) -> tuple[str, Struct]:
    """The first layout that fits what `function` returns, and its name. EngineError says why the nearest does not."""
    reports = []
    for label, fields in layouts.items():
        struct = structure(function, fields)
        misfits = layout_misfits(lib, function, struct, fields)
        if not misfits:
            return label, struct
        reports.append((len(misfits), f"layout {label!r}: " + "; ".join(misfits)))
    nearest = [report for _, report in sorted(reports, key=lambda r: r[0])[:2]]
    others = f"\n  and {len(reports) - 2} others with more such faults" if len(reports) > 2 else ""
    raise EngineError(
        f"{function}() of this llama.cpp build fits no layout known here\n  " + "\n  ".join(nearest) + others,
        hint="compare refembed/verify/engines/llamacpp_layouts.py with the llama.h this library was built from",
    )


def layout_misfits(lib: Any, function: str, struct: Struct, fields: Sequence[Field]) -> list[str]:
    """What speaks against a layout: a size that is not the library's, fields without their default."""
    size, written = ct.sizeof(struct), bytes_written(lib, function)
    misfits: list[str] = []
    if written is not None and not size - 8 < written <= size:
        misfits.append(f"the library writes {written} bytes, the layout has {size}")
    f = lib[function]
    # room behind the layout: a library that knows more fields must not write past our memory
    f.argtypes, f.restype = (), structure(function, [*fields, ("behind", ct.c_uint8 * 1024, ANY)])
    found = f()
    f.restype = struct
    misfits += [
        f"{name} is {getattr(found, name)!r}, not {shown(default)}"
        for name, _, default in fields
        if default is not ANY and getattr(found, name) not in defaults_of(default)
    ]
    return misfits


def defaults_of(default: Any) -> tuple[Any, ...]:
    """The values that a field may have, of one default or several."""
    return default if isinstance(default, tuple) else (default,)


def shown(default: Any) -> str:
    """'-1' or '-1 or 32', for messages."""
    return " or ".join(repr(value) for value in defaults_of(default))


def bytes_written(lib: Any, function: str) -> int | None:
    """How many bytes `function` fills of the structure it returns; None on machines where that cannot be seen.

    On x86-64 a big structure is returned through a hidden first pointer (System V psABI 3.2.3; so on Windows), which we
    aim at memory filled with one pattern, then with another: bytes that change twice are written.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    f = lib[function]
    f.argtypes, f.restype = (ct.c_void_p,), ct.c_void_p
    memory, last = ct.create_string_buffer(1024), 0
    for fill in (b"\xa5", b"\x5a"):
        ct.memset(memory, fill[0], 1024)
        f(ct.addressof(memory))
        last = max(last, len(memory.raw.rstrip(fill)))
    return last


def check_tensor_layout(lib: Any) -> None:
    """Make tensors of known content and read them back. EngineError when GgmlTensor does not fit."""
    misfits = tensor_misfits(lib)
    if misfits:
        raise EngineError(
            "ggml_tensor of this llama.cpp build has another layout: " + "; ".join(misfits),
            hint="compare GgmlTensor in refembed/verify/engines/llamacpp_abi.py with ggml.h of that build",
        )


def tensor_misfits(lib: Any) -> list[str]:
    """Fields of a 5 x 3 F16 tensor, of a view into it and of a sum that are not what they were made to be."""
    ctx = lib.ggml_init(GgmlInit(1 << 16, None, False))
    try:
        made = lib.ggml_new_tensor_2d(ctx, 1, 5, 3)
        lib.ggml_set_name(made, b"refembed-check")
        view = lib.ggml_view_1d(ctx, made, 2, 10)
        total = lib.ggml_add(ctx, made, made)
        t, v, s = tensor_at(made), tensor_at(view), tensor_at(total)
        found: dict[str, tuple[Any, Any]] = {
            "type": (t.type, 1),
            "ne": (list(t.ne), [5, 3, 1, 1]),
            "nb": (list(t.nb), [2, 10, 30, 30]),
            "op": (lib.ggml_op_name(t.op) if 0 <= t.op < 64 else t.op, b"NONE"),
            "name": (t.name, b"refembed-check"),
            "data": (t.data is not None, True),
            "src": (list(t.src), [None] * 10),
            "view_src": (v.view_src, made),
            "view_offs": (v.view_offs, 10),
            "data of a view": (v.data, (t.data or 0) + 10),
            "src of a view": (v.src[0], made),
            "op of a view": (lib.ggml_op_name(v.op) if 0 <= v.op < 64 else v.op, b"VIEW"),
            "src of a sum": (list(s.src[:3]), [made, made, None]),
        }
    finally:
        lib.ggml_free(ctx)
    return [f"{name} is {got!r}, not {want!r}" for name, (got, want) in found.items() if got != want]


def check_batch_layout(lib: Any) -> None:
    """Let the library make a batch for 4 tokens of 2 sequences and look at it. EngineError when Batch does not fit."""
    batch = lib.llama_batch_init(4, 0, 2)
    arrays = ("token", "pos", "n_seq_id", "seq_id", "logits")
    misfits = [f"{name} is NULL" for name in arrays if not getattr(batch, name)]
    misfits += [f"n_tokens is {batch.n_tokens}, not 0"] if batch.n_tokens else []
    misfits += ["embd is not NULL"] if batch.embd else []
    misfits += ["seq_id does not end in NULL"] if not misfits and batch.seq_id[4] else []
    if misfits:
        raise EngineError("llama_batch of this llama.cpp build has another layout: " + "; ".join(misfits))
    lib.llama_batch_free(batch)
