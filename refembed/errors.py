"""Every error refembed raises on purpose, and the exit code its command ends with.

RefembedError           the command line prints it without a traceback; a server answers 4xx       exit 1
├── RequestError        a sound model, but not an input it can take                                exit 1
├── EngineError         another engine (llama.cpp, a server) is absent, refused, or broke          exit 1
├── GGUFError           the file is not what the format says it must be                            exit 2
└── ModelError          a sound file, but not a model refembed can run                             exit 2
    └── DownloadError   a model that could not be fetched, or is not the one that was promised     exit 2
"""

from __future__ import annotations

from typing import Any


class RefembedError(Exception):
    """Base of the tree above. `hint` says what to try.

    >>> import refembed
    >>> try:
    ...     refembed.normalize([3.0, 4.0], p=-2)
    ... except RefembedError as error:
    ...     print(error.message, "|", error.hint[:11], "| exit code", error.exit_code)
    normalize -2: there is no such norm | -1 as it is | exit code 1
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message + (f"\n  hint: {hint}" if hint else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuilt, (type(self), self.args, self.__dict__)  # from one process to another, whole


def rebuilt(kind: type[RefembedError], args: tuple[Any, ...], state: dict[str, Any]) -> RefembedError:
    """The error that was pickled."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class RequestError(RefembedError):
    """The input cannot be taken: too long, empty where it must not be, an unknown option.

    >>> import refembed
    >>> refembed.cosine([1.0, 2.0], [1.0, 2.0, 3.0])
    Traceback (most recent call last):
        ...
    refembed.errors.RequestError: the first vectors have 2 numbers, the second 3
      hint: vectors of two models cannot be compared
    """


class TooLongError(RequestError):
    """A text of more tokens than the model reads.

    >>> from refembed import Embedder
    >>> Embedder.load("minilm").embed("cat " * 600)  # [CLS], 600 words, [SEP]
    Traceback (most recent call last):
        ...
    refembed.errors.TooLongError: input 0: 602 tokens, but the model reads at most 512
      hint: cut it into pieces, or pass truncate=True (--truncate) to keep its first 512 tokens
    """


class EngineError(RefembedError):
    """Another engine could not be asked: its library is absent, does not fit, or it refused.

    >>> from refembed.verify.engines.callables import CallableEngine
    >>> CallableEngine("no_such_module:embed")
    Traceback (most recent call last):
        ...
    refembed.errors.EngineError: no_such_module:embed: importing no_such_module failed: ModuleNotFoundError: ...
    """


class GGUFError(RefembedError):
    """What was being read, in which file, at which byte, what was found, and what to try.

    >>> from refembed.gguf import open_gguf
    >>> try:
    ...     open_gguf("absent.gguf")
    ... except GGUFError as error:
    ...     print(error.path, error.what, error.offset, error.found, error.exit_code, sep=" | ")
    absent.gguf | reading magic | 0 | no such file | 2
    """

    exit_code = 2

    def __init__(self, what: str, *, path: str, offset: int, found: str, hint: str = "") -> None:
        self.what, self.path, self.offset, self.found = what, path, offset, found
        super().__init__(f"{path}: {what} at byte {offset:#x}: {found}", hint=hint)


class ModelError(RefembedError):
    """A sound file, but not a model refembed can run: unknown architecture, missing tensor, no such head.

    >>> from refembed import Embedder
    >>> Embedder.load("mini-lm-l6")
    Traceback (most recent call last):
        ...
    refembed.errors.ModelError: mini-lm-l6: no such file, and no model of that name
      hint: ...
    """

    exit_code = 2


class DownloadError(ModelError):
    """A model that could not be fetched, or whose hash is not the promised one.

    >>> error = DownloadError("minilm cannot be had", hint="put its files into the cache")
    >>> isinstance(error, ModelError), error.exit_code
    (True, 2)
    """
