"""From a name to a verified local GGUF file.

"minilm" ─► models.py: files of known sha256 ─► sources.py fetches ─► convert/folder.py ─► GGUF, kept by cache.py
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refembed.convert.files import FILES, states
from refembed.errors import DownloadError, ModelError, RequestError
from refembed.hub.cache import at_work, cache_folder, fresh, is_cached, keep, move
from refembed.hub.models import MODELS, Model
from refembed.hub.progress import printed_progress
from refembed.hub.repositories import fetch, parse
from refembed.hub.sources import Progress, Unreachable, problem

__all__ = ["resolve", "source_folder"]

OUTTYPES = (  # what convert/folder.py can make, which a warm start need not import
    "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l",
    "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
)  # fmt: skip
RECIPE = 3  # to be raised when convert() writes another file from the same folder: what is cached is then made anew


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    outtype: str = "f32",
    offline: bool = False,
    progress: Progress | None = None,
) -> Path:
    """The GGUF file of a model; what has to be fetched or converted for it is, the first time.

    name_or_path  a file, returned as it is; a folder as Hugging Face publishes them; a name of MODELS, behind which may
                  stand an outtype: "minilm:q8_0", "minilm-q8_0"; "organization/model", "organization/model:Q4_K_M" or
                  "organization/model:file.gguf" on Hugging Face, if the extra `hub` is installed
                  (`repositories.py`). "./minilm" is a path, "minilm" is a name.
    outtype       one of OUTTYPES, where there is something to convert: "f32", "f16", "q8_0", "q4_k_m" ...
    offline       make do with what is there; environment variable HF_HUB_OFFLINE says the same
    progress      called with (what, done, total) in bytes; None: a bar on stderr, or a line where that is no terminal

    ModelError where there is no such model, or none that can be converted; DownloadError where it cannot be had.

    >>> from refembed import hub
    >>> hub.resolve("minilm").name
    'all-MiniLM-L6-v2-f32.gguf'
    >>> hub.resolve("minilm:q9_0")
    Traceback (most recent call last):
        ...
    refembed.errors.ModelError: minilm:q9_0: all-MiniLM-L6-v2 cannot be had as 'q9_0'
      hint: one of f32, f16, ...
    """
    if outtype not in OUTTYPES:
        raise RequestError(f"outtype {outtype!r}", hint="one of " + ", ".join(OUTTYPES))
    text = os.fspath(name_or_path)
    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    model, chosen = find(text)
    if model:
        return gguf_of(model, chosen or outtype, offline, progress)
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - pathlib's raises where there is no such user
    if text and path.is_dir():
        return converted(path, outtype, progress)
    if text and path.exists():
        return path
    if repository := parse(text):
        return from_repository(*repository, outtype, offline, progress)
    raise ModelError(f"{text or '(nothing)'}: no such file, and no model of that name", hint=suggestion(text))


def source_folder(name: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The files of a known model as published, each held against its sha256; they are fetched the first time.

    ModelError for a name that is not in MODELS; DownloadError where the files cannot be had.

    >>> from refembed import hub
    >>> (hub.source_folder("minilm") / "config.json").is_file()
    True
    """
    model, _ = find(name)
    if model is None:
        raise ModelError(f"no model of the name {name}", hint=suggestion(name))
    with printed_progress(progress, model.name) as advance:
        return fetched(model, offline, advance)


def find(text: str) -> tuple[Model | None, str | None]:
    """The model of that name, and the outtype that may stand behind it. ModelError where another word does."""
    for model in MODELS:
        for alias in model.aliases:
            begin, ending = text[: len(alias)].lower(), text[len(alias) :].lower()
            if begin == alias and not ending:
                return model, None
            if begin == alias and ending[0] in ":-" and ending[1:] in OUTTYPES:
                return model, ending[1:]
            if begin == alias and ending[0] == ":":
                hint = "one of " + ", ".join(OUTTYPES)
                raise ModelError(f"{text}: {model.name} cannot be had as {ending[1:]!r}", hint=hint)
    return None, None


def suggestion(text: str) -> str:
    """What may have been meant."""
    names = [alias for model in MODELS for alias in model.aliases]
    near = difflib.get_close_matches(text.lower(), names, 1)
    return f"did you mean {near[0]}?" if near else f"known names: {', '.join(names)}; or give the path of a .gguf file"


def gguf_of(model: Model, outtype: str, offline: bool, progress: Progress | None) -> Path:
    """The GGUF of a known model."""
    path = cache_folder() / "gguf" / f"{model.name}-{outtype}.gguf"
    made_of = [RECIPE, *(file.sha256 for file in model.files)]
    if is_cached(path, made_of):
        return path
    with printed_progress(progress, model.name) as advance, at_work(path.stem, advance) as work:
        if not is_cached(path, made_of):  # nor did another process make it meanwhile
            make(fetched(model, offline, advance), path, work, outtype, made_of, advance, say=lambda note: None)
    return path


def fetched(model: Model, offline: bool, advance: Progress) -> Path:
    """The folder of a model's files, verified. DownloadError where they cannot be had."""
    folder = cache_folder() / "models" / model.name
    if not any(problem(file, folder) for file in model.files):
        return folder
    with at_work(model.name, advance) as work:
        wrong = next(filter(None, (problem(file, folder) for file in model.files)), None)
        if wrong is None:  # another process was faster
            return folder
        tried = [f"nothing was fetched, as offline was asked for; {wrong}"] if offline else []
        for source in () if offline else model.sources:
            try:
                source.fetch(model.files, fresh(work / "files"), advance)
            except Unreachable as e:
                tried.append(f"{source.title}: {e}")
            else:
                for file in model.files:
                    move(work / "files" / file.name, folder / file.name)
                return folder
    lines = "".join(f"\n  {line}" for line in tried)
    hint = f"put its files into {folder}, or give the path of a .gguf file; REFEMBED_CACHE names another cache"
    raise DownloadError(f"{model.name} cannot be had:{lines}", hint=hint)


def converted(folder: Path, outtype: str, progress: Progress | None, name: str | None = None) -> Path:
    """The GGUF of a folder, made anew when a file that `convert` reads is changed, added or removed."""
    import hashlib

    if not (folder / "config.json").exists():
        from refembed.convert.weights import check_model

        check_model(folder)
    made_of = [RECIPE, name, *states(folder)]
    key = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    path = cache_folder() / "gguf" / f"{name or folder.resolve().name}-{key}-{outtype}.gguf"
    if is_cached(path, made_of):
        return path
    with printed_progress(progress, name or str(folder)) as advance, at_work(path.stem, advance) as work:
        if not is_cached(path, made_of):
            make(folder, path, work, outtype, made_of, advance, name)
    return path


def from_repository(name: str, wanted: str | None, outtype: str, offline: bool, progress: Progress | None) -> Path:
    """A model of any repository on Hugging Face; see `repositories.py`."""
    got = fetch(name, wanted, list(FILES), OUTTYPES, offline)
    if got.suffix == ".gguf":
        return got
    return converted(got, (wanted or outtype).lower(), progress, name.rpartition("/")[2])


def make(
    folder: Path,
    path: Path,
    work: Path,
    outtype: str,
    made_of: list[Any],
    advance: Progress,
    name: str | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Convert a folder and keep the file. say: as in `convert`; what the files of MODELS lack need not be said."""
    from refembed.convert.folder import convert

    keep(convert(folder, work / path.name, outtype=outtype, name=name, progress=advance, say=say), path, made_of)
