"""Command lines with mistakes, of every verb and kind: one clear sentence, the right exit code, nothing on stdout."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from refembed.compress.file import compress, save
from refembed.compress.schemes import fit
from refembed.gguf import GGUFWriter, open_gguf
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from tests.cli.conftest import Cli
from tests.copies import copied
from tests.llama_embedding_cases import WITH_EOS
from tests.pooling.test_rerank import HEAD

RUBBISH = bytes(range(7, 256)) * 20


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files, and files that are not what their names say."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "m.gguf").symlink_to(tiny)
    copied(synthetic(folder / "r0.gguf", "bert", pooling=4, optional=HEAD), folder / "r.gguf", WITH_EOS)
    x = np.random.default_rng(0).standard_normal((120, 16), np.float32)
    nan, infinite = x.copy(), x.copy()
    nan[3, 4], infinite[0, 1] = np.nan, np.inf
    arrays = {
        "v": x, "nan": nan, "inf": infinite, "one": x[0], "none": x[:0], "few": x[:5], "zero": np.zeros_like(x),
        "complex": x.astype(complex), "words": np.array([["a", "b"]]), "flat": x[:, :0],
        "large": x.astype(float) * 1e39,
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    save(folder / "v.npz", compress(fit("int8", x), x))
    np.savez(folder / "other.npz", a=x)
    tokenizer = open_gguf(tiny).metadata
    for name, but in (("vocab", ()), ("no-tensors", ("tokenizer.ggml.tokens",))):
        w = GGUFWriter(None)
        w.copy_keys(tokenizer, but)
        w.write(folder / f"{name}.gguf")
    whole = {
        "cut.npy": (folder / "v.npy").read_bytes()[:500], "cut.npz": (folder / "v.npz").read_bytes()[:500],
        "cut.gguf": tiny.read_bytes()[:30000], "rubbish": RUBBISH, "rubbish.npy": b"\x93NUMPY\x01\x00" + RUBBISH,
        "rubbish.npz": b"PK\x03\x04" + RUBBISH, "rubbish.gguf": b"GGUF" + RUBBISH, "empty": b"",
        "t.txt": b"hello\ncat\n", "key.txt": b"a\n", "long.txt": b"hello " * 200, "utf16.txt": "hé".encode("utf-16"),
        "q.tsv": b"x\tcat\ny\tdog\n", "r.tsv": b"x\ty\t1\n", "bad.tsv": b"x\ty\t1\nx\tz\t1\n",
    }  # fmt: skip
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    synthetic(folder / "tt.gguf", "gemma-embedding", pooling=1)
    synthetic_mmproj(folder / "tower.gguf")
    return folder


EMBED = """
1 -f nosuch.txt                                    | nosuch.txt: no such file
1 -f folder                                        | folder: a folder
1 -f empty                                         | empty: there are no texts in it
1 -f rubbish                                       | but the model reads at most 64
1 -f utf16.txt                                     | this is UTF-16, not UTF-8
1 -f t.txt a                                       | Give texts as arguments or with --file, not both
2 -m nosuch.gguf a                                 | nosuch.gguf: no such file
2 -m folder a                                      | folder: a folder without config.json
2 -m cut.gguf a                                    | its data is not within the file
2 -m rubbish.gguf a                                | reading version
2 -m vocab.gguf a                                  | vocab.gguf: a vocabulary alone: it has a tokenizer and no weights
2 -m no-tensors.gguf a                             | no-tensors.gguf: no tensors in it
2 -m rubbish a                                     | not b'GGUF'
2 -m empty a                                       | an empty file
2 -m '' a                                          | (nothing): no such file
1 a --dimensions 0                                 | not in the range
1 a --dimensions 99999999999                       | the model's vectors have 32 numbers
1 a --dimensions nan                               | 'nan' is not a valid integer
1 a --normalize=nan                                | 'nan' is neither a whole number
1 a --normalize -5                                 | '-5' is neither a whole number
1 a --normalize 2.5 b                              | '2.5' is neither a whole number
1 --normalize nan b                                | 'nan' is neither a whole number
1 --normalize L3 b                                 | 'L3' is neither a whole number
1 a --normalize=99999999999                        | '99999999999' is neither a whole number
1 a --pooling 1                                    | pooling '1': there is no such pooling
1 a --pooling                                      | Option '--pooling' requires an argument
1 a --pooling nosuch                               | there is no such pooling
1 a --pooling rank                                 | needs a classifier head
1 a --nosuch                                       | No such option '--nosuch'
1 a --batch-tokens -1                              | not in the range
1 a --memory-budget -1                             | '-1' is neither a number of MiB nor mapped
1 a --prompt-name query                            | not known to have prompts
1 a --prompt-name query --prefix x                 | Give --prompt-name or --prefix, not both
1 a -o folder                                      | folder: cannot be written: Is a directory
1 a -o nosuch/x.npy                                | nosuch/x.npy: cannot be written: No such file
1 a -o ''                                          | a file without a name: cannot be written
1 a --json --format csv                            | Give --json or --format, not both
1 a b --compare --format npy                       | --compare prints text or json, not npy
1 a --compare                                      | --compare takes two texts, not one
1 a --resume                                       | need --output FILE
1 a --resume -o x.txt                              | need --output FILE
1 a --resume -o x.jsonl --format npy               | --format npy does not go with it
1 a --resume -o nosuch/x.jsonl                     | its folder does not exist
1 a --resume -o x.npy --pooling none               | a corpus has one row a text
1 -f long.txt --resume -o x.npy                    | but the model reads at most 64
1 a -o x.jsonl --keys nosuch                       | --keys nosuch: No such file
1 a -o x.jsonl --keys folder                       | --keys folder: Is a directory
1 a -o x.jsonl --keys rubbish                      | --keys rubbish: not UTF-8
1 a b -o x.jsonl --keys key.txt                    | there is no key for it
1 a --cache-file folder                            | cache folder: unable to open
1 a --cache-file rubbish                           | rubbish: not a cache of refembed; it is left as it is
1 a --image x.png                                    | --image needs --mmproj FILE
1 a b --image x.png --mmproj m.gguf                  | --image goes with one TEXT or none
1 -f t.txt --image x.png --mmproj m.gguf             | --image goes with one TEXT or none
2 a --image x.png --mmproj nosuch                    | nosuch: reading magic
2 a --image x.png --mmproj m.gguf                    | general.architecture is 'bert', not 'clip': no vision tower
1 -m tt.gguf a --image nosuch.png --mmproj tower.gguf  | image: 'nosuch.png': no such file
1 -m tt.gguf a --image folder --mmproj tower.gguf    | image: 'folder': Is a directory
1 -m tt.gguf a --image large.npy --mmproj tower.gguf | an array of shape (120, 16) and type float64
1 -m tt.gguf a --image cut.npy --mmproj tower.gguf   | no array in it: an array of (120, 16) is not in 500 bytes
1 -m tt.gguf a --image rubbish.npy --mmproj tower.gguf  | no array in it
2 -m m.gguf a --image cut.npy --mmproj tower.gguf    | architecture bert with images is not computed yet
1 a --lora nosuch                                  | lora nosuch: no such file
1 a --lora m.gguf:nan                              | a scale must be finite
2 a --lora m.gguf                                  | not 'adapter'
1 a --profile avx2                                 | only --numerics ggml has a choice there
1 a --numerics ggml --semantics original           | cannot be had in numerics 'ggml'
1 a --device nosuch                                | 'nosuch' is none of cpu, cuda, cuda:N
1 a --device cuda:                                 | 'cuda:' is none of cpu, cuda, cuda:N
1 a --device cuda:-1                               | 'cuda:-1' is none of cpu, cuda, cuda:N
1 a --device cuda --numerics fast                  | --device: --numerics fast has no choice there
1 a --device cpu --numerics cupy                   | --device: --numerics cupy has no choice there
1 a --precision bf16                               | --precision: --numerics auto has no choice there
1 a --precision bf16 --numerics fast               | --precision: --numerics fast has no choice there
1 a --device cuda --precision half                 | 'half' is not one of 'float32', 'tf32', 'fp16', 'bf16'
1 -p a -f t.txt                                    | Give one of --prompt, --file and --binary-file
1 -bf folder                                       | folder: a folder
1 -p a -b 0                                        | not in the range
1 -p a --embd-output-format nosuch                 | 'nosuch' is not one of
"""
RERANK = """
1                                                  | Missing argument 'QUERY'
1 q                                                | standard input: there are no texts in it
1 q d --score nosuch                               | 'nosuch' is not one of 'raw', 'sigmoid'
1 q d --score sigmoid --top-n 0                    | not in the range
1 q d --score sigmoid --top-n nan                  | 'nan' is not a valid integer
1 q d -m m.gguf --score sigmoid                    | needs a classifier head
1 q d -f t.txt                                     | Give texts as arguments or with --file, not both
1 q -f nosuch                                      | nosuch: no such file
1 q -f folder                                      | folder: a folder
1 q -f empty                                       | empty: there are no texts in it
1 q -f long.txt                                    | but the model reads at most 128
2 q d -m rubbish                                   | not b'GGUF'
"""
COMPRESS = """
1                                                  | Give a FILE, or --report
1 nosuch.npy                                       | nosuch.npy: no such file
1 folder                                           | folder: Is a directory
1 v.npy                                            | v.npy: not compressed vectors
1 cut.npz                                          | cut.npz: not compressed vectors, or damaged
1 rubbish.npz                                      | rubbish.npz: not compressed vectors, or damaged
1 other.npz                                        | other.npz: not compressed vectors, or damaged
1 --report nosuch.npy                              | nosuch.npy: No such file
1 --report folder                                  | folder: Is a directory
1 --report nan.npy                                 | vector 3, number 4 is nan
1 --report inf.npy                                 | vector 0, number 1 is inf
1 --report large.npy                               | not a number that float32 holds
1 --report one.npy                                 | float32 of shape (16,), not vectors (N, D)
1 --report words.npy                               | not vectors (N, D)
1 --report complex.npy                             | complex128 of shape (120, 16), not vectors (N, D)
1 --report flat.npy                                | these are not vectors
1 --report none.npy                                | 0 vectors: too few
1 --report few.npy                                 | 5 vectors: too few
1 --report zero.npy                                | vector 0 is zero
1 --report cut.npy                                 | cut.npy: not an array of numbers
1 --report rubbish.npy                             | rubbish.npy: not an array of numbers
1 --report empty -m m.gguf                         | empty: there are no texts in it
1 --report v.npy --out x                           | takes neither --decode nor --out
1 --report v.npy --seed -1                         | not in the range
1 --report v.npy --multiplier 0                    | not in the range
1 --report --sentences 99999999999                 | not in the range
1 v.npy --to nosuch --out x                        | 'nosuch' is not a scheme
1 v.npy --to pq:7 --out x                          | do not divide into 7 parts
1 v.npy --to pq:-1 --out x                         | '-1' is not a whole number
1 v.npy --to matryoshka:99 --out x                 | the vectors have 16 numbers
1 v.npy --to matryoshka:nan --out x                | 'nan' is not a whole number
1 v.npy --to int8                                  | --out FILE says where to write
1 v.npy --to int8 --out folder                     | folder: cannot be written
1 v.npy --to int8 --calibrate one.npy --out x      | not vectors (N, D)
1 nan.npy --to int8 --out x                        | vector 3, number 4 is nan
1 v.npz --decode                                   | --out FILE says where to write
1 v.npz --decode --to int8 --out x                 | give one of the two
"""
CACHE = """
1 info nosuch                                      | nosuch: there is no cache
1 info folder                                      | cache folder: unable to open
1 info rubbish                                     | rubbish: not a cache of refembed; it is left as it is
1 clear t.txt                                      | t.txt: not a cache of refembed; it is left as it is
1 nosuch                                           | 'nosuch' is not one of 'info', 'clear', 'prune'
1 prune --limit -5                                 | '-5' is no size
1 prune --limit nan                                | 'nan' is no size
1 prune --limit 0                                  | '0' is no size
1 info rubbish more                                | unexpected extra argument
"""
OTHERS = """
2 info rubbish.gguf                                | reading version
2 doctor folder                                    | folder: a folder without config.json
1 tokenize -m m.gguf -f folder                     | folder: a folder
1 detokenize -m m.gguf nan                         | 'nan' is not a token id
1 detokenize -m m.gguf 99999999999999999999        | is not a token id
1 serve -m m.gguf --port 99999                     | not in the range
1 serve -m m.gguf --embd-normalize -3              | '-3' is neither a whole number
1 serve -m m.gguf --embd-normalize 2.5             | '2.5' is neither a whole number
1 serve -m m.gguf --host nosuch.invalid --port 0   | cannot listen on nosuch.invalid
1 serve -m m.gguf -hff x.gguf                      | --hf-file x.gguf: of which repository?
1 embed llama3.2:1b hello                          | 'llama3.2:1b' looks like a model
1 tokenize nosuch.gguf hello                       | 'nosuch.gguf' looks like a model
1 trace BAAI/bge-m3 hello                          | 'BAAI/bge-m3' looks like a model
1 explain nomic-embed-text hello                   | 'nomic-embed-text' looks like a model
1 rerank qwen3-reranker:0.6b q d                   | 'qwen3-reranker:0.6b' looks like a model
1 rerank q d                                       | Missing option '-m' / '--model'
1 doctor                                           | Missing argument 'MODEL'
1 doctor m.gguf -m m.gguf                          | Give the model once
2 convert nosuch                                   | nosuch: no such folder
2 convert m.gguf                                   | m.gguf: a file, not a folder
1 serve -m m.gguf --pooling nosuch                 | there is no such pooling
1 serve -m m.gguf --override-kv a=b                | No such option '--override-kv'
1 serve -m m.gguf --api-key-file nosuch            | --api-key-file nosuch: No such file
1 serve -m m.gguf --api-key-file folder            | --api-key-file folder: Is a directory
1 serve -m m.gguf --api-key-file rubbish           | --api-key-file rubbish: not UTF-8
1 serve -m m.gguf --api-key-file empty             | empty: no API keys in it
1 serve -m m.gguf --ssl-key-file empty             | go together
1 serve -m m.gguf --port 0 --ssl-key-file empty --ssl-cert-file empty | --ssl-cert-file empty: [SSL]
1 nosuch                                           | No such command 'nosuch'
"""
EVALUATE = """
1                                                  | Give --queries, --corpus and --qrels, or --sts
1 --sts nosuch.txt                                 | nosuch.txt: No such file
1 --sts folder                                     | folder: Is a directory
1 --sts empty                                      | empty: the pairs are empty
1 --sts rubbish                                    | rubbish: not UTF-8
1 --sts utf16.txt                                  | utf16.txt: not UTF-8
1 --sts t.txt                                      | lines that are no pair with a score: 2 (1, 2)
1 --sts t.txt --qrels t.txt                        | --sts takes the place of queries
1 --sts t.txt --vectors nosuch                     | 'nosuch' is not a scheme
1 --sts t.txt --vectors matryoshka                 | 'matryoshka': how many?
1 --sts t.txt --dimensions 0                       | not in the range
1 --sts t.txt --resamples 0                        | not in the range
1 --sts t.txt --prompts nosuch                     | 'nosuch' is not one of
1 --queries t.txt --corpus t.txt                   | Give --queries, --corpus and --qrels, or --sts
1 --queries t.txt --corpus t.txt --qrels t.txt     | t.txt, line 1: neither a JSON object nor an id and a text
1 --queries q.tsv --corpus empty --qrels t.txt     | empty: the corpus is empty
1 --queries q.tsv --corpus q.tsv --qrels key.txt   | not a judgement
1 --queries q.tsv --corpus q.tsv --qrels bad.tsv   | the qrels name documents that are not there: 1 of 2 (z)
1 --queries q.tsv --corpus q.tsv --qrels r.tsv --measure f1    | 'f1' is not a measure
1 --queries q.tsv --corpus q.tsv --qrels r.tsv --weights q9    | 'q9' is no type of model file
1 --queries q.tsv --corpus q.tsv --qrels r.tsv --dimensions 33 | the model's vectors have 32 numbers
1 --queries q.tsv --corpus q.tsv --qrels r.tsv --pooling none  | pooling none gives no vector a text
1 --queries q.tsv --corpus q.tsv --qrels r.tsv --prompts own   | not known to have prompts
2 --queries q.tsv --corpus q.tsv --qrels r.tsv -m nosuch.gguf  | nosuch.gguf: no such file
"""
CHUNK = """
1                                                  | Missing argument 'FILE'
1 nosuch.txt                                       | nosuch.txt: No such file
1 folder                                           | folder: Is a directory
1 rubbish                                          | rubbish: not UTF-8
1 t.txt --tokens 0                                 | not in the range
1 t.txt --tokens 2                                 | more than a chunk's 2
1 t.txt --tokens 4 --overlap 4                     | chunks of 4 tokens with 4 repeated
1 t.txt --by line                                  | 'line' is not one of
1 t.txt --late --prefix a                          | no piece has a prefix
1 long.txt --late                                  | but the model reads at most 64
2 t.txt -m nosuch.gguf                             | nosuch.gguf: no such file
2 t.txt -m rubbish                                 | not b'GGUF'
"""


def cases() -> list[tuple[str, int, str]]:
    """(command line, exit code, what is said)"""
    found = []
    for first, lines in (
        ("embed -m m.gguf", EMBED), ("rerank -m r.gguf", RERANK), ("compress", COMPRESS), ("cache", CACHE),
        ("evaluate -m m.gguf", EVALUATE), ("chunk -m m.gguf", CHUNK), ("", OTHERS),
    ):  # fmt: skip
        for line in lines.strip().splitlines():
            left, _, said = line.partition("|")
            code, _, args = left.strip().partition(" ")
            found.append((f"{first} {args}".strip(), int(code), said.strip()))
    return found


@pytest.mark.parametrize(("line", "code", "said"), cases(), ids=lambda x: x if isinstance(x, str) else "")
def test_a_mistake_is_one_sentence(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, said: str
) -> None:
    monkeypatch.chdir(folder)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    r = cli(*shlex.split(line))
    assert (r.code, r.raw) == (code, b""), r.err
    assert r.err.count("error: ") == 1
    error = r.err[r.err.index("error: ") :].splitlines()
    assert said in error[0]
    assert len(error) <= 2, "a sentence and a hint"
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before, "files are as they were"
