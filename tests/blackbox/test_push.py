"""`bbo push` against a hub of our own: a server that speaks as much of the hub's language as is needed."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from blackbox.saved import find

Command = Callable[..., subprocess.CompletedProcess[str]]


class Hub(BaseHTTPRequestHandler):
    """Notes what it is sent; takes every file as a small one."""

    sent: ClassVar[list[tuple[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        lines = [json.loads(line) for line in body.splitlines()]
        Hub.sent.append((self.path, lines))
        if self.headers["Authorization"] != "Bearer secret":
            return self.answer(401, {"error": "no"})
        url = f"http://{self.headers['Host']}/me/tiny"
        if "preupload" in self.path:
            asked = lines[0]["files"]
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            return self.answer(200, {"files": files})
        if "/commit/" in self.path:
            return self.answer(200, {"commitUrl": f"{url}/commit/{'a' * 40}", "commitOid": "a" * 40, "success": True})
        return self.answer(200, {"url": url, "name": "me/tiny"})

    def do_GET(self) -> None:
        self.answer(404, {"error": "nothing"})

    def answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.sent.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_files_go_to_the_hub(command: Command, searched: Path, hub: str) -> None:
    folder = find(str(searched)).folder
    about = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "secret", "HF_HUB_DISABLE_XET": "1"}
    done = command("bbo.cli", "push", str(searched), "me/tiny", "--private", **about)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub}/me/tiny/commit/" in done.stdout
    assert "names the base model" in done.stderr
    created, commit = (next(lines for path, lines in Hub.sent if word in path) for word in ("create", "/commit/"))
    assert created[0] == {"name": "tiny", "organization": "me", "visibility": "private"}
    files = sorted(line["value"]["path"] for line in commit if line["key"] == "file")
    assert files == sorted(os.listdir(folder))
    refused = command("bbo.cli", "push", str(searched), "me/tiny", **{**about, "HF_TOKEN": "wrong"})
    assert refused.returncode == 1 and "REPO me/tiny: the hub refused" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_dry_run_sends_nothing(command: Command, searched: Path, hub: str) -> None:
    done = command("bbo.cli", "push", str(searched), "me/tiny", "--dry-run", "--json", HF_ENDPOINT=hub)
    content = json.loads(done.stdout)
    folder = find(str(searched)).folder
    assert content["files"] == {path.name: path.stat().st_size for path in folder.iterdir()}
    assert content["url"] is None and not Hub.sent
