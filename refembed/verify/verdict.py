"""What a verification ends with: one of four words, the cause in a sentence, and the evidence for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from refembed._version import __version__
from refembed.verify.compare.arrays import Difference
from refembed.verify.compare.local import Row
from refembed.verify.engines.base import Engine
from refembed.verify.reference import Reference

Kind = Literal["identical", "within rounding", "differs", "unexplained"]
EXIT = {"identical": 0, "within rounding": 0, "differs": 3, "unexplained": 3}  # exit codes of `refembed verify`


@dataclass(frozen=True)
class Cause:
    """Something that the engine does otherwise, alone or together with others."""

    id: str  # "gelu-erf", or "no-eos + scaled-sum": what a program may look for
    says: str  # to be read after "the engine"
    left: float | None = None  # 1 - cos that it leaves of the difference, worst text; None where that is not measured
    by_size: bool = False  # it makes a difference of this size; that it is the one cannot be shown
    remedy: str = ""  # what to do about it, as a command to the reader (`remedies`)


@dataclass(frozen=True)
class TextRow:
    """One text, end to end."""

    text: str
    tokens: int
    distance: float  # 1 - cos to the nearest arithmetic; of token vectors the worst row
    bound: float  # what is within rounding for this text
    nearest: str  # that arithmetic, a row of `reference.NUMERICS`
    length: float  # |engine's| / |reference's|, not normalized
    difference: Difference | None  # of the vectors themselves, both normalized where the engine normalizes

    @property
    def agrees(self) -> bool:
        """Whether the direction is within rounding."""
        return self.distance <= self.bound


@dataclass(frozen=True)
class Evidence:
    """What the verdict stands on. Fields stay empty where there was nothing to look at."""

    texts: tuple[TextRow, ...] = ()
    tensors: tuple[Row, ...] = ()  # of the traced text, in the order of the run
    traced: str = ""  # that text
    traced_ids: tuple[int, ...] = ()  # and its tokens, as the engine has them
    ids: tuple[tuple[str, list[int], list[int]], ...] = ()  # texts whose tokens differ: text, ours, theirs
    tried: int = 0  # hypotheses and pairs
    trials: tuple[tuple[str, float], ...] = ()  # what helped most, and what it leaves
    length: str = ""  # what the engine does to lengths
    remarks: tuple[str, ...] = ()
    untried: str = ""  # what the search for a cause left out for lack of time: "112 about the model, 676 pairs"
    pieces: dict[int, str] = field(default_factory=dict)  # the engine's own text of its token ids, where it shows it
    facts: dict[str, Any] = field(default_factory=dict)  # model, engine, numbers of texts and tokens
    precision: str = ""  # whose noise floor bounds are of, "TF32"; float32's where it is empty


@dataclass(frozen=True)
class Verdict:
    """The answer. `cause` is one sentence, empty where nothing differs; ties are in `causes`, best first."""

    kind: Kind
    cause: str
    causes: tuple[Cause, ...]
    first_wrong_tensor: str | None  # of an engine that shows its tensors: llama.cpp's name, "Qcur-0"
    noise_floor: dict[str, float]  # "spread", "bound": 1 - cos, median and worst text; "builds"; {}: nothing measured
    evidence: Evidence
    remedy: str = ""  # one line: what to do now

    @property
    def exit_code(self) -> int:
        """0 agrees, 3 differs."""
        return EXIT[self.kind]

    @property
    def tie(self) -> bool:
        """Whether several causes cannot be told apart."""
        return len(self.causes) > 1

    @property
    def tells_itself(self) -> bool:
        """Whether the cause says it all, and distances of texts add nothing to it."""
        return bool(self.causes) and self.causes[0].id in ("order-same", "zero-vector", "other-model", "pooling-rank")

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON has it: numbers that are not finite as text."""
        found: dict[str, Any] = plain(asdict(self))
        return {"format": "refembed-verdict-1", **found, "tie": self.tie, "exit_code": self.exit_code}


def sentence(causes: Sequence[Cause]) -> str:
    """The engine does this, or that."""
    if not causes:
        return ""
    shown = " - or - ".join(c.says for c in causes[:3])
    size = " (judged by the size of the difference alone)" if causes[0].by_size else ""
    return f"the engine {shown}{size}"


def facts_of(reference: Reference, engine: Engine, info: dict[str, Any], tokens: Sequence[int]) -> dict[str, Any]:
    """Who was compared with whom, on what: `Evidence.facts`. tokens: of each text."""
    model = reference.info
    return {
        "refembed": __version__, "model": str(model.path), "name": model.name, "architecture": model.architecture,
        "quant_types": model.quant_types, "pooling": reference.pooling, "engine": engine.name,
        "info": {k: v for k, v in info.items() if k != "texts"}, "texts": len(tokens), "tokens": sum(tokens),
    }  # fmt: skip


def plain(value: Any) -> Any:
    """Dictionaries, lists, text and finite numbers."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    return value.item() if hasattr(value, "item") else str(value)
