"""What is embedded: token ids made up with a fixed seed. No tokenizer is timed, and every engine has the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SEED = 20


@dataclass(frozen=True)
class Row:
    """Texts of one kind."""

    count: int
    length: int  # tokens of each; 0: natural lengths
    about: str

    @property
    def alone(self) -> bool:
        """One text: what counts is how long it takes."""
        return self.count == 1


ROWS = {
    "256x32": Row(256, 32, "256 texts of 32 tokens"),
    "48x256": Row(48, 256, "48 texts of 256"),
    "mixed": Row(512, 0, "512 texts of 5 to 300, mixed"),
    "1x8": Row(1, 8, "one text of 8"),
    "1x512": Row(1, 512, "one text of 512"),
    "32x64": Row(32, 64, "32 texts of 64"),
}


def natural_lengths(count: int) -> list[int]:
    """Tokens of texts as people write them: 5 to 300, log-normal with a mean of about 60 and a median of about 45."""
    rng = np.random.default_rng(SEED)
    return [int(n) for n in np.clip(np.exp(rng.normal(3.87, 0.78, count)), 5, 300)]


def token_ids(row: Row, n_vocab: int, first: int | None = 101, last: int | None = 102) -> list[list[int]]:
    """A row's texts: random ids of the vocabulary between the special tokens that open and close a text."""
    rng = np.random.default_rng(SEED)
    low, high = (1000, min(n_vocab, 30000)) if n_vocab > 2000 else (n_vocab // 4, n_vocab)
    ends = ([] if first is None else [first], [] if last is None else [last])
    lengths = natural_lengths(row.count) if row.length == 0 else [row.length] * row.count
    taken = len(ends[0]) + len(ends[1])
    return [[*ends[0], *map(int, rng.integers(low, high, max(n - taken, 1))), *ends[1]] for n in lengths]
