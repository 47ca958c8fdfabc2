"""Object stores that run on this machine while tests need them, and a proxy in front of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: Key and secret that every store here takes.
KEY, SECRET = "test", "testtest"
#: Seconds that a store may take to start.
PATIENCE = 180.0


@contextmanager
def moto(folder: Path) -> Iterator[int]:
    """Run moto, a mock of S3 in Python; yield its port."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(port)
            yield port
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@contextmanager
def ceph(folder: Path) -> Iterator[int]:
    """Run Ceph's gateway, a real store; yield its port."""
    port = _free_port()
    script = Path(__file__).with_name("ceph.sh")
    # The path of a socket of Ceph may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ceph-") as short:
        try:
            subprocess.run(
                ["bash", str(script), "start", short, str(port)], check=True, timeout=600
            )
            yield port
        finally:
            subprocess.run(["bash", str(script), "stop", short], check=True)
            os.makedirs(short, exist_ok=True)


def make_bucket(port: int, name: str) -> None:
    """Make a bucket; obstore uses buckets and makes none."""
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=name)
    client.close()


class Proxy:
    """Hands requests to a store, counts them, and changes what a test wants changed.

    Attributes
    ----------
    counts : Counter
        Requests by method.
    lines : list of str
        Method and path of each.
    before : callable
        Told of each request before it is handed on.
    drops_conditions : bool
        Whether the store is not told to create an object only if there is none.
    loses : callable
        Of which requests the answer is lost: the store does them, and the client hears of a
        fault inside the store.
    """

    def __init__(self, store_port: int) -> None:
        self.store_port = store_port
        self.port = _free_port()
        self.reset()
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Count from 0, and change nothing."""
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        self.before: Callable[[str], None] = lambda line: None
        self.drops_conditions = False
        self.loses: Callable[[str], bool] = lambda line: False

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Without this each answer waits 40 ms for the acknowledgement of its head.
    disable_nagle_algorithm = True
    wbufsize = -1

    def _pass_on(self) -> None:
        proxy = self.server.proxy
        line = f"{self.command} {self.path}"
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy.counts[self.command] += 1
        proxy.lines.append(line)
        proxy.before(line)
        headers = dict(self.headers.items())
        if proxy.drops_conditions:
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        store = HTTPConnection("127.0.0.1", proxy.store_port, timeout=60)
        store.request(self.command, self.path, content, headers)
        answer = store.getresponse()
        body = answer.read()
        status = 503 if proxy.loses(line) else answer.status
        self.send_response_only(status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        length = answer.getheader("Content-Length", "0") if is_head else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if not is_head:
            self.wfile.write(body)
        self.wfile.flush()
        store.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(port: int) -> None:
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
