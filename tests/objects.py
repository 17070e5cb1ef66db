"""An object store for tests: a server that speaks S3 (:class:`S3Server`), and an ill wind in front (:class:`Proxy`)."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

PAGE = 20
"""How many keys the server lists at once, so that a test meets several pages."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


def environment(endpoint: str) -> dict[str, str]:
    """What a process needs to use an endpoint without TLS."""
    return CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint, "NO_PROXY": "127.0.0.1"}


@contextlib.contextmanager
def serve_s3(folder: Path) -> Iterator[str]:
    """Run moto's server in a process of its own, on a port that is free; yields its address."""
    log = folder / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    variables = os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=variables) as process:
        try:
            limit = time.monotonic() + 60
            while "Running on " not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < limit, "the S3 server did not start"
                time.sleep(0.02)
            yield log.read_text().partition("Running on ")[2].split()[0]
        finally:
            process.terminate()


def make_bucket(endpoint: str, bucket: str) -> None:
    """Create a bucket, which is no business of a store."""
    _put(endpoint, f"/{bucket}", {})


def publish(endpoint: str, path: str) -> None:
    """Let everybody read an object (``BUCKET/KEY``)."""
    signature = "AWS4-HMAC-SHA256 Credential=test/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    _put(endpoint, f"/{path}?acl", {"x-amz-acl": "public-read", "Authorization": signature})


def _put(endpoint: str, path: str, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    connection.request("PUT", path, headers=headers)
    assert connection.getresponse().status == 200
    connection.close()


class Fault(Enum):
    """What may happen to a request."""

    SLOW = "answered after a while"
    ERROR = "500, not forwarded"
    BUSY = "503, not forwarded"
    FORBIDDEN = "403, not forwarded"
    UNANSWERED = "forwarded, connection dropped before the response"
    LOST = "not forwarded, connection dropped before the response"
    CUT = "forwarded, connection dropped in the middle of the response"
    STALLED = "forwarded, response stops in its middle"
    SWALLOWED = "200 with an ETag, not forwarded"


class Proxy:
    """An HTTP proxy before a server, in threads of this process. ``fault`` decides what happens to each request.

    It is called with the request line's method and path and the number of requests so far, from 1.
    """

    def __init__(self, upstream: str) -> None:
        self.fault: Callable[[str, str, int], Fault | None] = lambda method, path, number: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        proxy = self

        class Handler(_Handler):
            owner = proxy
            server_address = urlsplit(upstream).netloc

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def reset(self) -> None:
        """Forget the requests, and let everything pass."""
        with self.lock:
            self.requests.clear()
            self.fault = lambda method, path, number: None

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    def arrived(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            return self.fault(method, path, len(self.requests))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are what this is for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: ClassVar[Proxy]
    server_address: ClassVar[str]

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.owner.arrived(self.command, self.path)
        if fault is Fault.SLOW:
            time.sleep(0.2)
        if fault is Fault.LOST:
            self.drop()
        elif fault in (Fault.ERROR, Fault.BUSY, Fault.FORBIDDEN):
            self.answer({Fault.ERROR: 500, Fault.BUSY: 503, Fault.FORBIDDEN: 403}[fault], {}, b"<Error/>")
        elif fault is Fault.SWALLOWED:
            self.answer(200, {"ETag": '"0123456789abcdef0123456789abcdef"'}, b"")
        else:
            status, headers, content = self.forward(body)
            if fault is Fault.UNANSWERED:
                self.drop()
            elif fault in (Fault.CUT, Fault.STALLED):
                self.answer(status, headers, content, whole=False)
                if fault is Fault.STALLED:
                    self.owner.closing.wait(20)
                self.drop()
            else:
                self.answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - names that http.server looks for

    def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server_address, timeout=30)
        try:
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def answer(self, status: int, headers: dict[str, str], content: bytes, *, whole: bool = True) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if whole else content[: len(content) // 2])
        self.wfile.flush()

    def drop(self) -> None:
        """Close the connection as a dying machine does: with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        pass
