"""What the pages show works: their command lines and their Python run, in order, one folder a page.

The files that pages name (model.gguf, corpus.txt ...) are small ones made here. A shape in the comment behind an
expression, `# (2, 384)`, is checked; so is a string. What needs an optional package runs with `make test-peers`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from conformance.__main__ import main as conformance_command
from refembed import Embedder
from refembed.convert import convert
from refembed.hub.cache import cache_folder
from refembed.testing.synthetic import synthetic
from refembed.testing.synthetic_mmproj import synthetic_mmproj
from tests.cli.conftest import Cli, cli
from tests.colbert_folders import build, records
from tests.copies import copied
from tests.llama_embedding_cases import WITH_EOS
from tests.pngs import png
from tests.pooling.test_rerank import HEAD
from tests.server.servers import refembed

pytestmark = pytest.mark.system

__all__ = ["cli"]  # a fixture

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md", "docs/server.md", "docs/embed.md", "docs/compat.md", "docs/compress.md", "docs/corpus.md",
    "docs/differences.md", "docs/tokenizers.md", "docs/explain.md", "docs/command-line.md", "docs/images.md",
    "docs/evaluate.md", "docs/recipes.md", "docs/scale.md", "docs/index.md", "docs/engine/after-an-upgrade.md",
    "docs/upgrade.md",
)  # fmt: skip
ELSEWHERE = {  # pages whose blocks another test runs
    "docs/start.md": "tests/test_start.py",
    "docs/engine/ollama-and-llama-server.md": "tests/test_engine_pages.py",
    "docs/engine/onnx-export.md": "tests/test_engine_pages.py",
    "docs/is-my-engine-right.md": "tests/test_engine_pages.py",
    "docs/security.md": "`make test-attack`, by hand",
    "docs/gpu.md": "needs a GPU",
}

SKIPPED = {  # how a line or a block begins -> why it is not run
    "make ": "installs and runs everything",
    ". .venv/bin/activate": "belongs to `make demo`",
    "pip ": "needs a package index",
    "refembed embed -m OWNER/REPO": "needs a hub: tests/hub",
    "refembed embed --device cuda": "needs a GPU: tests/cli/test_device.py",
    "refembed history model.gguf": "needs two packages of llama.cpp: tests/cli/test_history.py",
    "refembed verify old.jsonl": "needs two engines: tests/cli/test_verify_upgrade.py",
    "refembed verify http://old": "likewise",
    "refembed verify old.npy": "likewise",
    "refembed verify llamacpp:old.whl": "likewise",
    "refembed verify model.gguf --against": "takes too long here: test_the_readme_as_it_stands",
    "refembed verify minilm --against": "likewise: tests/test_engine_pages.py",
    "refembed 0.": "a line that verify prints",
    "python examples/embed_": "needs an engine: tests/peers/test_engines.py",
    "spark-submit ": "likewise",
    "uvx ": "needs a package index",
    "pipx ": "likewise",
    "refembed explain --serve": "runs until it is interrupted: tests/playground",
    "kill $!": "the servers here end with the page",
    "refembed tokenize -m model.gguf --compare http": "likewise: tests/tokenizer",
    "import mteb": "fetches a task: tests/peers/test_compat_mteb.py",
    "python -m conformance": "the whole suite: tests/conformance/test_engine_live.py",
    "# test_mine.py": "for an engine that is not here: tests/testing",
}
ENGINE = "http://localhost:8080"  # in Python: a server that is started for it
NEEDS = {  # what a line or a block has in it -> the optional package it needs
    "--compare tokenizer.json": "tokenizers",
    "--engine ray": "ray",
    ".parquet": "pyarrow",
    "langchain_core": "langchain_core",
    "llama_index": "llama_index",
    "chromadb": "chromadb",
    "haystack": "haystack",
    "mteb": "mteb",
    "import faiss": "faiss",
    "import apsw": "apsw",
    "import sqlite_vec": "sqlite_vec",
    "import lancedb": "lancedb",
    "from sklearn": "sklearn",
    "photo.png": "PIL",
}
EXIT = {  # how a line begins that does not end with 0
    "refembed diff a.npz b.npz  ": 3,  # they differ
    "refembed diff a.npz b.npz ||": 3,  # likewise
    "refembed tokenize -m model.gguf --compare tokenizer.json": 3,  # of another model here
}


class Block(NamedTuple):
    """A fenced block."""

    page: str
    line: int  # of its first line
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text[: match.start(2)].count("\n") + 1, match[1], match[2])


def furnish(page: str, folder: Path, tiny: Path, minilm: Path, minilm_folder: Path) -> None:
    """The files that pages name."""
    if page != "README.md":  # whose lines make it
        (folder / "model.gguf").symlink_to(tiny)
    copied(tiny, folder / "e5.gguf", {"general.name": ("e5-base-v2", "STRING")})
    copied(synthetic(folder / "r.gguf", "bert", pooling=4, optional=HEAD), folder / "reranker.gguf", WITH_EOS)
    synthetic(folder / "gemma.gguf", "gemma3", pooling=1)
    synthetic(folder / "text.gguf", "gemma-embedding", pooling=1)
    synthetic_mmproj(folder / "mmproj.gguf")
    (folder / "photo.png").write_bytes(png(2, 2, 8, 2, b"\0\1\2\3\4\5\6" * 2))
    (folder / "other.gguf").symlink_to(tiny)
    (folder / "all-MiniLM-L6-v2").symlink_to(minilm_folder)
    (folder / "tokenizer.json").symlink_to(minilm_folder / "tokenizer.json")
    lines = [f"the cat sat on mat {i}" for i in range(150)]
    (folder / "corpus.txt").write_text("\n".join(lines))
    for name in ("texts.txt", "t.txt", "docs.txt"):
        (folder / name).write_text("hello world\nthe cat\n")
    (folder / "texts").mkdir()
    (folder / "texts/a.jsonl").write_text(
        "".join(json.dumps({"id": i, "text": line}) + "\n" for i, line in enumerate(lines))
    )
    heads = {"refembed.sparse.kind": ("token", "STRING")} | {
        f"refembed.sparse.{name}": ([0.1] * n, "ARRAY[FLOAT32]") for name, n in (("weight", 32), ("bias", 1))
    }
    copied(tiny, folder / "sparse.gguf", heads)
    colbert = build(records()["modern-bert"], folder / "GTE-ModernColBERT-v1")
    convert(colbert, folder / "colbert.gguf", heads=True, say=lambda _: None)
    (folder / "report.txt").write_text(
        "\n\n".join(" ".join(f"{line}." for line in lines[i : i + 5]) for i in range(0, 150, 5))
    )
    (folder / "letter.txt").write_text("hello world. the cat sat on a mat. a dog embed ing it.")
    for name in ("queries", "corpus"):
        rows = [json.dumps({"_id": f"{name[0]}{i}", "text": line}) for i, line in enumerate(lines[:20])]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "qrels.tsv").write_text("".join(f"q{i}\tc{i}\t1\n" for i in range(20)))
    (folder / "pairs.tsv").write_text("".join(f"{line}\t{lines[0]}\t{i}\n" for i, line in enumerate(lines[:9])))
    (folder / "ids.txt").write_text("\n".join(f"id-{i}" for i in range(150)))
    for name, count in (("corpus.npy", 150), ("queries.npy", 20)):
        np.save(folder / name, np.random.default_rng(count).standard_normal((count, 384), np.float32))
    for name, text in (("a", "hello"), ("b", "the cat")):
        Embedder.load(tiny, numerics="exact").trace(text).save(folder / f"{name}.npz")
    (cache := folder / "cache").mkdir()
    for part in ("gguf", "models"):
        (cache / part).symlink_to(cache_folder() / part)


def names(folder: Path) -> dict[str, Any]:
    """What the Python of the pages takes for granted."""
    corpus = np.random.default_rng(3).standard_normal((150, 32), np.float32)
    return {
        "__name__": "page", "np": np, "corpus": corpus, "queries": corpus[:5], "D": 32,
        "embedder": Embedder.load(folder / "other.gguf"), "lines": ["hello", "the cat"], "ids": ["1", "2"],
        "cache": None, "letter": (folder / "letter.txt").read_text(),
    }  # fmt: skip


def run_python(block: Block, space: dict[str, Any]) -> None:
    """Each statement; what an expression gives is what the comment behind it says."""
    lines, where = block.text.splitlines(), f"{block.page}:{block.line}"
    for node in ast.parse(block.text).body:
        code = ast.get_source_segment(block.text, node)
        comment = lines[(node.end_lineno or 1) - 1].rpartition("  # ")[2]
        try:
            if isinstance(node, ast.Expr):
                check(eval(compile(ast.Expression(node.value), where, "eval"), space), comment, space)
            else:
                exec(compile(ast.Module([node], []), where, "exec"), space)
        except Exception as e:
            raise AssertionError(f"{where}: {code}: {type(e).__name__}: {e}") from e


def check(found: Any, comment: str, sizes: Mapping[str, Any]) -> None:
    """A comment that begins with a shape or a string says what was found; letters are sizes that are not given."""
    if match := re.match(r"\(([\w ,]+?),?\)( float32)?(?=$|[ :,])", comment):
        wanted = [int(n) if n.isdigit() else sizes.get(n) for n in re.split(r",\s*", match[1])]
        assert len(found.shape) == len(wanted), f"{found.shape}, not {comment}"
        assert all(w in (None, n) for n, w in zip(found.shape, wanted, strict=True)), f"{found.shape}, not {comment}"
        assert found.dtype == np.float32 if match[2] else True
    elif comment.startswith('"'):
        assert found == ast.literal_eval(comment)


def run_line(line: str, call: Cli, servers: ExitStack, state: dict[str, str]) -> None:
    """A command line: it ends as EXIT says."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["refembed", "serve"]:
        words = [word for word in words if word != "&"]
        state["address"] = servers.enter_context(refembed(*words[2:], "--port", "0")).address
    elif words[0] == "curl":
        url = next(word for word in words if word.startswith("http")).replace("http://127.0.0.1:8080", state["address"])
        data = words[words.index("-d") + 1].encode() if "-d" in words else None
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
            assert json.load(answer)
    elif words[0] == "seq":
        subprocess.run(["bash", "-c", line], check=True)
    else:
        assert words[0] == "refembed", line
        words = words[: words.index("||")] if "||" in words else words
        r = call(*words[1:], stdin=b"hello\n")
        expected = next((code for start, code in EXIT.items() if line.startswith(start)), 0)
        assert r.code == expected, f"{line}\n{r.err}"


