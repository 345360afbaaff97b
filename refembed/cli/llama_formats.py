"""How llama-embedding prints vectors, byte for byte: examples/embedding/embedding.cpp of llama.cpp.

    ""      columns, 6 decimals: one text whole, of several the first 16 numbers and the cosine of every two; of tokens
            the first and last three numbers; of a reranker its scores
    array   [[...],[...]], one line
    json    as OpenAI's endpoint, without model and usage
    json+   and "cosineSimilarity" where there are several texts
    raw     a vector a line, spaces between

7 decimals but in the first, none where normalize is 0. An empty line ends each. With pooling rank a row has as many
numbers as the head has outputs, where llama-embedding reads on into other memory in all but raw.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from refembed.arrays import F32
from refembed.cli.formats import Item, RawWriter, Run, Writer
from refembed.similarity import cosine


class LlamaWriter(Writer):
    """Rows of numbers: one a text, or a token."""

    def __init__(self, out: BinaryIO, run: Run) -> None:
        super().__init__(out, run)
        self.rows = 0
        self.digits = "%.0f" if run.normalize == 0 else "%.7f"

    def add(self, item: Item, vector: F32) -> None:
        """Each row in turn."""
        for row in np.atleast_2d(vector):
            self.row(row)
            self.rows += 1

    def row(self, vector: F32) -> None:
        """One row (D)."""
        raise NotImplementedError

    def numbers(self, vector: F32) -> str:
        """`[v,v,...]`."""
        return "[" + ",".join([self.digits % v for v in vector.tolist()]) + "]"


class LlamaArray(LlamaWriter):
    """array."""

    def row(self, vector: F32) -> None:
        self.put(("," if self.rows else "[") + self.numbers(vector))

    def finish(self) -> None:
        self.put("]\n\n")


class LlamaJson(LlamaWriter):
    """json."""

    def row(self, vector: F32) -> None:
        """One entry of `data`."""
        self.put(",\n" if self.rows else '{\n  "object": "list",\n  "data": [\n')
        self.put(f'    {{\n      "object": "embedding",\n      "index": {self.rows},\n      "embedding": ')
        self.put(self.numbers(vector) + "\n    }")

    def finish(self) -> None:
        """Close what is open."""
        self.put("\n  ]" + self.more() + "\n}\n\n")

    def more(self) -> str:
        """What follows `data`."""
        return ""


class LlamaJsonPlus(LlamaJson):
    """json+."""

    def __init__(self, out: BinaryIO, run: Run) -> None:
        super().__init__(out, run)
        self.vectors: list[F32] = []

    def row(self, vector: F32) -> None:
        """Keep it for the cosines."""
        super().row(vector)
        self.vectors.append(vector)

    def more(self) -> str:
        """The cosines of all rows, if there is more than one text."""
        if self.count < 2:
            return ""
        lines = ["    [" + ", ".join([f"{c:6.2f}" for c in row]) + " ]" for row in cosines(self.vectors)]
        return ',\n  "cosineSimilarity": [\n' + ",\n".join(lines) + "\n  ]"


class LlamaText(Writer):
    """Without a format. How much is shown of a vector depends on how many there are."""

    def __init__(self, out: BinaryIO, run: Run) -> None:
        super().__init__(out, run)
        self.texts: list[bytes] = []
        self.vectors: list[F32] = []
        self.digits = "%6.0f " if run.normalize == 0 else "%9.6f "

    def add(self, item: Item, vector: F32) -> None:
        self.texts.append(item.text.encode() if isinstance(item.text, str) else item.text)
        self.vectors.append(vector)

    def finish(self) -> None:
        self.put("\n")
        if self.run.per_token:
            self.tokens()
        elif self.run.pooling == "rank":
            self.scores()
        else:
            shown = 16 if len(self.vectors) > 1 else None
            for j, vector in enumerate(self.vectors):
                self.put(f"embedding {j}: {self.columns(vector[:shown])}\n")
            if shown:
                self.matrix()
        self.put("\n")

    def columns(self, vector: F32) -> str:
        """Numbers, a space behind each."""
        return "".join([self.digits % v for v in vector.tolist()])

    def tokens(self) -> None:
        """Both ends of each row."""
        for j, row in enumerate(np.concatenate(self.vectors)):
            self.put(f"embedding {j}: {self.columns(row[:3])} ... {self.columns(row[-3:])}\n")

    def scores(self) -> None:
        """A line a score; with its label where there are several."""
        for j, vector in enumerate(self.vectors):
            for i, score in enumerate(vector.tolist()):
                label = (self.run.labels[i] if self.run.labels else "") or i
                self.put(f"rerank score {j}: {score:8.3f}" + (f" [{label}]\n" if len(vector) > 1 else "\n"))

    def matrix(self) -> None:
        """The cosine of every two texts; texts are cut to so many bytes, and end at a NUL."""
        texts = [text.partition(b"\0")[0] for text in self.texts]
        self.put("\ncosine similarity matrix:\n\n")
        self.out.write(b"".join([b"%6s " % text[:6] for text in texts]) + b"\n")
        for text, row in zip(texts, cosines(self.vectors), strict=True):
            self.out.write("".join([f"{c:6.2f} " for c in row]).encode() + (text[:10] or b" ") + b"\n")


class LlamaRaw(RawWriter):
    """raw, and the empty line."""

    def finish(self) -> None:
        self.put("\n")


def cosines(vectors: list[F32]) -> list[list[float]]:
    """Of every two rows."""
    stacked = np.stack(vectors) if vectors[0].ndim == 1 else np.concatenate(vectors)
    rows: list[list[float]] = cosine(stacked, stacked).tolist()
    return rows


LLAMA_FORMATS: dict[str, type[Writer]] = {
    "": LlamaText,
    "array": LlamaArray,
    "json": LlamaJson,
    "json+": LlamaJsonPlus,
    "raw": LlamaRaw,
}
