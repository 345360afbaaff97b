"""Every error refembed raises on purpose, and the exit code its command ends with.

RefembedError           the command line prints it without a traceback; a server answers 4xx       exit 1
├── RequestError        a sound model, but not an input it can take                                exit 1
├── EngineError         another engine (llama.cpp, a server) is absent, refused, or broke          exit 1
├── GGUFError           the file is not what the format says it must be                            exit 2
└── ModelError          a sound file, but not a model refembed can run                             exit 2
    └── DownloadError   a model that could not be fetched, or is not the one that was promised     exit 2
"""

from __future__ import annotations


class RefembedError(Exception):
    """Base of the tree above. `hint` says what to try."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = message, hint
        super().__init__(message + (f"\n  hint: {hint}" if hint else ""))


class RequestError(RefembedError):
    """The input cannot be taken: too long, empty where it must not be, an unknown option."""


class TooLongError(RequestError):
    """A text of more tokens than the model reads."""


class EngineError(RefembedError):
    """Another engine could not be asked: its library is absent, does not fit, or it refused."""


class GGUFError(RefembedError):
    """What was being read, in which file, at which byte, what was found, and what to try."""

    exit_code = 2

    def __init__(self, what: str, *, path: str, offset: int, found: str, hint: str = "") -> None:
        self.what, self.path, self.offset, self.found = what, path, offset, found
        super().__init__(f"{path}: {what} at byte {offset:#x}: {found}", hint=hint)


class ModelError(RefembedError):
    """A sound file, but not a model refembed can run: unknown architecture, missing tensor, no such head."""

    exit_code = 2


class DownloadError(ModelError):
    """A model that could not be fetched, or whose hash is not the promised one."""
