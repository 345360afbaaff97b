"""How long /health waits while each endpoint reads its largest body: python -m benchmarks stalls [--mib 100]

A server of its own process; /health is asked every 20 ms on new connections by another process. For each body: the
status of its answer, the seconds until then, and of /health the median and the slowest answer in milliseconds; at the
end the server's memory, its processes included, compared with what it was when idle.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import time
from pathlib import Path

from refembed import hub
from tests.server.health import watched
from tests.server.large_bodies import MIB, large_bodies
from tests.server.servers import Client, refembed


def memory(pid: int) -> int:
    """MiB of a process and its children."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(status.partition("VmRSS:")[2].split()[0]) // 1024
    children = Path(f"/proc/{pid}/task").glob("*/children")
    with contextlib.suppress(FileNotFoundError):
        return own + sum(memory(int(child)) for file in children for child in file.read_text().split())
    return own


def send(client: Client, path: str, body: bytes) -> tuple[int, int]:
    """Status, and bytes of the answer."""
    connection = client.connect()
    connection.timeout = 600
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        size = 0
        while piece := response.read(1 << 16):
            size += len(piece)
        return response.status, size
    except (OSError, http.client.HTTPException):
        return 0, 0
    finally:
        connection.close()


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="minilm")
    p.add_argument("--mib", type=int, default=99, help="of a body; 100 is the most a server takes")
    p.add_argument("--only", default="", help="bodies with this in their name")
    args = p.parse_args(argv)
    with refembed("-m", hub.resolve(args.model)) as client:
        idle = most = memory(client.process.pid)
        worst = 0.0
        print(
            f"{'endpoint':<17}{'body':<34}{'status':>6}{'answer MiB':>11}{'seconds':>9}{'/health ms p50':>17}{'max':>7}"
        )
        for path, what, body in large_bodies(args.mib * MIB - 64):
            if args.only not in f"{path} {what}":
                continue
            begin = time.monotonic()
            with watched(client.address) as health:
                status, size = send(client, path, body)
                most = max(most, memory(client.process.pid))
            seconds = time.monotonic() - begin
            worst = max(worst, health.slowest)
            figures = f"{size / MIB:>11.1f}{seconds:>9.1f}{1000 * health.median:>17.1f}{1000 * health.slowest:>7.0f}"
            print(f"{path:<17}{what:<34}{status:>6}{figures}", flush=True)
            assert not health.failed
        print(f"slowest /health {1000 * worst:.0f} ms; memory {idle} MiB idle, {most} MiB at most after an answer")


if __name__ == "__main__":
    main()
