"""Split models for the tests, and what llama_model_load_from_file makes of them, in a process of its own.

split(source, folder, 3)     a GGUF file in three shards, as llama-gguf-split does it, or with a fault
samples(3)                   small shards made byte by byte, without refembed, and where their structural numbers stand
verdicts(paths)              one entry a first shard: whether llama.cpp opens the files, whether it loads the model,
                             what it said, parameters and bytes of the model; "crash" where it died of it
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

import numpy as np

from refembed.gguf import GGUFWriter, StringArray, open_gguf
from tests.child import answers_about
from tests.gguf import files


def shard_name(i, n, prefix="model"):
    """Name of shard i, counted from 0, of n."""
    return f"{prefix}-{i + 1:05d}-of-{n:05d}.gguf"


def split(source, folder, n, *, prefix="model", first_empty=False, fault=None):
    """Write the tensors of a file as n shards, in order, and return their paths.

    first_empty  no tensors in the first shard, as llama-gguf-split --no-tensor-first-split
    fault        called with each shard's number, its keys {name: (value, type)} and its list of tensors: changes these
    """
    whole = open_gguf(source)
    chunks = np.array_split(np.arange(len(whole.tensors)), n - first_empty)
    tensors, paths = list(whole.tensors.values()), []
    for i, chunk in enumerate([[]] * first_empty + chunks):
        md, keys = whole.metadata, {}
        if i == 0:
            for key in md:
                value = md.raw_string(key) if md.type_name(key) == "STRING" else md[key]
                keys[key] = (value.to_bytes() if isinstance(value, StringArray) else value, md.type_name(key))
        keys["split.no"] = (i, "UINT16")
        keys["split.count"] = (n, "UINT16")
        keys["split.tensors.count"] = (len(tensors), "INT32")
        mine = [tensors[j] for j in chunk]
        if fault:
            fault(i, keys, mine)
        w = GGUFWriter(None)
        for key, (value, type) in keys.items():
            w.add(key, value, type)
        for t in mine:
            w.add_tensor(t.name, t.raw, t.shape, t.type.name)
        paths.append(w.write(folder / shard_name(i, n, prefix)))
    return paths


def samples(n=3, order="<"):
    """n shards of two small tensors each, byte by byte: [(data, marks)]."""
    made = []
    for i in range(n):
        b = files.head(2, 4 if i == 0 else 3, 3, order)
        if i == 0:
            b.key(b"general.architecture", files.STRING)
            b.string(b"bert")
        for name, type, code, value in (
            (b"split.no", files.UINT16, "H", i),
            (b"split.count", files.UINT16, "H", n),
            (b"split.tensors.count", files.INT32, "i", 2 * n),
        ):
            b.key(name, type)
            b.mark(code, value)
        for j, (ne, type) in enumerate((((3, 2), files.F32), ((32,), files.Q8_0))):
            b.string(b"blk.%d.t%d" % (i, j))
            b.mark("I", len(ne))
            for size in ne:
                b.mark("Q", size)
            b.mark("I", type)
            b.mark("Q", 32 * j)
        b.pad()
        b.put("6f", *range(6))
        b.pad()
        b.data += bytes(range(34))
        b.pad()
        made.append((bytes(b.data), b.marks))
    return made


def write_samples(folder, shards, prefix="model"):
    """Write the bytes of shards under the names that belong to them; returns the first path."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(shards):
        path = folder / shard_name(i, len(shards), prefix)
        path.unlink(missing_ok=True)  # never shorten a file that may still be mapped
        path.write_bytes(data)
    return folder / shard_name(0, len(shards), prefix)


# llama.cpp


def verdicts(paths):
    """Ask about many models. One that ends the process is "crash"."""
    return answers_about(["-m", "tests.gguf.shards"], paths)


def main():
    from refembed.verify.engines import llamacpp_abi as abi
    from refembed.verify.engines.llamacpp_lib import Library

    lib, said = Library(), []
    numbers = {"params": lib["llama_model_n_params"], "bytes": lib["llama_model_size"]}
    for function in numbers.values():
        function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_void_p]
    keep = abi.LOG_CALLBACK(lambda level, text, _: said.append((text or b"").decode(errors="replace")))
    lib.llama_log_set(keep, None)
    lib.llama_backend_init()
    for path in sys.stdin.read().splitlines():
        said.clear()
        params = lib.llama_model_default_params()
        no_devices = (ctypes.c_void_p * 1)()
        params.devices, params.n_gpu_layers = ctypes.addressof(no_devices), 0
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
        about = {"loads": bool(model), "said": "".join(said)}
        about["opens"] = "loaded meta data with" in about["said"]  # files in order; what follows is the model's affair
        if model:
            about |= {name: function(model) for name, function in numbers.items()}
            lib.llama_model_free(model)
        print(json.dumps(about), flush=True)


if __name__ == "__main__":
    main()
