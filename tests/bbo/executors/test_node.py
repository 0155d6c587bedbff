"""What travels to a machine without a shared folder and back: all stands below one folder there, results come last."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import MachineError
from bbo.executors import node
from bbo.executors.carry import orders, place
from bbo.executors.node import Node
from bbo.executors.protocol import Files, Launch
from bbo.store import Evaluation

JOB = """
import json, pathlib, sys
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
print(pathlib.Path(job["data"]).read_text(), flush=True)
folder = pathlib.Path(job["folder"])
assert (folder / "state.safetensors").read_text() == "before"
(folder / "adapter").mkdir()
(folder / "adapter" / "weights").write_text("w" * 5000)
(folder / "applied.json").write_text("{}")
(folder / "state.safetensors").unlink()
(folder / "result.json").write_text(json.dumps({"folder": str(folder), "model": f"{sys.argv[2]}/earlier/model"}))
"""


@pytest.fixture(autouse=True)
def own_stdin() -> Iterator[None]:
    """A node takes another one."""
    ours = os.dup(0)
    yield
    os.dup2(ours, 0)
    os.close(ours)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """A job of ours in `here`, which the other machine must not need."""
    here = tmp_path / "here"
    evaluation = Evaluation(here / "evals" / "k")
    evaluation.folder.mkdir(parents=True)
    evaluation.state_file.write_text("before")
    for name in ("claim", ".claim.lock", "train.log"):
        (evaluation.folder / name).write_text("ours")
    data, job = here / "data.jsonl", here / "job.json"
    data.write_text("rows")
    job.write_text(json.dumps({"data": str(data), "folder": str(evaluation.folder), "words": ["rows", 3]}))
    files = Files(
        {data: "a" * 64}, {here / "x.yaml": {"data": str(data), "text": "data.jsonl"}}, job,
        evaluations=[evaluation.folder],
    )  # fmt: skip
    arguments = [sys.executable, "-c", JOB, str(job)]
    return Launch("j", arguments, here / "j.log", lambda slot: None, {"PYTHONPATH": "/none"}, files=lambda: files)


@pytest.fixture
def there(own_locks: Path) -> Iterator[Node]:
    slot = Node(0, 1, carried=True)
    yield slot
    slot.end()


def test_documents_name_the_places_there(launch: Launch, tmp_path: Path) -> None:
    told = orders(launch, launch.files(), "/ROOT")
    here = tmp_path / "here"
    assert told["arguments"][-1] == f"/ROOT{here}/job.json"
    job, experiment = (json.loads(told["texts"][str(here / name)]) for name in ("job.json", "x.yaml"))
    assert job == {"data": f"/ROOT{here}/data.jsonl", "folder": f"/ROOT{here}/evals/k", "words": ["rows", 3]}
    assert experiment == {"data": f"/ROOT{here}/data.jsonl", "text": "data.jsonl"}
    assert told["along"] == [str(here / "evals/k/state.safetensors")]


def send(there: Node, launch: Launch) -> dict[str, Any]:
    """As a broker does it, in parts of three bytes. What the last report said."""
    root = f"{there.hello()['root']}/{launch.job}"
    told = orders(launch, launch.files(), root)
    assert "slot" in there.acquire()
    for path, digest in told["reads"].items():
        for each in there.lacks([digest]):
            parts(there.put, Path(path).read_bytes(), each)
    for path in told["along"]:
        parts(there.bring, Path(path).read_bytes(), launch.job, path)
    there.start(launch.job, told)
    return told


def parts(method: Any, content: bytes, *about: str) -> None:
    for offset in range(0, len(content), 3):
        method(*about, offset, content[offset : offset + 3], offset + 3 >= len(content))


def test_there_and_back(launch: Launch, there: Node, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"rows").hexdigest()
    files = launch.files()
    arguments = [*launch.arguments, there.hello()["root"]]
    launch = replace(
        launch, arguments=arguments, files=lambda: replace(files, reads=dict.fromkeys(files.reads, digest))
    )
    assert there.lacks([digest]) == [digest]
    send(there, launch)
    said, offered, gone = b"", [], []
    while "exit" not in (report := there.watch(0.1)):
        said += report.get("log", b"")
        offered += report.get("files", [])
        gone += report.get("gone", [])
    assert report["exit"] == [0, False], said
    assert said == b"rows\n"
    evaluation = Evaluation(tmp_path / "here/evals/k")
    assert gone == [str(evaluation.state_file)]
    names = [(Path(file["path"]).name, file["kind"]) for file in offered]
    assert sorted(names) == [("applied.json", "other"), ("result.json", "final"), ("weights", "weights")]
    assert names[-1][0] == "result.json"
    (weights,) = (file for file in offered if file["kind"] == "weights")
    root = f"{there.hello()['root']}/{launch.job}"
    for name, file in (("weights", weights), ("result", offered[-1])):
        content = b"".join(there.read(file["handle"], at, 999) for at in range(0, file["size"], 999))
        (tmp_path / name).write_bytes(content)
        place([(str(tmp_path / name), file["path"])], root)  # where an earlier job's folder is named too
    assert (evaluation.adapter / "weights").read_text() == "w" * 5000
    assert json.loads(evaluation.result_file.read_text()) == {"folder": str(evaluation.folder), "model": "/model"}
    there.end()
    assert there.lacks([digest]) == [] and not list(Path(there.hello()["root"]).glob("j/*"))


def test_another_content_is_noticed(launch: Launch, there: Node) -> None:
    with pytest.raises(MachineError, match="changed while it was sent"):
        there.put("b" * 64, 0, b"rows", True)
    assert there.lacks(["b" * 64]) == ["b" * 64]


def test_nothing_is_done_for_nobody(launch: Launch, own_locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor that is not asked any more ends, and its job with it."""
    ended: list[int] = []

    monkeypatch.setattr(node.lifeline, "PATIENCE", 0.5)
    monkeypatch.setattr(node.os, "_exit", ended.append)
    slot = Node(0, 1, carried=False)
    slot.acquire()
    orders = {"arguments": [sys.executable, "-c", "import time; time.sleep(60)"], "environment": {}, "seconds": None}
    slot.start("j", {**orders, "resident": None, "evaluations": [], "makes": [], "log": str(own_locks / "log")})
    for _ in range(3):
        slot.watch(0.3)
    assert not ended
    while not ended:
        time.sleep(0.1)
    slot.end()
