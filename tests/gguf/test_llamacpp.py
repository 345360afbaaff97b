"""refembed and llama.cpp on the same damaged files: the same verdict, and where both read a file, the same contents.

gguf_init_from_file of the pinned wheel judges a few thousand small files. refembed may refuse more, or take more, only
for the reasons listed here.
"""

from __future__ import annotations

import os
import random
import struct

import pytest

from refembed.errors import GGUFError
from refembed.gguf import open_gguf
from refembed.gguf.metadata import VALUE_TYPES
from tests.gguf import files, llamacpp, test_metadata, test_reader
from tests.gguf.files import ARRAY, F32, I8, Q8_0, STRING, UINT8, UINT32, keys, tensors
from tests.gguf.test_damage import EDGES

pytestmark = pytest.mark.oracle

# refembed refuses, llama.cpp's GGUF reader does not
STRICTER = {
    "its data is not within the file": "llama.cpp asks this as well, one layer up, in llama_model_loader",
    "is not UTF-8": "names are str here; llama.cpp compares bytes, gguf-py raises",
    "at most 65,535 are allowed": "the GGUF specification's limit on keys",
    "no numbers, yet dimensions no array can have": "NumPy could not give such a tensor its shape",
    "reading split.": "llama.cpp asks for the shards of a model one layer up, in llama_model_loader; see test_split",
}


def laxer(f):
    """Why refembed takes a file that llama.cpp refuses: arrays in arrays, big-endian. gguf-py takes these as well."""
    nested = any(f.metadata.type_name(key).startswith("ARRAY[ARRAY") for key in f.metadata)
    return f.byteorder == ">" or nested


def c_string(raw):
    """Up to the first NUL, as C hands strings out."""
    return raw.split(b"\0")[0].hex()


def contents(f):
    """An open file, in the form of llamacpp.read."""
    ids = {t.name: t.id for t in VALUE_TYPES}
    fields = []
    for key in f.metadata:
        type, value = f.metadata.type_name(key), f.metadata[key]
        kind, item = (type[:5], type[6:-1]) if type.startswith("ARRAY") else (type, None)
        if type == "STRING":
            stored = c_string(f.metadata.raw_string(key))
        elif type == "ARRAY[STRING]":
            stored = [c_string(s) for s in value.to_bytes()]
        elif item is not None:
            stored = value.tobytes().hex()
        else:
            code = next(t.code for t in VALUE_TYPES if t.name == type)
            stored = struct.pack(f"<{code}", value).hex()
        fields.append([c_string(key.encode()), ids[kind], None if item is None else ids[item], stored])
    rows = [[c_string(t.name.encode()), t.type.id, t.offset - f.data_offset, t.nbytes] for t in f.tensors.values()]
    return {
        "version": f.version,
        "alignment": f.alignment,
        "data_offset": f.data_offset,
        "fields": fields,
        "tensors": rows,
    }


def verdict(path):
    """The open file, or the message with which it was refused."""
    try:
        return open_gguf(path)
    except GGUFError as e:
        return str(e)


def compare(tmp_path, corpus):
    """Every file through both: how many both took, how many both refused, and how many differ for a listed reason."""
    paths = []
    for i, data in enumerate(corpus):
        paths.append(tmp_path / f"{i}.gguf")
        paths[-1].write_bytes(data)
    both, neither, listed = 0, 0, 0
    for path, theirs in zip(paths, llamacpp.verdicts(paths), strict=True):
        ours = verdict(path)
        if isinstance(ours, str) and not isinstance(theirs, dict):
            neither += 1
        elif isinstance(ours, str):
            assert any(reason in ours for reason in STRICTER), (ours, path.read_bytes())
            listed += 1
        elif theirs is None:
            assert laxer(ours), path.read_bytes()
            listed += 1
        else:
            assert contents(ours) == theirs, path.read_bytes()
            both += 1
    return both, neither, listed


def test_the_samples_are_read_alike(tmp_path):
    corpus = [files.sample(version=v)[0] for v in (2, 3)] + [files.sample(nested=True)[0], files.sample(">")[0]]
    assert compare(tmp_path, corpus) == (2, 0, 2)


