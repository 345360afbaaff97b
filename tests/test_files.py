"""A file appears whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from refembed.files import replacing

NAMES = [None, "beside"]


@pytest.mark.parametrize("temporary", NAMES)
def test_nothing_is_there_before_the_end(tmp_path: Path, temporary: str | None) -> None:
    target = tmp_path / "x"
    with replacing(target, temporary=temporary) as out:
        out.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("temporary", NAMES)
def test_an_error_leaves_what_was_there_and_no_other_file(
    tmp_path: Path, temporary: str | None, error: type[BaseException]
) -> None:
    target = tmp_path / "x"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target, temporary=temporary) as out:
            out.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
@pytest.mark.parametrize("temporary", NAMES)
def test_permissions_are_those_of_the_old_file_or_of_any_new_one(tmp_path: Path, temporary: str | None) -> None:
    new, old, plain = tmp_path / "new", tmp_path / "old", tmp_path / "plain"
    plain.write_bytes(b"")
    old.write_bytes(b"")
    old.chmod(0o604)
    for target, mode in ((new, stat.S_IMODE(plain.stat().st_mode)), (old, 0o604)):
        with replacing(target, temporary=temporary) as out:
            out.write(b"new")
        assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.skipif(os.name == "nt", reason="links are for administrators there")
@pytest.mark.parametrize("temporary", NAMES)
def test_a_link_stays_one(tmp_path: Path, temporary: str | None) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "x", tmp_path / "link"
    link.symlink_to(target)
    with replacing(link, temporary=temporary) as out:
        out.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("temporary", NAMES)
def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path, temporary: str | None) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "no" / "x", temporary=temporary):
        pass
