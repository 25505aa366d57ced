"""Does a tracking store answer: asked before MLflow is, because MLflow may take minutes to say no.

Never longer than the limit, whatever hangs: a name that does not resolve, a server that accepts and is silent, a
database that another process has locked. What it does not know: whether the store will take what is sent to it.
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from runner.errors import Fault, first_line
from runner.track.place import shown_uri

LIMIT_S = 2.0
SILENT = "no answer in time"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def unreachable(uri: str, limit_s: float = LIMIT_S) -> Fault | None:
    """Why nothing can be written to a tracking store now, known after at most `limit_s`; None when it answers."""
    answers: list[str | None] = []
    asking = threading.Thread(target=lambda: answers.append(_cause(uri, limit_s)), daemon=True)
    asking.start()
    asking.join(limit_s + 0.25)
    cause = answers[0] if answers else SILENT
    return down(uri, cause) if cause else None


def down(uri: str, cause: str) -> Fault:
    """The fault of a store that does not answer, or does not let us write."""
    verb = "cannot be written" if uri.startswith("sqlite:") else "does not answer"
    fix = "The journal has it all: `python -m runner rebuild mlflow` brings MLflow up to date later"
    return Fault("tracker_down", "track.uri", f"MLflow at {shown_uri(uri)} {verb} ({cause})", fix, {"cause": cause})


def _cause(uri: str, limit_s: float) -> str | None:
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("http", "https"):
        return _of_server(uri, limit_s)
    if scheme == "sqlite":
        return _of_file(Path(uri.partition("sqlite:///")[2]), limit_s)
    return _of_port(uri, PORTS[scheme], limit_s) if scheme in PORTS else None


def _of_server(uri: str, limit_s: float) -> str | None:
    """A server that wants a password or knows no /health answers all the same; one that fails at it does not."""
    import ssl
    import urllib.error
    import urllib.request

    parts = urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health").geturl()
    try:
        with urllib.request.urlopen(address, timeout=limit_s):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"answers {error.code} {error.reason}".strip() if error.code >= 500 else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            return None  # it is there; which certificates count is MLflow's own setting
        return _worded(reason)
    except Exception as error:  # http.client's errors share no base with the others: a server that speaks no HTTP
        return f"answers no HTTP ({type(error).__name__})"


def _of_port(uri: str, usual_port: int, limit_s: float) -> str | None:
    parts = urlsplit(uri)
    try:
        with socket.create_connection((parts.hostname or "localhost", parts.port or usual_port), timeout=limit_s):
            return None
    except (OSError, ValueError) as error:
        return _worded(error)


def _of_file(path: Path, limit_s: float) -> str | None:
    """Whether SQLite would let us write; a file that is not there yet will be made in its folder."""
    import sqlite3

    folder = next(place for place in path.parents if place.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"folder {folder} is read-only"
    if not path.exists():
        return None
    if not os.access(path, os.W_OK):  # SQLite would open it for reading, and say so at the first write
        return "it is read-only"
    try:
        opened = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=limit_s, isolation_level=None)
        try:
            opened.execute("BEGIN IMMEDIATE")
            opened.execute("ROLLBACK")
        finally:
            opened.close()
    except sqlite3.Error as error:
        return first_line(error)
    return None


def _worded(error: object) -> str:
    if isinstance(error, TimeoutError):
        return SILENT
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error) if isinstance(error, BaseException) else str(error)
