"""A Python function as an engine: of a list of texts, giving one vector for each.

    CallableEngine(model.encode)                  # any callable
    CallableEngine("my_package.engine:embed")     # or where to import it from

What it gives may be a list of lists, an array (N, D), a list of arrays (D) or (T, D), or a generator of them. Further
doors are looked for on the callable itself, or on the object whose method it is: `tokenize(text) -> ids` and
`trace(text) -> refembed.Trace`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refembed.arrays import F32
from refembed.errors import EngineError, RequestError
from refembed.model.trace import Trace
from refembed.verify.engines.base import Item, Plain, checked


class CallableEngine(Plain):
    """Ask a function.

    function   the callable, or "module:callable"; dots behind the colon walk attributes: "mine:Model.encode"
    takes_ids  True: it also takes a list of lists of token ids

    EngineError when it cannot be imported, raises, or gives anything but one finite vector for each text.

    >>> engine = CallableEngine(lambda texts: [[len(text), 1.0] for text in texts])
    >>> [vector.tolist() for vector in engine.embed(["a", "bcd"])]
    [[1.0, 1.0], [3.0, 1.0]]
    """

    name = "callable"

    def __init__(self, function: str | Callable[..., Any], *, takes_ids: bool = False) -> None:
        super().__init__()
        self.function = imported(function) if isinstance(function, str) else function
        self.can_take_ids = takes_ids
        owner = getattr(self.function, "__self__", None)
        self.tokenizer = door("tokenize", self.function, owner)
        self.tracer = door("trace", self.function, owner)
        self.can_tokenize, self.can_trace = self.tokenizer is not None, self.tracer is not None
        module = getattr(self.function, "__module__", None) or type(self.function).__module__
        spoken = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        file = getattr(sys.modules.get(module), "__file__", None)
        self.info = {"model": f"{module}:{spoken}", "file": file}

    def embed(self, items: Sequence[Item]) -> list[F32]:
        """One (D) or (T, D) for each item: all of them in one call."""
        if not items:
            return []
        if not self.can_take_ids and any(not isinstance(i, str) for i in items):
            raise EngineError(f"{self.info['model']} takes texts, not token ids", hint="takes_ids=True says it does")
        found = self.asked(self.function, list(items))
        if isinstance(found, (str, bytes)) or not isinstance(found, Iterable):
            raise EngineError(f"{self.info['model']} gave {type(found).__name__} where a list of vectors is meant")
        rows = rows_of(found)
        if len(items) == 1 and rows and all(np.ndim(row) == 0 for row in rows):
            raise EngineError(f"{self.info['model']} gave one flat vector for a list of one text, not a list of one")
        return checked(rows, items, self.info["model"])

    def tokenize(self, text: str) -> list[int]:
        """What the callable's own `tokenize` says."""
        if self.tokenizer is None:
            return super().tokenize(text)
        return [int(i) for i in self.asked(self.tokenizer, text)]

    def trace(self, item: Item) -> Trace:
        """What the callable's own `trace` gives: a Trace."""
        if self.tracer is None:
            return super().trace(item)
        found = self.asked(self.tracer, item)
        if not isinstance(found, Trace):
            raise EngineError(f"{self.info['model']}: trace gave {type(found).__name__}, not a refembed.Trace")
        return found

    def asked(self, function: Callable[..., Any], argument: Any) -> Any:
        """The function's answer; whatever it raises is one EngineError."""
        try:
            return function(argument)
        except Exception as e:
            raise EngineError(f"{self.info['model']} raised {type(e).__name__}: {e}") from e


def rows_of(found: Iterable[Any]) -> list[Any]:
    """Vectors as a list of NumPy arrays; tensors of PyTorch and the like go through their own conversion."""
    return [row.detach().cpu().numpy() if hasattr(row, "detach") else row for row in found]


def door(name: str, *owners: Any) -> Callable[..., Any] | None:
    """The first callable attribute of that name."""
    return next((f for owner in owners if callable(f := getattr(owner, name, None))), None)


def imported(spec: str) -> Callable[..., Any]:
    """The object behind "module:name.of.attribute"; modules of the caller's own (the current folder) are found too."""
    module, _, path = spec.partition(":")
    if not module or not path:
        raise RequestError(f"{spec!r}: a callable is named module:callable", hint="for example my_engine:embed")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if module.endswith(".py"):
        raise RequestError(f"{spec}: a module is named without .py", hint=f"{module.removesuffix('.py')}:{path}")
    try:
        found: Any = importlib.import_module(module)
    except Exception as e:
        first = module.partition(".")[0]
        missing = isinstance(e, ModuleNotFoundError) and e.name == first
        hint = f"run in the folder of {first}.py, or name it in PYTHONPATH" if missing else ""
        raise EngineError(f"{spec}: importing {module} failed: {type(e).__name__}: {e}", hint=hint) from e
    for name in path.split("."):
        if not hasattr(found, name):
            raise EngineError(f"{spec}: {getattr(found, '__name__', found)} has no {name!r}")
        found = getattr(found, name)
    if not callable(found):
        raise EngineError(f"{spec} is {type(found).__name__}, nothing that can be called")
    return found
