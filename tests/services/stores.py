"""Object stores that run on this machine while tests need them, and a proxy in front of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from servers import stopped_by

#: Key and secret that every store here takes.
KEY, SECRET = "test", "testtest"
#: Seconds that a store may take to start.
PATIENCE = 180.0
#: Path of no bucket, by which tests talk to the proxy.
_CONTROL = "/-"


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
    short = tempfile.mkdtemp(prefix="ceph-")
    with stopped_by("bash", script, "stop", short):
        subprocess.run(["bash", str(script), "start", short, str(port)], check=True, timeout=600)
        yield port


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

    It is a process of its own: some calls of deltalake wait for the store and let no other thread
    of Python work meanwhile.
    """

    def __init__(self, store_port: int) -> None:
        self.store_port = store_port
        self.port = _free_port()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(store_port), str(self.port)]
        )
        _wait_for(self.port)
        self.reset()

    def reset(self, **settings: Any) -> None:
        """Count from 0, and change only what is asked for.

        Parameters
        ----------
        drops_conditions : bool
            The store is not told to create an object only if there is none.
        loses_commits : bool
            The answer to each commit is lost once: the store does it, and the client hears of a
            fault inside the store.
        kill : tuple of int
            A process, and the number of the PUT request before which it is killed.
        """
        self._ask("POST", settings)

    @property
    def lines(self) -> list[str]:
        """Method and path of each request."""
        found: list[str] = self._ask("GET", {})
        return found

    @property
    def counts(self) -> Counter[str]:
        """Requests by method."""
        return Counter(line.partition(" ")[0] for line in self.lines)

    def close(self) -> None:
        """Stop."""
        self._process.kill()
        self._process.wait()

    def _ask(self, method: str, settings: dict[str, Any]) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, _CONTROL, json.dumps(settings))
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    store_port = 0

    def set(self, settings: dict[str, Any]) -> None:
        """Begin anew."""
        self.settings = settings
        self.lines: list[str] = []
        self.lost: set[str] = set()
        self.n_puts = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Without this each answer waits 40 ms for the acknowledgement of its head.
    disable_nagle_algorithm = True
    wbufsize = -1

    def _pass_on(self) -> None:
        server = self.server
        line = f"{self.command} {self.path}"
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == _CONTROL:
            if self.command == "POST":
                server.set(json.loads(content))
            self._answer(200, {}, json.dumps(server.lines).encode())
            return
        server.lines.append(line)
        server.n_puts += self.command == "PUT"
        if "kill" in server.settings and server.n_puts >= server.settings["kill"][1]:
            with suppress(ProcessLookupError):
                os.kill(server.settings["kill"][0], signal.SIGKILL)
        headers = dict(self.headers.items())
        if server.settings.get("drops_conditions") and self.headers.get("If-None-Match"):
            address = f"http://127.0.0.1:{server.store_port}{self.path}"
            headers = _without_condition(self.command, address, headers, content)
        store = HTTPConnection("127.0.0.1", server.store_port, timeout=60)
        store.request(self.command, self.path, content, headers)
        answer = store.getresponse()
        body = answer.read()
        status = answer.status
        is_commit = self.command == "PUT" and "/_delta_log/" in line and line.endswith(".json")
        if server.settings.get("loses_commits") and is_commit and line not in server.lost:
            server.lost.add(line)
            status = 503
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(status, dict(answer.getheaders()), body, length)
        store.close()

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _without_condition(
    method: str, address: str, headers: dict[str, str], content: bytes
) -> dict[str, str]:
    """Return headers of a request without its condition, signed anew: the signature covered it."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    kept = {k: v for k, v in headers.items() if k.lower() == "content-type"}
    request = AWSRequest(method, address, kept, content)
    S3SigV4Auth(Credentials(KEY, SECRET), "s3", "us-east-1").add_auth(request)
    return dict(request.headers.items())


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


if __name__ == "__main__":
    server = _Server(("127.0.0.1", int(sys.argv[2])), _Handler)
    server.store_port = int(sys.argv[1])
    server.set({})
    server.serve_forever()
