"""One connection: how large a request's head may be, how long each part may take, how many may be open.

uvicorn's protocol parses HTTP; it reads a head of any size and waits for one without end. `Connection` adds limits:

    idle       no request yet, or the next one not begun    closed after `head_seconds`, without an answer
    head       the request line and headers                 408 after `head_seconds`, 431 above `head_bytes`
    body       `body_idle_seconds` without a byte, or slower than `body_bytes_per_second` on the whole: 408
    answering  the handler is at work                       no limit here: the queue's limits are `Admission`'s
    writing    the client reads nothing for `answer_seconds`: the connection is dropped

With `connections` open, a new one takes the place of the idle one that has been open longest; where none is idle it is
answered 503. Idle connections therefore cannot keep a client out.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

log = logging.getLogger("refembed.server")

ACCEPTED_AT_ONCE = 32  # connections accepted in one turn of the event loop
TURNS = 5  # from accepting one until the connection that makes room for it has given its descriptor back
QUEUE = 1024  # connections that the operating system keeps until then
SPARE_DESCRIPTORS = 32  # files that the process opens while it serves: the model, a certificate, threads' wake-ups
LINGER = 1.0  # seconds in which the rest of a refused request is read and dropped, so that its answer arrives
MAX_DROPPED = 1 << 20  # bytes of it
SECONDS_BETWEEN_LOGS = 60.0


@dataclass(frozen=True)
class ConnectionLimits:
    """What a connection may ask for."""

    connections: int  # open at a time
    head_bytes: int = 32 * 1024  # request line and headers together; nginx takes 4 x 8 KiB
    head_seconds: float = 10.0  # from the first chance to send a head until it is whole
    body_idle_seconds: float = 20.0  # between two pieces of a body
    body_seconds: float = 30.0  # for a whole body, plus its length over `body_bytes_per_second`
    body_bytes_per_second: int = 64 * 1024
    answer_seconds: float = 20.0  # without the client reading a byte


def connection_limit() -> int:
    """Connections for which this process has descriptors, after what is open now."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = 1 << 16 if most == resource.RLIM_INFINITY else min(most, 1 << 16)
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except (ImportError, OSError):  # Windows has no such limit, macOS no /proc
        most, used = 1024, 64
    return max(most - used - SPARE_DESCRIPTORS - TURNS * ACCEPTED_AT_ONCE, 16)


class Occasionally:
    """A log line at most once a minute, with the number of events since the last one."""

    def __init__(self, message: str) -> None:
        self.message, self.count, self.last = message, 0, -SECONDS_BETWEEN_LOGS

    def __call__(self) -> None:
        self.count += 1
        now = time.monotonic()
        if now - self.last >= SECONDS_BETWEEN_LOGS:
            log.warning(self.message, self.count)
            self.count, self.last = 0, now


