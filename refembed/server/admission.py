"""How much work may wait: requests, and bytes of their bodies. What is above is answered 503 with Retry-After.

admission = Admission(max_requests=2, max_bytes=100)
with admission.request() as request:
    request.take(60)      # a piece of the body
    request.take(60)      # ApiError 503: 120 bytes are more than all requests together may hold
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from refembed.server.errors import ApiError

RETRY_AFTER = 1  # seconds


class Held:
    """What one request holds."""

    def __init__(self, admission: Admission) -> None:
        self.admission, self.bytes = admission, 0

    def take(self, n: int) -> None:
        """n more bytes of its body. ApiError 503 where all requests together hold too many."""
        if self.admission.bytes + n > self.admission.max_bytes:
            raise busy(f"the bodies of all requests are larger than {self.admission.max_bytes} bytes")
        self.admission.bytes += n
        self.bytes += n


class Admission:
    """Counts the requests that are read, computed or answered, and their bodies. Used from the event loop alone."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.requests = self.bytes = 0

    @contextlib.contextmanager
    def request(self) -> Iterator[Held]:
        """One request, from its head to its answer. ApiError 503 where too many are under way."""
        if self.requests >= self.max_requests:
            raise busy(f"{self.requests} requests are under way, as many as this server takes (--max-queue)")
        self.requests += 1
        held = Held(self)
        try:
            yield held
        finally:
            self.requests -= 1
            self.bytes -= held.bytes


def busy(message: str) -> ApiError:
    """The answer to a request for which there is no room now."""
    return ApiError(f"{message}; try again later", "unavailable_error", headers={"retry-after": str(RETRY_AFTER)})
