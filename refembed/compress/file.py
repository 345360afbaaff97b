"""Codes in a file that says what they are: an .npz that NumPy reads without refembed.

    meta.json       format, scheme, dimensions, count, bytes a vector, numpy dtype of the source, fingerprint, and more
    codes.npy       (N, ...) what `encode` gave
    ranges.npy      (2, D) float32            of int8, uint8, int8-global
    codebooks.npy   (M, K, D/M) float32       of pq

`fingerprint` is the SHA-256 of the source's shape, as text ("2000x384 "), and its numbers as little-endian float32 in C
order: it says which vectors the codes are of. The same codes give the same file, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32
from refembed.atomic_write import opened_zip, reading_arrays, replacing
from refembed.compress.codec import VECTORS_AT_A_TIME, Codec, Codes
from refembed.compress.schemes import load
from refembed.errors import RequestError
from refembed.parse_json import parse_json

FORMAT = "refembed-compress-1"
DAMAGE = (
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    TypeError,
    OSError,
    OverflowError,
)  # what a file that is none, or broken, can raise


class Compressed(NamedTuple):
    """What a file holds."""

    codec: Codec
    codes: Codes
    meta: dict[str, Any]

    def decode(self) -> F32:
        """The vectors again, (N, D) float32, as near as the scheme comes."""
        return self.codec.decode(self.codes)


def fingerprint(x: npt.NDArray[Any]) -> str:
    """SHA-256 of vectors (N, D), as the file's head says; two arrays have the same if they are the same in float32."""
    digest = hashlib.sha256(f"{x.shape[0]}x{x.shape[1]} ".encode())
    for i in range(0, len(x), VECTORS_AT_A_TIME):
        digest.update(np.ascontiguousarray(x[i : i + VECTORS_AT_A_TIME], "<f4").tobytes())
    return digest.hexdigest()


def compress(codec: Codec, x: npt.NDArray[Any], **about: Any) -> Compressed:
    """Vectors x (N, D) encoded, with what a file says of them; `about` adds to that."""
    codes = codec.encode(x)
    meta = {"format": FORMAT, "scheme": codec.scheme, "dimensions": codec.dimensions, "count": len(x),
            "bytes": codec.bytes, "source_dtype": str(x.dtype), "fingerprint": fingerprint(x)}  # fmt: skip
    return Compressed(codec, codes, meta | about)


def write(out: BinaryIO, compressed: Compressed) -> None:
    """The file's bytes into a stream."""
    arrays = {"codes": compressed.codes, **compressed.codec.arrays()}
    with zipfile.ZipFile(out, "w") as z:
        z.writestr(zipfile.ZipInfo("meta.json"), json.dumps(compressed.meta, indent=1) + "\n")
        for name, array in arrays.items():
            with z.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def save(path: str | Path, compressed: Compressed) -> Path:
    """Write the file: it appears whole, or not at all."""
    target = Path(path)
    with replacing(target) as out:
        write(out, compressed)
    return target


def read(path: str | Path) -> Compressed:
    """What `save` wrote. RequestError for anything else, damage included: every member has its CRC-32."""
    hint = "`refembed compress vectors.npy --to int8 --out FILE` writes one"
    try:
        with opened_zip(path) as z:
            with reading_arrays():
                meta = parse_json(z.read("meta.json"))
            if not isinstance(meta, dict) or meta.get("format") != FORMAT:
                raise RequestError(f"{path}: not a file of {FORMAT}", hint=hint)
            arrays = {}
            for name in z.namelist():
                if name.endswith(".npy"):
                    with reading_arrays(), z.open(name) as member:
                        arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        if type(meta["dimensions"]) is not int or type(meta.get("count")) is not int:
            raise ValueError(f"dimensions {meta['dimensions']!r}, count {meta.get('count')!r}")
        codec = load(str(meta["scheme"]), meta["dimensions"], arrays)
        codes = codec.check_codes(arrays["codes"])
        numbers = codes["scale"] if codes.dtype.names else codes
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise ValueError("codes that are not finite")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file", hint=hint) from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as e:
        raise RequestError(f"{path}: {e.strerror}", hint=hint) from None
    except RequestError as e:
        raise e if str(e).startswith(f"{path}: ") else RequestError(f"{path}: {e}") from None
    except DAMAGE as e:
        raise RequestError(f"{path}: not compressed vectors, or damaged: {e}", hint=hint) from None
    if len(codes) != meta.get("count"):
        raise RequestError(f"{path}: {len(codes)} codes, but it says {meta.get('count')}")
    return Compressed(codec, codes, meta)