def test_the_malformed_files_of_the_other_tests_are_judged_alike(tmp_path):
    corpus = [row[0] for row in (*test_reader.MALFORMED.values(), *test_metadata.MALFORMED.values())]
    _, neither, listed = compare(tmp_path, corpus)
    assert neither > 30
    assert listed < 15


def test_shapes_and_alignments_at_the_edge_are_judged_alike(tmp_path):
    sizes = (0, 1, 3, 32, 2**31, 2**40, 2**61 - 1, 2**61, 2**62, 2**63 - 1, -1)
    shapes = (
        [[a] for a in sizes]
        + [[a, b] for a in sizes for b in sizes]
        + [[a, b, c] for a in sizes for b in (0, 2, 2**62) for c in (0, 2)]
    )
    corpus = [tensors((b"x", ne, type, 0)) for ne in shapes for type in (F32, I8, Q8_0)]
    corpus += [tensors((b"x", [256], type, 0)) for type in (*range(48), 2**31, 2**32 - 1)]
    corpus += [tensors((b"x", [1] * n, F32, 0)) for n in range(7)]
    corpus += [tensors((b"x", [8], F32, 0), alignment=a or None) for a in (1, 2, 4, 8, 16, 64, 4096)]
    corpus += [keys((b"general.alignment", UINT32, struct.pack("<I", a))) for a in (*range(70), 2**31, 2**32 - 1)]
    corpus += [tensors((b"n" * n, [8], F32, 0)) for n in (0, 1, 62, 63, 64, 65)]
    corpus += [
        tensors((a, [8], F32, 0), (b, [8], F32, 32)) for a, b in ((b"", b""), (b"a\0b", b"a\0c"), (b"a\0b", b"a"))
    ]
    corpus += [keys((b"a", UINT8, b"\1"))[:n] for n in range(35)]
    both, neither, listed = compare(tmp_path, corpus)
    assert min(both, neither, listed) > 50


def test_every_structural_number_at_every_edge_is_judged_alike(tmp_path):
    data, marks = files.sample()
    corpus = []
    for at, width in marks:
        numbers = {e for e in EDGES if e < 256**width} | {
            n + d for n in (int.from_bytes(data[at : at + width], "little"),) for d in (-1, 1) if n + d >= 0
        }
        corpus += [data[:at] + n.to_bytes(width, "little") + data[at + width :] for n in sorted(numbers)]
    both, neither, _ = compare(tmp_path, corpus)
    assert both > 20
    assert neither > 1000


LARGE = {
    "string": keys((b"a", STRING, struct.pack("<Q", 2**30 + 1))),
    "array": keys((b"a", ARRAY, struct.pack("<IQ", UINT8, 2**30 + 1))),
    "string in an array": keys((b"a", ARRAY, struct.pack("<IQQ", STRING, 1, 2**30 + 1))),
}


def test_strings_and_arrays_above_2_to_the_30_are_refused_as_by_llamacpp(tmp_path):
    """The bytes are there: a hole in the file stands for them."""
    paths = []
    for name, data in LARGE.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
        os.truncate(paths[-1], len(data) + 2**30 + 1)
        with pytest.raises(GGUFError, match="1,073,741,824"):
            open_gguf(paths[-1])
    assert llamacpp.verdicts(paths) == [None] * len(LARGE)


def random_damage(seed, cut, changed):
    """So many files cut short, and so many with up to three changed bytes; the same ones for the same seed."""
    rng = random.Random(seed)
    data, _ = files.sample()
    header = len(data) - 3 * 64
    corpus = [data[: rng.randrange(len(data))] for _ in range(cut)]
    for _ in range(changed):
        raw = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(header)] = rng.choice((0, 1, 255, rng.randrange(256)))
        corpus.append(bytes(raw))
    return corpus


def test_random_damage_is_judged_alike(tmp_path):
    both, neither, listed = compare(tmp_path, random_damage(seed=0, cut=200, changed=2000))
    assert min(both, neither, listed) > 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_much_random_damage_is_judged_alike(tmp_path, seed):
    compare(tmp_path, random_damage(seed, cut=500, changed=10_000))
