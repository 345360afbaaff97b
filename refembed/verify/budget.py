"""Time for the search for a cause: hypotheses are tried in the order of plausibility, and those left over are counted.

budget = Budget(until=time.monotonic() + 45)
if budget.spent("model"):     # nothing more is begun, and one hypothesis about the model is on the list
    ...
budget.says()                 # "112 about the model, 676 pairs"
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field

STAGES = {
    "text": "about the text", "tokens": "about tokens", "batch": "about batches", "model": "about the model",
    "weights": "about weights of another type", "pooling": "about pooling", "vector": "about the vector",
    "pair": "pairs", "trial": "candidates that were not held against all texts",
    "round": "rounds of the search",
}  # fmt: skip


@dataclass
class Budget:
    """Until when hypotheses may be begun, and how many of each stage came too late."""

    until: float = math.inf  # of time.monotonic()
    untried: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.until

    @property
    def endless(self) -> bool:
        """Whether there is no limit."""
        return self.until == math.inf

    def spent(self, stage: str) -> bool:
        """Whether the time is over; then one more of that stage is left out."""
        if not self.over:
            return False
        self.untried[stage] += 1
        return True

    def says(self) -> str:
        """What was left out, `112 about the model, 676 pairs`; empty where nothing was."""
        return ", ".join(f"{n} {STAGES.get(stage, stage)}" for stage, n in self.untried.most_common())
