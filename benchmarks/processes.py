"""The parent's end of a worker: requests and answers as JSON lines, and one sentence when it is gone."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A worker refused, failed or died; `absent` where a package it needs is not installed."""

    def __init__(self, message: str, absent: bool = False) -> None:
        self.absent = absent
        super().__init__(message)


class Worker:
    """A process with one engine in it (`worker.py`).

    name     for messages
    python   the interpreter; default: this one
    env      more of the environment
    timeout  seconds that one request may take
    root     the folder whose packages `benchmarks` and `refembed` it imports
    """

    def __init__(
        self,
        name: str,
        python: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 900,
        root: Path = ROOT,
    ) -> None:
        self.name, self.timeout = name, timeout
        self.log = cast(BinaryIO, tempfile.TemporaryFile("a+b", buffering=0))  # noqa: SIM115 - `close` does
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        settings = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", **(env or {})}
        try:
            self.process = subprocess.Popen(
                [python or sys.executable, "-m", "benchmarks.worker"], cwd=root, env=settings, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            )  # fmt: skip
        except OSError as e:
            self.log.close()
            raise WorkerError(f"{name}: {python} cannot be started: {e.strerror}", absent=True) from None

    def ask(self, do: str, **request: Any) -> Any:
        """One request and its answer. WorkerError says in one sentence what went wrong."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin
        assert stdout
        late = threading.Timer(self.timeout, self.process.kill)
        late.daemon = True
        late.start()
        try:
            stdin.write(json.dumps({"do": do, **request}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        finally:
            late.cancel()
        try:
            answer = json.loads(line)
        except ValueError:
            raise WorkerError(self.gone(do)) from None
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}", answer.get("absent", False))
        return answer["value"]

    def gone(self, do: str) -> str:
        """How the process ended, over what, and its last words."""
        self.process.kill() if self.process.poll() is None else None
        code = self.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self.log.seek(0)
        words = [line for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{self.name}: its process ended with {how} when asked to {do}" + (
            f": {words[-1]:.300}" if words else ""
        )

    def open(self, engine: str, **options: Any) -> dict[str, Any]:
        """Make the engine: {"seconds", "about"}."""
        return self.ask("open", engine=engine, options=options)

    def vectors(self, row: str, way: str) -> Any:
        """Vectors (S, D) of a row."""
        found = self.ask("vectors", row=row, way=way)
        return np.frombuffer(base64.b64decode(found["float32"]), np.float32).reshape(found["shape"])

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                try:
                    stream.close()
                except OSError:  # a request that a dead process never read
                    continue
        self.log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def job(name: str, python: str | None = None, env: dict[str, str] | None = None, **options: Any) -> Any:
    """One job in a fresh worker."""
    with Worker(name, python, env) as worker:
        return worker.ask("job", name=name, options=options)
