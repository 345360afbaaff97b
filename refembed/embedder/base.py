"""What an Embedder has, for the classes that its methods are in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from refembed.arrays import F32, Float
from refembed.gguf import GGUFFile
from refembed.kernels.ops import NO_TAP, Ops, Tap
from refembed.model import Model
from refembed.model.info import Info
from refembed.pipeline.inputs import Input
from refembed.pipeline.vectors import VectorOptions
from refembed.tokenizer import Tokenizer

if TYPE_CHECKING:  # what not every model needs
    from refembed.model.lora import Adapter
    from refembed.model.vision import Tower
    from refembed.pipeline.processes import ProcessPool


class Parts(NamedTuple):
    """What computes, and what is added to it."""

    model: Model
    ops: Ops
    adapters: Sequence[Adapter] = ()
    tower: Tower | None = None


class EmbedderBase(ABC):
    """The parts of a loaded model, and the methods that others stand on."""

    info: Info
    tokenizer: Tokenizer
    model: Model
    ops: Ops
    batch_tokens: int
    tower: Tower | None
    pool: ProcessPool | None

    @property
    @abstractmethod
    def file(self) -> GGUFFile:
        """The open GGUF file."""

    @abstractmethod
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """How to load it again."""

    @abstractmethod
    def ids_of(self, text: Input, index: int, truncate: bool) -> list[int]:
        """Token ids of one input, checked."""

    @abstractmethod
    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""

    @abstractmethod
    def truncate_or_raise(self, ids: list[int], what: str, truncate: bool, keep_last: bool) -> list[int]:
        """Token ids, not too many."""

    @abstractmethod
    def vectors(
        self, ids: Sequence[Sequence[int]], how: str, normalize: int = -1, dimensions: int | None = None
    ) -> list[F32]:
        """Vectors of token ids."""

    @abstractmethod
    def resolve_options(
        self, pooling: str = "native", normalize: int | None = None, dimensions: int | None = None
    ) -> VectorOptions:
        """Pooling, norm and dimensions by name."""

    @abstractmethod
    def width(self, how: str) -> int:
        """Numbers of a vector."""

    @abstractmethod
    def forward(self, ids: Sequence[Sequence[int]], tap: Tap = NO_TAP) -> Float:
        """Hidden states (T, C)."""

    @abstractmethod
    def running_pool(self) -> ProcessPool | None:
        """The pool of this process."""
