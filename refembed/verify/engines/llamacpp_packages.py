"""llama.cpp's libraries out of a package file: a wheel of PyPI, an npm tarball. Nothing of the package is run.

    folder = unpack(Path("llama_cpp_py_sync-0.11739-1cpu-py3-none-manylinux2014_x86_64.whl"))
    LlamaCpp("model.gguf", lib=folder)       # or lib="....whl" right away

Every shared library of the package lands in one folder of the cache, whatever folder it had. Left out are the
backends of other hardware, whose libraries are large and are not on every machine. Where this machine's C library is
older than the one that a package was compiled with, `older_glibc` says what is done about it.
"""

from __future__ import annotations

import platform
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from refembed.errors import EngineError
from refembed.gguf.digest import sha256_of
from refembed.hub.cache import at_work, cache_folder, move
from refembed.verify.engines.llamacpp_lib import is_shared
from refembed.verify.engines.older_glibc import for_older_glibc

OTHER_HARDWARE = re.compile(r"cuda|vulkan|kompute|rocm|hip|sycl|opencl|metal")
SUFFIXES = (".whl", ".tgz")
MOST_BYTES = 2**30  # of all libraries of a package; those of a build for CPUs have a tenth


def is_package(path: Path) -> bool:
    """Whether a path is that of a package file."""
    return path.suffix in SUFFIXES and path.is_file()


def unpack(package: Path) -> Path:
    """The folder with the package's libraries, made when first needed. EngineError where it has none.

    package  .whl or .tgz
    """
    place = cache_folder() / "llamacpp" / f"{package.name.removesuffix('.whl')[:60]}-{sha256_of([package])[:16]}"
    if place.is_dir():
        return place
    with at_work(f"llamacpp-{place.name}", lambda what, done, total: None) as work:
        if place.is_dir():  # another process was first
            return place
        made = work / "libraries"
        made.mkdir()
        try:
            for name, data in libraries(package):
                target = made / name
                if not target.exists():
                    with data:
                        content = data.read()
                    target.write_bytes(for_older_glibc(content) if has_older_glibc() else content)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError) as e:
            raise EngineError(f"{package}: cannot be unpacked: {e}") from None
        if not any(made.iterdir()):
            raise EngineError(f"{package}: there is no shared library for a CPU in it")
        move(made, place)
    return place


def has_older_glibc() -> bool:
    """Whether this machine's C library is a glibc before 2.38."""
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) < (2, 38)


def libraries(package: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each shared library for CPUs, in the package's order."""
    left = MOST_BYTES
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            for info in archive.infolist():
                if wanted(info.filename):
                    left = less(left, info.file_size, package)
                    yield PurePosixPath(info.filename).name, archive.open(info)
    else:
        with tarfile.open(package) as tar:
            for member in tar:
                data = tar.extractfile(member) if member.isfile() and wanted(member.name) else None
                if data is not None:
                    left = less(left, member.size, package)
                    yield PurePosixPath(member.name).name, data


def less(left: int, size: int, package: Path) -> int:
    """What is left of MOST_BYTES behind a library. EngineError where that is nothing."""
    if size > left:
        raise EngineError(
            f"{package}: its libraries have more than {MOST_BYTES >> 20} MiB, which no build for CPUs has"
        )
    return left - size


def wanted(member: str) -> bool:
    """Whether a member of a package is a shared library that runs without another device."""
    name = PurePosixPath(member).name
    return is_shared(name) and not OTHER_HARDWARE.search(name.lower())
