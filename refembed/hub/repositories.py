"""Any repository on Hugging Face, by way of huggingface_hub and the cache it keeps.

    org/model               its safetensors, to be converted; where it has only GGUF files, one of those
    org/model:file.gguf     that file
    org/model:Q4_K_M        its GGUF file of that type; where it has none, its safetensors, converted to that type
    -hf org/model[:TYPE]    the same: llama.cpp's flag

A name that is not there, a disk that is full, and a library that is missing are each one DownloadError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refembed.atomic_write import FULL
from refembed.errors import DownloadError, ModelError

SPELLED = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?::([\w./-]+))?")  # org/model, org/model:file.gguf, org/model:Q4_K_M
PREFERRED = ("Q4_K_M", "Q8_0")  # llama.cpp's choice where no type is asked for (common/download.cpp)
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def parse(text: str) -> tuple[str, str | None] | None:
    """The repository, and the file or type that is asked for; None for what is no name of a repository."""
    match = SPELLED.fullmatch(text)
    return (match[1], match[2]) if match and not match[1].endswith(".gguf") else None


def load_hub(name: str) -> Any:
    """The library, or a DownloadError that says how to get it."""
    try:
        import huggingface_hub
    except ImportError:
        what = f"{name}: no such file; to fetch it from Hugging Face, huggingface_hub is needed"
        raise DownloadError(what, hint="pip install huggingface_hub (refembed's extra `hub`)") from None
    return huggingface_hub


def fetch(name: str, wanted: str | None, patterns: Sequence[str], outtypes: Sequence[str], offline: bool) -> Path:
    """What is fetched of a repository: a GGUF file, or the folder of files that are converted.

    wanted    FILE.gguf, or a type; None for whatever there is
    patterns  the files that are converted
    DownloadError where it cannot be had; ModelError where the repository has no such file.
    """
    hub = load_hub(name)
    if wanted and wanted.endswith(".gguf"):
        return asked(name, lambda: Path(hub.hf_hub_download(name, wanted, local_files_only=offline)))
    names: list[str] = [] if offline else asked(name, lambda: list(hub.list_repo_files(name)))
    folder: Path | None = None
    if offline:
        folder = asked(
            name, lambda: Path(hub.snapshot_download(name, allow_patterns=list(patterns), local_files_only=True))
        )
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    files = gguf_files(names)
    if (files and not any(n.endswith(".safetensors") for n in names)) or (wanted and named(files, wanted)):
        chosen = choose(name, files, wanted)
        paths = [
            asked(name, lambda n=n: Path(hub.hf_hub_download(name, n, local_files_only=offline)))  # type: ignore[misc]
            for n in shards(chosen)
        ]
        return paths[0]
    if wanted and wanted.lower() not in outtypes:
        has = ", ".join(files) or "no GGUF file"
        raise ModelError(f"{name}: nothing in it is {wanted!r}", hint=f"it has {has}; what is converted can be "
                         + ", ".join(outtypes))  # fmt: skip
    return folder or asked(
        name, lambda: Path(hub.snapshot_download(name, allow_patterns=list(patterns), local_files_only=offline))
    )


def asked(name: str, ask: Callable[[], Any]) -> Any:
    """What the library answers; whatever goes wrong there is one DownloadError."""
    try:
        return ask()
    except Exception as e:  # its own errors, those of its HTTP library, and the disk's
        if full := disk_is_full(e):
            hint = "make room; environment variable HF_HOME names another place for what is fetched"
            raise DownloadError(f"{name} cannot be kept: {full}", hint=hint) from None
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise DownloadError(f"{name} cannot be had from Hugging Face: {reason}", hint="check the name") from None


def disk_is_full(e: BaseException | None) -> str:
    """The system's words where a full disk, or a quota, is behind an error; else "" (empty)."""
    while e is not None:
        if isinstance(e, OSError) and e.errno in FULL:
            return f"{e.filename}: {e.strerror}" if e.filename else str(e.strerror)
        e = e.__cause__ or e.__context__
    return ""


def gguf_files(names: Sequence[str]) -> list[str]:
    """The models among the files: no vision projectors, and of a split model the first shard."""
    found = [n for n in names if n.endswith(".gguf") and "mmproj" not in n]
    return sorted(n for n in found if not (m := SHARD.search(n)) or m[1] == "00001")


def named(files: Sequence[str], wanted: str) -> list[str]:
    """The files whose name has a type in it, as a word: `model-Q4_K_M.gguf`, `Q4_K_M/model-00001-of-00002.gguf`."""
    word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(wanted)}(?![A-Za-z0-9_])", re.IGNORECASE)
    return [n for n in files if word.search(n)]


def choose(name: str, files: Sequence[str], wanted: str | None) -> str:
    """The file of a type; without one, that of PREFERRED, or the first. ModelError where none has it."""
    if wanted is None:
        return next((n for kind in PREFERRED for n in named(files, kind)), files[0])
    if found := named(files, wanted):
        return found[0]
    raise ModelError(f"{name}: no GGUF file of type {wanted!r}", hint=f"it has {', '.join(files)}")


def shards(name: str) -> list[str]:
    """All files of a model, given the first."""
    match = SHARD.search(name)
    if not match:
        return [name]
    return [f"{name[: match.start()]}-{i:05}-of-{match[2]}.gguf" for i in range(1, int(match[2]) + 1)]