REPLACED = Occasionally("too many connections: %d idle ones closed; `ulimit -n` says how many files may be open")
BUSY = Occasionally("too many connections, all at work: %d new ones answered 503")
NO_DESCRIPTORS = Occasionally("no file descriptor left for a connection (%d times); raise `ulimit -n`")


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's own errors. Accepting without a free descriptor fails many times a second: one line a minute."""
    if getattr(context.get("exception"), "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        NO_DESCRIPTORS()
    else:
        loop.default_exception_handler(context)


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with limits. `limited` makes the class that uvicorn is given."""

    limits: ConnectionLimits
    in_order: dict[Connection, None]  # all that are open, the one that connected first in front

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.part = "idle"  # idle, head, body or answering
        self.head_size = 0  # bytes of the head so far
        self.body_end = 0.0  # the loop's time by which the body must be whole
        self.refused = False  # an error was written; what still arrives is dropped
        self.dropped = 0  # bytes
        self.deadline: asyncio.TimerHandle | None = None  # of the part
        self.unread: asyncio.TimerHandle | None = None  # while the client does not read

    # connecting and parting

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, if need be that of an idle connection."""
        super().connection_made(transport)
        self.in_order[self] = None
        self.expire_in(self.limits.head_seconds)
        if len(self.in_order) <= self.limits.connections:
            return
        if longest := next((c for c in self.in_order if c is not self and c.idle), None):
            REPLACED()
            del self.in_order[longest]  # its descriptor is free after the event loop's next turn
            longest.transport.abort()
        else:
            BUSY()
            self.refuse(503, "too many connections", "unavailable_error")

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave its place, stop its clocks."""
        self.in_order.pop(self, None)
        self.expire_in(None)
        self.watch_reader(False)
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no whole head has come that is not answered yet."""
        return self.part in ("idle", "head") and (self.cycle is None or self.cycle.response_complete)

    def expire_in(self, seconds: float | None) -> None:
        """Set the part's deadline anew; None: it has none."""
        if self.deadline is not None:
            self.deadline.cancel()
        self.deadline = None if seconds is None else self.loop.call_later(seconds, self.expire)

    def expire(self) -> None:
        """The deadline of a part has passed."""
        self.deadline = None
        if self.part == "body" and self.flow.read_paused and self.loop.time() < self.body_end:
            self.expire_in(self.limits.body_idle_seconds)  # the server itself is not reading
        elif self.part == "idle" or self.refused or (self.part == "body" and self.cycle.response_complete):
            self.close()
        else:
            self.refuse(408, f"the {self.part} of the request did not arrive in time", "timeout_error")

    def close(self) -> None:
        """Close once everything is written, or after `LINGER` all the same."""
        self.transport.close()
        self.loop.call_later(LINGER, self.transport.abort)

    def refuse(self, status: int, message: str, kind: str) -> None:
        """Answer an error before any handler runs, and close; what the client still sends is dropped."""
        if self.refused or self.transport.is_closing():
            return
        self.refused = True
        body = json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()
        more = b"retry-after: 1\r\n" if status == 503 else b""
        lines = [b"content-type: application/json; charset=utf-8\r\n", more, b"connection: close\r\n"]
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its handler stops
            self.cycle.message_event.set()
            if self.cycle.response_started:  # half an answer is out: nothing can follow it
                self.transport.abort()
                return
        self.transport.write(STATUS_LINE[status] + b"".join(lines))
        self.transport.write(b"content-length: %d\r\n\r\n" % len(body) + body)
        self.flow.resume_reading()
        self.expire_in(LINGER)

    # reading

    def data_received(self, data: bytes) -> None:
        """Parse, and count what belongs to a head that is not whole yet."""
        if self.refused:
            self.dropped += len(data)
            if self.dropped > MAX_DROPPED:
                self.close()
            return
        if self.part in ("idle", "head"):
            self.head_size += len(data)
        super().data_received(data)
        if self.part == "head" and self.head_size > self.limits.head_bytes:
            self.too_large()
        elif self.part == "idle" and self.idle and self.deadline is None:  # blank lines between two requests
            self.expire_in(self.limits.head_seconds)

    def too_large(self) -> None:
        """A head above the limit."""
        limit = self.limits.head_bytes
        self.refuse(431, f"the head of the request is larger than {limit} bytes", "invalid_request_error")

    def on_message_begin(self) -> None:
        """A request line begins."""
        super().on_message_begin()
        if self.part != "head":
            self.part, self.head_size = "head", 0
            self.expire_in(self.limits.head_seconds)
        self.parsed_size = 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self.parsed_size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, while they are not too many."""
        self.parsed_size += len(name) + len(value) + 4
        if self.parsed_size <= self.limits.head_bytes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: a body may follow."""
        if self.refused:
            return
        if self.parsed_size > self.limits.head_bytes:
            self.too_large()
            return
        self.part, self.head_size = "body", 0
        length = next((value for name, value in self.headers if name == b"content-length"), b"0")
        size = int(length) if length.isdigit() else 0
        seconds = self.limits.body_seconds + size / self.limits.body_bytes_per_second
        self.body_end = self.loop.time() + seconds
        self.expire_in(min(self.limits.body_idle_seconds, seconds))
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if not self.refused:
            super().on_body(body)
            self.expire_in(max(min(self.limits.body_idle_seconds, self.body_end - self.loop.time()), 0.0))

    def on_message_complete(self) -> None:
        """The whole request is here."""
        if self.refused:
            return
        super().on_message_complete()
        self.expire_in(None)
        self.part = "idle" if self.cycle.response_complete else "answering"

    def on_response_complete(self) -> None:
        """The answer is handed over; the next request may begin. The rest of a body that no handler read is dropped."""
        super().on_response_complete()
        if self.part == "answering" and self.cycle.response_complete:  # no further request was sent ahead
            self.part = "idle"

    def timeout_keep_alive_handler(self) -> None:
        """No next request within uvicorn's `timeout_keep_alive`."""
        if not self.transport.is_closing():
            self.close()

    # writing

    def pause_writing(self) -> None:
        """The client reads more slowly than the server writes."""
        super().pause_writing()
        self.watch_reader(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self.watch_reader(False)

    def watch_reader(self, on: bool, before: int | None = None) -> None:
        """Drop the connection if the client reads nothing for `answer_seconds`.

        before  bytes unread at the last look
        """
        if self.unread is not None:
            self.unread.cancel()
            self.unread = None
        if not on:
            return
        size = self.transport.get_write_buffer_size()
        if before is not None and size >= before:
            self.transport.abort()
            return
        self.unread = self.loop.call_later(self.limits.answer_seconds, self.watch_reader, True, size)


def limited(limits: ConnectionLimits) -> type[Connection]:
    """The protocol class with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits, "in_order": {}})
