"""A web server on the loopback with every kind of trouble, for tests; it remembers what it was asked."""

from __future__ import annotations

import gzip
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from socketserver import TCPServer
from urllib.parse import unquote

from tests.pictures import jpeg

BOMB = gzip.compress(bytes(50_000_000), 1)
HTML = b"<!DOCTYPE html><html><body>gone</body></html>"


class Server(ThreadingHTTPServer):
    """`http://127.0.0.1:PORT/KIND/...`; `asked` counts paths, `headers_of` has what came with the last of each."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.headers_of: dict[str, dict[str, str]] = {}
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def server_bind(self) -> None:
        """Without the look-up of the own name that takes seconds where there is no network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def url(self, path: str) -> str:
        return f"{self.root}/{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients go away in the middle: that is what is tested."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        server, path = self.server, self.path.lstrip("/")
        with server.lock:
            server.asked[path] += 1
            server.times.setdefault(path, []).append(time.monotonic())
            server.headers_of[path] = dict(self.headers)
            server.running += 1
            server.most_running = max(server.most_running, server.running)
            time_of_path = server.asked[path]
        try:
            kind, *rest = path.partition("?")[0].split("/")
            getattr(self, f"give_{kind}")(rest, time_of_path)
        finally:
            with server.lock:
                server.running -= 1

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def give_ok(self, rest: list[str], _: int) -> None:
        """ok/LEVEL: a grey picture."""
        self.send(200, jpeg(int(rest[0])), Content_Type="image/jpeg")

    def give_late(self, rest: list[str], _: int) -> None:
        """late/MILLISECONDS/LEVEL"""
        time.sleep(int(rest[0]) / 1000)
        self.send(200, jpeg(int(rest[1])))

    def give_status(self, rest: list[str], _: int) -> None:
        """status/CODE"""
        self.send(int(rest[0]), HTML, Content_Type="text/html")

    def give_first(self, rest: list[str], times: int) -> None:
        """first/CODE/RETRY_AFTER: the code at first, then a picture."""
        if times == 1:
            headers = {"Retry_After": rest[1]} if len(rest) > 1 else {}
            self.send(int(rest[0]), b"", **headers)
        else:
            self.send(200, jpeg(100))

    def give_to(self, rest: list[str], _: int) -> None:
        """to?URL: redirects there."""
        self.send(302, b"", Location=unquote(self.path.partition("?")[2]))

    def give_loop(self, rest: list[str], _: int) -> None:
        self.send(302, b"", Location=f"/loop/{int(rest[0]) + 1}")

    def give_trickle(self, rest: list[str], _: int) -> None:
        self.send(200, b"", Content_Length="100000")
        for _ in count():
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def give_silent(self, rest: list[str], _: int) -> None:
        time.sleep(3)

    def give_endless(self, rest: list[str], _: int) -> None:
        self.send(200, b"", Content_Length=str(1 << 40)) if rest else self._chunked()
        while True:
            self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def _chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def give_text(self, rest: list[str], _: int) -> None:
        """An image that says it is a text."""
        self.send(200, jpeg(100), Content_Type="text/plain")

    def give_html(self, rest: list[str], _: int) -> None:
        self.send(200, HTML, Content_Type="image/jpeg")

    def give_half(self, rest: list[str], _: int) -> None:
        """Half an image, as if it were all."""
        self.send(200, jpeg(100)[:300])

    def give_cut(self, rest: list[str], _: int) -> None:
        """Half of what was promised."""
        self.send(200, jpeg(100)[:300], Content_Length=str(len(jpeg(100))))
        self.close_connection = True

    def give_empty(self, rest: list[str], _: int) -> None:
        self.send(200, b"")

    def give_gzip(self, rest: list[str], _: int) -> None:
        self.send(200, gzip.compress(jpeg(100)), Content_Encoding="gzip")

    def give_bomb(self, rest: list[str], _: int) -> None:
        self.send(200, BOMB, Content_Encoding="gzip")

    def give_reset(self, rest: list[str], _: int) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def give_rubbish(self, rest: list[str], _: int) -> None:
        self.wfile.write(b"this is no HTTP\r\n\r\n")
        self.close_connection = True

    def give_robots(self, rest: list[str], _: int) -> None:
        """robots/DIRECTIVES"""
        self.send(200, jpeg(100), X_Robots_Tag=rest[0].replace("%20", " "))
