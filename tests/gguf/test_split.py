"""Models in several files: one model where llama.cpp makes one of them, else one error that names the file."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

from refembed import Embedder
from refembed.errors import GGUFError
from refembed.gguf import GGUFFile, open_gguf
from refembed.verify.engines.llamacpp import LlamaCpp
from tests.gguf import shards
from tests.gguf.shards import samples, shard_name, split, verdicts, write_samples
from tests.tiny import tiny_bert


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


# Models that open

WAYS = {
    "one": {"n": 1},
    "two": {"n": 2},
    "five": {"n": 5},
    "first empty": {"n": 3, "first_empty": True},
    "prefix of a shard": {"n": 2, "prefix": shard_name(0, 2)},
    "prefix in other letters": {"n": 2, "prefix": "模型 ü%d"},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_first_shard_opens_the_whole_model(tiny, tmp_path, way):
    paths = split(tiny, tmp_path, **WAYS[way])
    f, whole = open_gguf(paths[0]), open_gguf(tiny)
    assert f.path == paths[0]
    assert list(f.paths) == paths
    assert f.size == sum(p.stat().st_size for p in paths)
    assert f.trailing == 0
    assert list(f.tensors) == list(whole.tensors)
    for name, t in whole.tensors.items():
        assert (f.tensors[name].shape, f.tensors[name].type) == (t.shape, t.type)
        assert np.array_equal(f.tensors[name].raw, t.raw)
    assert [k for k in f.metadata if not k.startswith("split.")] == list(whole.metadata)
    assert f.metadata["general.architecture"] == "bert"


def test_a_split_model_embeds_like_the_whole(tiny, tmp_path):
    first, *_ = split(tiny, tmp_path, 3)
    texts = ["the cat sat", "hello, world!"]
    assert np.array_equal(Embedder.load(first).embed(texts), Embedder.load(tiny).embed(texts))


def test_a_wrong_tensor_name_is_looked_for_in_all_shards(tiny, tmp_path):
    f = open_gguf(split(tiny, tmp_path, 3)[0])
    last = list(f.tensors)[-1]
    with pytest.raises(GGUFError, match=rf"no such name among {len(f.tensors)}\n  hint: did you mean .*{last}"):
        f.tensors[last + "s"]


def test_any_shard_can_be_looked_at_alone(tiny, tmp_path):
    paths = split(tiny, tmp_path, 3)
    each = [GGUFFile(p) for p in paths]
    assert sum(len(f.tensors) for f in each) == len(open_gguf(tiny).tensors)
    assert each[1].metadata["split.no"] == 1


def test_a_split_model_closes_whole(tiny, tmp_path):
    with open_gguf(split(tiny, tmp_path, 2)[0]) as f:
        kept = f.tensors["output_norm.bias"] if "output_norm.bias" in f.tensors else list(f.tensors.values())[-1]
    with pytest.raises(GGUFError, match="the file is closed"):
        f.tensors  # noqa: B018
    assert kept.raw.size == kept.nbytes


def test_a_relative_path_is_enough(tiny, tmp_path, monkeypatch):
    split(tiny, tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    assert len(open_gguf(shard_name(0, 2)).tensors) == len(open_gguf(tiny).tensors)


def test_shards_may_be_links(tiny, tmp_path):
    """As the cache of the Hugging Face hub has them: names in one folder, contents under other names elsewhere."""
    for i, path in enumerate(split(tiny, tmp_path, 2)):
        path.rename(tmp_path / f"blob{i}")
        (tmp_path / "snapshot").mkdir(exist_ok=True)
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blob{i}")
    assert len(open_gguf(tmp_path / "snapshot" / shard_name(0, 2)).tensors) == len(open_gguf(tiny).tensors)


def test_a_shard_has_an_alignment_and_byte_order_of_its_own(tmp_path):
    little, big = samples(2), samples(2, ">")
    f = open_gguf(write_samples(tmp_path, [little[0][0], big[1][0]]))
    assert [t.byteorder for t in f.tensors.values()] == ["<", "<", ">", ">"]


# Models that do not


def change(key, value, shard=None):
    """A fault: this key has another (value, type), or goes where value is None; in one shard or in all."""

    def fault(i, keys, tensors):
        if shard in (None, i):
            keys.pop(key)
            if value is not None:
                keys[key] = value

    return fault


def last_has_the_first_tensor_too():
    seen = []

    def fault(i, keys, tensors):
        if i == 0:
            seen[:] = tensors
        if i == 2:
            tensors.append(seen[0])

    return fault


def swap(paths):
    other = paths[1].with_name("x")
    paths[1].rename(other)
    paths[2].rename(paths[1])
    other.rename(paths[2])
    return paths[0]


def cut(paths):
    os.truncate(paths[2], paths[2].stat().st_size - 64)
    return paths[0]


def garbage(paths):
    paths[1].write_bytes(b"not a model")
    return paths[0]


def rename(paths):
    return paths[0].rename(paths[0].with_name("first.gguf"))


# name: (fault of the keys, what is done to the files and which is opened, our message, llama.cpp's)
FAULTS = {
    "a shard is missing": (
        None,
        lambda paths: paths[1].unlink() or paths[0],
        r"model-00001-of-00003.gguf: reading split.count at byte 0x\w+: 3 shards, but there is no file "
        r"\S+model-00002-of-00003.gguf\n  hint: .* 1 of 3 are missing: model-00002-of-00003.gguf$",
        "failed to load GGUF split from",
    ),
    "two shards are missing": (
        None,
        lambda paths: [p.unlink() for p in paths[1:]] and paths[0],
        r"2 of 3 are missing: model-00002-of-00003.gguf, model-00003-of-00003.gguf$",
        "failed to load GGUF split from",
    ),
    "the second is opened": (
        None,
        lambda paths: paths[1],
        r"model-00002-of-00003.gguf: reading split.no at byte 0x\w+: 1: this file is shard 2 of 3, and a split model "
        r"is opened by its first\n  hint: open \S+model-00001-of-00003.gguf$",
        "illegal split file idx: 1",
    ),
    "a renamed second is opened": (
        None,
        lambda paths: paths[1].rename(paths[1].with_name("b.gguf")),
        r"this file is shard 2 of 3.*\n  hint: open \S+\.\.\.-00001-of-00003.gguf$",
        "illegal split file idx: 1",
    ),
    "the first was renamed": (
        None,
        rename,
        r"first.gguf: reading split.count .*: 3, but the file's name does not end in -00001-of-00003.gguf",
        "invalid split file name",
    ),
    "a shard has no number": (
        change("split.no", None, 1),
        None,
        r"model-00002-of-00003.gguf: reading split.no at byte 0x18: no such key",
        "missing key split.no in GGUF split",
    ),
    "the first has no number": (
        change("split.no", None, 0),
        None,
        r"model-00001-of-00003.gguf: reading split.no at byte 0x18: no such key",
        "key not found in model: split.no",
    ),
    "names mixed up": (
        None,
        swap,
        r"model-00002-of-00003.gguf: reading split.no at byte 0x\w+: 2, not 1, as the name of shard 2 of 3 says",
        "invalid split file idx: 2",
    ),
    "a tensor twice": (
        last_has_the_first_tensor_too(),
        None,
        r"model-00003-of-00003.gguf: reading tensor token_embd.weight at byte 0x\w+: \S+-00001-of-00003.gguf has it as",
        "is duplicated",
    ),
    "fewer tensors than promised": (
        lambda i, keys, tensors: tensors.pop() if i == 1 else None,
        None,
        r"model-00001-of-00003.gguf: reading split.tensors.count at byte 0x\w+: (\d+), but the 3 shards hold \d+\n",
        "corrupted model",
    ),
    "no number of tensors": (
        change("split.tensors.count", None, 0),
        None,
        r"reading split.tensors.count at byte 0x18: no such key",
        "key not found in model: split.tensors.count",
    ),
    "a negative number of tensors": (
        change("split.tensors.count", (-1, "INT32"), 0),
        None,
        r"reading split.tensors.count at byte 0x\w+: INT32 -1, not",
        "corrupted model: -1",
    ),
    "number of tensors of another type": (
        change("split.tensors.count", (37, "UINT32"), 0),
        None,
        r"reading split.tensors.count at byte 0x\w+: UINT32 37, not INT32",
        "wrong type",
    ),
    "number of shards of another type": (
        change("split.count", (3, "UINT32"), 0),
        None,
        r"reading split.count at byte 0x\w+: UINT32 3, not UINT16",
        "wrong type",
    ),
    "number of another type": (
        change("split.no", (0, "INT32"), 0),
        None,
        r"reading split.no at byte 0x\w+: INT32 0, not UINT16",
        "wrong type",
    ),
    "number of another type in a shard": (
        change("split.no", (2, "UINT32"), 2),
        None,
        r"model-00003-of-00003.gguf: reading split.no at byte 0x\w+: UINT32 2, not UINT16",
        "crash",  # GGML_ASSERT
    ),
    "more shards than files": (
        change("split.count", (4, "UINT16"), 0),
        None,
        r"4, but the file's name does not end in -00001-of-00004.gguf",
        "invalid split file name",
    ),
    "a shard is cut short": (None, cut, r"model-00003-of-00003.gguf: reading data of tensor", "within the file bounds"),
    "a shard is no GGUF": (
        None,
        garbage,
        r"model-00002-of-00003.gguf: reading magic",
        "failed to load GGUF split from",
    ),
}


def faulty(tiny, folder, name):
    """The path that is to be opened."""
    folder.mkdir()
    fault, prepare, *_ = FAULTS[name]
    paths = split(tiny, folder, 3, fault=fault)
    return prepare(paths) if prepare else paths[0]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_error_that_names_the_file(tiny, tmp_path, name):
    path = faulty(tiny, tmp_path / "x", name)
    with pytest.raises(GGUFError) as caught:
        open_gguf(path)
    assert re.search(FAULTS[name][2], str(caught.value)), str(caught.value)


# Live llama.cpp


@pytest.mark.oracle
def test_llamacpp_loads_the_same_models(tiny, tmp_path):
    firsts = []
    for i, way in enumerate(WAYS.values()):
        (tmp_path / str(i)).mkdir()
        firsts.append(split(tiny, tmp_path / str(i), **way)[0])
    whole, *found = verdicts([tiny, *firsts])
    assert whole["loads"]
    assert [(f["params"], f["bytes"]) for f in found] == [(whole["params"], whole["bytes"])] * len(WAYS)
    ours = [open_gguf(p).tensors.values() for p in firsts]
    assert [sum(t.nbytes for t in tensors) for tensors in ours] == [whole["bytes"]] * len(WAYS)


@pytest.mark.oracle
def test_llamacpp_embeds_a_split_model_like_the_whole(tiny, tmp_path):
    first, *_ = split(tiny, tmp_path, 3)
    vectors = []
    for path in (tiny, first):
        with LlamaCpp(path) as engine:
            vectors.append(engine.embed(["the cat sat"])[0])
    assert np.array_equal(*vectors)


@pytest.mark.oracle
def test_llamacpp_refuses_the_same_models_for_the_same_reasons(tiny, tmp_path):
    paths = [faulty(tiny, tmp_path / str(i), name) for i, name in enumerate(FAULTS)]
    for name, found in zip(FAULTS, verdicts(paths), strict=True):
        words = FAULTS[name][3]
        if words == "crash":
            assert found == "crash", name
        else:
            assert not found["loads"], name
            assert words in found["said"], (name, found["said"])


@pytest.mark.oracle
def test_every_number_of_a_split_at_every_edge_is_judged_alike(tmp_path):
    """The structural numbers of all shards, the split's own among them. refembed refuses where llama.cpp does."""
    good = samples(2)
    corpus = []
    for i, (data, marks) in enumerate(good):
        for at, width in marks:
            number = int.from_bytes(data[at : at + width], "little")
            for edge in sorted({0, 1, 2, 3, number - 1, number + 1, 256**width - 1, 256**width // 2} - {number, -1}):
                bad = data[:at] + (edge % 256**width).to_bytes(width, "little") + data[at + width :]
                corpus.append([bad if j == i else d for j, (d, _) in enumerate(good)])
    both, neither = judged_alike(tmp_path, corpus)
    assert both >= 4
    assert neither > 200


def judged_alike(tmp_path, corpus):
    """Every list of shards through both: how many opened, how many did not."""
    paths = [write_samples(tmp_path / str(i), model) for i, model in enumerate(corpus)]
    counts = [0, 0]
    for path, theirs in zip(paths, verdicts(paths), strict=True):
        try:
            open_gguf(path)
            opened = True
        except GGUFError as e:
            opened, message = False, str(e)
        if opened != (theirs != "crash" and theirs["opens"]):
            assert not opened, (path, theirs)
            assert "is not UTF-8" in message, (path, message, theirs)
            continue
        counts[not opened] += 1
    return counts


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(3))
def test_random_damage_to_shards_is_judged_alike(tmp_path, seed):
    """One to three bytes of the headers of two shards."""
    rng = np.random.default_rng(seed)
    good = [data for data, _ in samples(2)]
    corpus = []
    for _ in range(1000):
        model = [bytearray(data) for data in good]
        for _ in range(rng.integers(1, 4)):
            data = model[rng.integers(2)]
            data[rng.integers(len(data) - 128)] = rng.choice([0, 1, 255, rng.integers(256)])
        corpus.append([bytes(data) for data in model])
    both, neither = judged_alike(tmp_path, corpus)
    assert min(both, neither) > 100


def test_the_samples_are_what_they_are_meant_to_be(tmp_path):
    f = open_gguf(write_samples(tmp_path, [data for data, _ in samples(3)]))
    assert list(f.tensors) == [f"blk.{i}.t{j}" for i in range(3) for j in range(2)]
    assert f.tensors["blk.2.t0"].raw.view("<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert shards.samples(3) == samples(3)
