"""The runs of `refembed verify` that the pages "Is my engine right?" show.

    python -m tests.engine_runs --write [NAME ...]

An engine is real, or a real one with a fault planted in front of it or in its file; what `verify` prints of it stands
on the page between `<!-- run: NAME -->` and `<!-- end of run -->`. `tests/test_engine_pages.py` runs them again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from refembed.cli import run as command_line
from refembed.hub import resolve, source_folder
from tests.copies import copied
from tests.llama_server import llama_server
from tests.verify.engines.stand_in import Answer, stand_in

DOCS = Path(__file__).parents[1] / "docs" / "engine"
LLAMA_SERVER, OLLAMA = "http://127.0.0.1:8080", "http://127.0.0.1:11434"  # as pages name them
ROWS = 4  # texts of a report that a page shows


class Run(NamedTuple):
    """One run on a page."""

    page: str
    arguments: str  # of `refembed verify`, as the page shows them
    engine: Callable[[Path], contextlib.AbstractContextManager[dict[str, str]]]  # what stands for what in them
    needs: str = ""  # a package


@contextlib.contextmanager
def server(folder: Path, pooling: str = "mean", model: Path | None = None, **params: Any) -> Iterator[dict[str, str]]:
    """A real llama-server."""
    with llama_server(model or resolve("minilm"), pooling, **params) as url:
        yield {LLAMA_SERVER: url}


@contextlib.contextmanager
def ollama(folder: Path, change: Callable[[str], str]) -> Iterator[dict[str, str]]:
    """Ollama's routes in front of a real llama-server, with something done to each text on the way."""
    with llama_server(resolve("minilm"), "mean") as url:

        def embed(body: Any) -> Answer:
            texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
            content = json.dumps({"input": [change(text) for text in texts]}).encode()
            with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/embeddings", content)) as answer:
                found = json.load(answer)
            return Answer({"model": body["model"], "embeddings": [row["embedding"] for row in found["data"]]})

        with stand_in({"GET /api/version": {"version": "0.20.0"}, "POST /api/embed": embed}) as made:
            yield {OLLAMA: made.url}


@contextlib.contextmanager
def reconverted(folder: Path) -> Iterator[dict[str, str]]:
    """A llama-server with a file that a converter of another version has made: its epsilon is another one."""
    other = copied(resolve("minilm"), folder / "new.gguf", {"bert.attention.layer_norm_epsilon": (1e-3, "FLOAT32")})
    with server(folder, model=other) as found:
        yield found


@contextlib.contextmanager
def exported(folder: Path, **changes: Any) -> Iterator[dict[str, str]]:
    """MiniLM as PyTorch exports it, pooled; changes: of its config, or pads=True: padding is pooled and attended to."""
    import torch
    from transformers import AutoModel

    pads = changes.pop("pads", False)

    class Pooled(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(
                str(source_folder("minilm")), attn_implementation="eager", local_files_only=True, **changes
            )

        def forward(self, ids: Any, mask: Any, segments: Any) -> Any:
            x = self.bert(input_ids=ids, attention_mask=mask, token_type_ids=segments).last_hidden_state
            if pads:
                return x.mean(1)
            weight = mask.unsqueeze(-1).float()
            return (x * weight).sum(1) / weight.sum(1)

    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.tensor([[101, 7592, 1010, 102], [101, 1037, 102, 0]])
    axes = {n: {0: "texts", 1: "tokens"} for n in names} | {"sentence_embedding": {0: "texts"}}
    file = folder / "model.onnx"
    torch.onnx.export(
        Pooled().eval(), (ids, (ids != 0).long(), torch.zeros_like(ids)), str(file),
        input_names=names, output_names=["sentence_embedding"], dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    yield {"model.onnx": str(file)}


@contextlib.contextmanager
def function(folder: Path) -> Iterator[dict[str, str]]:
    """The Python function that the page has."""
    found = re.search(r"```python\n(.*?)```", (DOCS / RUNS["function"].page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (folder / "my_engine.py").write_text(found[1], encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield {}
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("my_engine", None)


RUNS = {
    "function": Run("../is-my-engine-right.md", "minilm --against my_engine:embed", function),
    "llama-server": Run("ollama-and-llama-server.md", f"minilm --against {LLAMA_SERVER}", server),
    "pooling": Run(
        "ollama-and-llama-server.md", f"minilm --against {LLAMA_SERVER}", lambda folder: server(folder, "cls")
    ),
    "ollama": Run(
        "ollama-and-llama-server.md", f"minilm --against {OLLAMA} --model-name all-minilm",
        lambda folder: ollama(folder, lambda text: f"search_query: {text}"),
    ),
    "onnx": Run("onnx-export.md", "minilm --against model.onnx", exported, "onnxruntime"),
    "onnx-epsilon": Run(
        "onnx-export.md", "minilm --against model.onnx --budget 600",
        lambda folder: exported(folder, layer_norm_eps=1e-3), "onnxruntime",
    ),
    "before": Run(
        "after-an-upgrade.md", f"minilm --against {LLAMA_SERVER}",
        lambda folder: server(folder, flash_attn="enabled", n_threads=2),
    ),
    "after": Run("after-an-upgrade.md", f"minilm --against {LLAMA_SERVER}", reconverted),
}  # fmt: skip


def printed(name: str) -> str:
    """What `refembed verify` prints in that run, with the names that the page has for servers and files."""
    run = RUNS[name]
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, run.engine(Path(folder)) as names:
        words = [names.get(word, word) for word in run.arguments.split()]
        with contextlib.redirect_stdout(out):
            command_line(["verify", *words, "--quiet"])
        out.flush()
        text = out.buffer.getvalue().decode()  # type: ignore[attr-defined]  # it is a BytesIO
        for shown, real in names.items():
            text = text.replace(real, shown).replace(Path(real).name if "/" in real else real, shown)
    return shortened(re.sub(rf"{re.escape(os.fspath(resolve('minilm').parent))}/", "", text).strip())


def shortened(report: str) -> str:
    """The first rows of the table of texts, and how many more there are."""

    def cut(match: re.Match[str]) -> str:
        rows = match[2].splitlines()
        return "\n".join([match[1], *rows[:ROWS], *([f"  ... {len(rows) - ROWS} more"] if len(rows) > ROWS else [])])

    return re.sub(r"(texts\n(?:\(.*\n)*  text .*)\n((?:  '.*(?:\n|$))+)", lambda m: cut(m) + "\n", report)


def on_page(name: str) -> str:
    """What the page has."""
    page = (DOCS / RUNS[name].page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- run: {name} -->\n```text\n(.*?)```\n<!-- end of run -->", page, re.DOTALL)
    assert found, f"{RUNS[name].page}: no run {name}"
    return found[1].strip()


def write(name: str) -> None:
    """Put what is printed now on the page."""
    path = DOCS / RUNS[name].page
    block = f"<!-- run: {name} -->\n```text\n{printed(name)}\n```\n<!-- end of run -->"
    marks = rf"<!-- run: {name} -->\n.*?<!-- end of run -->"
    page, count = re.subn(marks, lambda _: block, path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert count == 1, f"{path}: {count} places for the run {name}"
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    asked = [word for word in sys.argv[1:] if word != "--write"] or list(RUNS)
    for each in asked:
        if "--write" in sys.argv:
            write(each)
        else:
            print(f"== {each}\n{printed(each)}\n")
