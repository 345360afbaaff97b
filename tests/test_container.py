"""Containerfile, step by step, without a builder: what is copied is enough to install; the server needs no rights and
writes nowhere but /cache; its health check knows a server that answers from one that does not; SIGTERM ends it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n", " ", (ROOT / "Containerfile").read_text(encoding="utf-8")).splitlines()
STEPS = [(word, rest) for word, _, rest in (line.partition(" ") for line in LINES) if word.isupper()]
USER = 10001


def of(word: str) -> list[str]:
    """What stands behind a word of the file, in order."""
    return [rest for found, rest in STEPS if found == word]


def environment() -> dict[str, str]:
    """What ENV sets."""
    return dict(pair.split("=", 1) for line in of("ENV") for pair in shlex.split(line))


def test_the_image_has_no_root_and_one_place_to_write_to() -> None:
    assert of("USER") == [f"{USER}:{USER}"]
    assert [word for word, _ in STEPS].index("USER") > [word for word, _ in STEPS].index("RUN")
    assert of("VOLUME") == ["/cache"]
    places = {name: value for name, value in environment().items() if name.endswith(("CACHE", "DIR", "HOME"))}
    assert places.keys() == {"HOME", "REFEMBED_CACHE", "NUMBA_CACHE_DIR", "HF_HOME"}
    assert all(place.split("/")[1] == "cache" for place in places.values())
    assert json.loads(of("ENTRYPOINT")[0]) == ["refembed"]


def test_what_is_copied_is_there() -> None:
    sources = [name for line in of("COPY") if "--from" not in line for name in line.split()[:-1]]
    assert "refembed" in sources
    assert [name for name in sources if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder with the environment that the first stage makes, from the copied files alone; the index is asked."""
    with tempfile.TemporaryDirectory(prefix="image-") as name:  # pytest's own folders are for their owner alone
        Path(name).chmod(0o755)
        yield built_in(Path(name))


def built_in(folder: Path) -> Path:
    """The first stage."""
    source = folder / "src"
    source.mkdir()
    for line in of("COPY"):
        if "--from" not in line:
            *names, target = line.split()
            for name in names:
                place = source / target / (name if (ROOT / name).is_file() else "")
                if (ROOT / name).is_dir():
                    shutil.copytree(
                        ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
                    )
                else:
                    shutil.copy(ROOT / name, place)
    command = of("RUN")[0]
    assert "-m venv /opt/refembed" in command
    made = folder / "opt" / "refembed"
    subprocess.run([python_for_all(), "-m", "venv", "--without-pip", made], check=True)
    pip = f"{shlex.quote(sys.executable)} -m pip --python {made}/bin/python"  # which needs no pip in there
    install = command.split("&&")[1].replace("/opt/refembed/bin/pip", pip)
    subprocess.run(["bash", "-c", install], cwd=source, check=True, capture_output=True)
    return folder


def python_for_all() -> str:
    """An interpreter that another user may start: this one, unless it lies in a home folder."""
    here = Path(sys.executable).resolve()
    if all(path.stat().st_mode & 1 for path in (here, *here.parents)):
        return str(here)
    found = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if found is None:
        pytest.skip("no interpreter that another user may start")
    return found


@pytest.fixture
def server(image: Path, minilm: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, str]]]:
    """CMD as the user of the image, with the default model, on a port of its own."""
    cache, models = image / "cache", image / "models"
    for folder in (cache, models):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    os.chown(cache, USER, USER)
    shutil.copy(minilm, models / "model.gguf")
    (models / "model.gguf").chmod(0o644)
    env = {name: value.replace("/cache", str(cache)) for name, value in environment().items()}
    env["PATH"] = env["PATH"].replace("/opt", f"{image}/opt")
    port = "18082"
    words = [*json.loads(of("ENTRYPOINT")[0]), *json.loads(of("CMD")[0]), "-m", str(models / "model.gguf")]
    words[words.index("8080")] = port
    program = f"{image}/opt/refembed/bin/{words[0]}"
    process = subprocess.Popen(
        [program, *words[1:]], cwd=models, env=env, user=USER, group=USER, extra_groups=[], umask=0o22,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, env | {"PORT": port}
    finally:
        process.kill()
        process.communicate()


def healthy(env: dict[str, str]) -> bool:
    """What HEALTHCHECK's command says."""
    command = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    command[-1] = command[-1].replace("8080", env["PORT"])
    return subprocess.run(command, env=env, user=USER, group=USER, stderr=subprocess.DEVNULL).returncode == 0


def written_by(user: int, since: Path, *folders: Path) -> list[Path]:
    """Files and folders of a user that are newer than a file."""
    found = subprocess.run(
        ["find", *folders, "-xdev", "-uid", str(user), "-newer", since], capture_output=True, text=True
    ).stdout
    return [Path(line) for line in found.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="another user is started, as root alone can")
def test_the_server_of_the_image(image: Path, server: tuple[subprocess.Popen[bytes], dict[str, str]]) -> None:
    process, env = server
    assert not healthy(env), "it still loads its model"
    deadline = time.monotonic() + 120  # HEALTHCHECK's start period
    while not healthy(env):
        assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.5)
    state = Path(f"/proc/{process.pid}/status").read_text()
    assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s+{USER}\s", state, re.MULTILINE)
    body = json.dumps({"input": "Hello, world!"})
    asked = f"http://127.0.0.1:{env['PORT']}/v1/embeddings"
    answer = subprocess.run(["curl", "-s", asked, "-d", body], capture_output=True, text=True, check=True).stdout
    assert len(json.loads(answer)["data"][0]["embedding"]) == 384
    written = written_by(
        USER,
        image / "models" / "model.gguf",
        image,
        Path("/tmp"),
        Path("/var"),
        Path("/root"),
        Path("/opt"),
        Path("/home"),
    )
    assert any("numba" in str(path) for path in written), "kernels are kept for the next start"
    assert [path for path in written if image / "cache" not in (path, *path.parents)] == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    assert not healthy(env)