def walk(page: str, call: Cli, folder: Path, *, extras: bool) -> int:
    """Run a page; how many lines and blocks of it were run. extras: what needs optional packages too."""
    space, state, count = names(folder), {}, 0
    with ExitStack() as servers:
        for block in blocks(page):
            if block.language == "python":
                pieces = [block.text]
            else:
                commands = r"\S" if block.language == "sh" else "refembed|curl|pip"  # "text" may be anything
                pieces = [line for line in block.text.splitlines() if re.match(commands, line)]
            for piece in pieces:
                needed = [package for sign, package in NEEDS.items() if sign in piece]
                if piece.startswith(tuple(SKIPPED)) or (needed and not extras):
                    continue
                assert all(map(importlib.util.find_spec, needed)), f"{page}: {needed} not installed"
                if block.language == "python":
                    if ENGINE in piece:
                        address = servers.enter_context(refembed("-m", "model.gguf", "--port", "0")).address
                        block = block._replace(text=piece.replace(ENGINE, address))
                    run_python(block, space)
                else:
                    run_line(piece, call, servers, state)
                count += 1
    return count


@pytest.fixture
def folder(
    page: str, tiny: Path, minilm: Path, minilm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    furnish(page, tmp_path, tiny, minilm, minilm_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_page_shows_works(page: str, cli: Cli, folder: Path) -> None:  # likewise
    assert walk(page, cli, folder, extras=False)


@pytest.mark.peers
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("ignore")
def test_what_a_page_shows_works_with_optional_packages(page: str, cli: Cli, folder: Path) -> None:  # likewise
    assert walk(page, cli, folder, extras=True)


@pytest.mark.parametrize("sign", [*SKIPPED, *NEEDS, *EXIT])
def test_what_is_left_out_is_on_a_page(sign: str) -> None:
    assert any(sign in block.text for page in PAGES for block in blocks(page))


def test_every_page_with_something_to_run_is_run() -> None:
    """By this file, or by the one that ELSEWHERE names. Lessons (docs/course) are run while the site is made."""
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = ("docs/build/", "docs/made/", "docs/course/", "docs/decisions/")
    runnable = {
        page
        for page in pages
        if not page.startswith(made) and any(block.language in ("sh", "python") for block in blocks(page))
    }
    assert runnable - {*PAGES, *ELSEWHERE} == set()
    assert ELSEWHERE.keys() <= runnable


@pytest.mark.slow
def test_the_readme_as_it_stands(minilm_folder: Path, tmp_path: Path) -> None:
    """The block of README.md that promises it, in an empty folder, by a shell, line by line; on a port of its own."""
    block = next(b for b in blocks("README.md") if "seq 200" in b.text)
    lines = [f"{line}\n[ $? = 0 ] || echo FAILED: {shlex.quote(line)} >&2\n" for line in block.text.splitlines()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "".join(lines).replace("8080", "18080")], cwd=tmp_path, env={**os.environ, "PATH": path},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert "FAILED" not in done.stderr
    assert (tmp_path / "page.html").exists()


def test_what_contributors_read_names_files_and_commands_that_are_there() -> None:
    """Paths in back quotes, links, make targets and the subcommands of `python -m conformance`."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(conformance_command.commands)
    for page in ("CONTRIBUTING.md", "SECURITY.md", "README.md", "docs/security.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        paths = re.findall(r"`((?:refembed|tests|conformance|docs|examples)/[\w./-]+)`", text)
        paths += re.findall(r"\]\(([^)#:]+)\)", text)
        here = (ROOT / page).parent
        assert [path for path in paths if not (ROOT / path).exists() and not (here / path).exists()] == [], page
        assert set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)", text)) - targets <= {"it"}, page
        assert set(re.findall(r"python -m conformance ([a-z-]+)", text)) <= commands, page
        modules = re.findall(r"python -m (tests(?:\.[a-z_]+)+)", text)
        assert [name for name in modules if importlib.util.find_spec(name) is None] == [], page
