"""Does a port speak HTTP or HTTPS? Asked where an answer stays away, so that the wrong scheme is one clear sentence.

A TLS client that greets a plain HTTP server waits for an answer that never comes: the server takes the greeting for the
beginning of a request line. So a handshake gets HANDSHAKE seconds, and then the port is asked in plain HTTP.
"""

from __future__ import annotations

import socket
import ssl

from refembed.errors import EngineError

HANDSHAKE = 2.0  # seconds; a handshake takes three round trips


def check_scheme(scheme: str, host: str, port: int | None, timeout: float) -> None:
    """EngineError where the address says https and the port answers in plain HTTP.

    Where the port cannot be reached from here (a proxy may reach it), or answers neither way, nothing is said.
    """
    if scheme != "https":
        return
    port, limit = port or 443, min(HANDSHAKE, timeout)
    if speaks_tls(host, port, limit) is False and speaks_http(host, port, limit):
        raise EngineError(
            f"https://{host}:{port} speaks plain HTTP, not TLS", hint=f"write the address as http://{host}:{port}"
        )


def speaks_tls(host: str, port: int, limit: float) -> bool | None:
    """Whether a TLS handshake is answered within `limit` seconds; None where no connection can be made."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the real request checks the certificate
    try:
        plain = socket.create_connection((host, port), limit)
    except OSError:
        return None
    with plain:
        plain.settimeout(limit)
        try:
            with context.wrap_socket(plain, server_hostname=host):
                return True
        except (OSError, ValueError):
            return False


def speaks_http(host: str, port: int, limit: float) -> bool:
    """Whether a plain HTTP request is answered with a status line."""
    try:
        with socket.create_connection((host, port), limit) as plain:
            plain.settimeout(limit)
            plain.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
            return plain.recv(5) == b"HTTP/"
    except (OSError, UnicodeError):
        return False
