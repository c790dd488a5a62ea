from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.downloads.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """The web server, on a port of its own."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
