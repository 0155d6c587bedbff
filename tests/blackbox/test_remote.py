"""Models and data at a URL: one download per content, under a lock; the key is the content's, as of any other file."""

import importlib
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Store
from blackbox import remote
from blackbox.block import Blackbox
from blackbox.model import find_model
from blackbox.settings import Source
from tests.conftest import ROOT

TINY = ROOT / "blackbox" / "tiny"

YAML = """
model: {{path: {model}}}
data: {{train: {{path: {data}/train.jsonl, split: "train[:40]"}}, valid: {data}/valid.jsonl}}
space: {{lora_rank: {{choice: [2, 4]}}}}
outputs: [eval_loss]
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("BBO_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


def forget() -> None:
    """As another process would begin."""
    remote.fetch_file.cache_clear()
    remote.fetch_model.cache_clear()


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were downloaded from file://, slowly."""
    seen: list[str] = []
    get_file = LocalFileSystem.get_file

    def slow(self: LocalFileSystem, source: str, *rest: Any, **options: Any) -> Any:
        seen.append(Path(source).name)
        time.sleep(0.1)
        return get_file(self, source, *rest, **options)

    monkeypatch.setattr(LocalFileSystem, "get_file", slow)
    return seen


def copies(cache: Path) -> list[Path]:
    return [each for each in cache.iterdir() if not each.name.startswith(".")]


def test_each_content_is_downloaded_once(tmp_path: Path, cache: Path, downloads: list[str]) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("{}\n")
    with ThreadPoolExecutor(4) as pool:
        files = set(pool.map(lambda _: remote.fetch_file.__wrapped__(source.as_uri()), range(4)))
    assert downloads == ["rows.jsonl"]
    (file,) = files
    assert (file.name, file.read_text()) == ("rows.jsonl", "{}\n")
    source.write_text("{}\n{}\n")
    forget()
    assert remote.fetch_file(source.as_uri()).read_text() == "{}\n{}\n"
    assert len(copies(cache)) == 2


def test_a_download_that_died_is_begun_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("{}\n" * 9)

    def dies(self: LocalFileSystem, path: str, target: str, **_: Any) -> None:
        Path(target).write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalFileSystem, "get_file", dies)
        remote.fetch_file(source.as_uri())
    assert not copies(cache)
    assert remote.fetch_file(source.as_uri()).read_text() == source.read_text()


def key_of(tmp_path: Path, model: str, data: str) -> str:
    file = tmp_path / "x.yaml"
    file.write_text(YAML.format(model=model, data=data))
    blackbox = Blackbox(read_experiment(file), Store(tmp_path / "evals"), tmp_path / "preflight.json")
    return blackbox.candidate({"lora_rank": 2}, (1.0,)).key


def test_a_model_at_a_url_is_the_same_model(tmp_path: Path, downloads: list[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY / "model", model)
    (model / "pytorch_model.bin").write_bytes(b"pickled")
    ours = key_of(tmp_path, str(model), str(TINY))
    assert key_of(tmp_path, model.as_uri(), TINY.as_uri()) == ours
    assert sorted(downloads) == sorted(
        [*(file.name for file in (TINY / "model").iterdir()), "train.jsonl", "valid.jsonl"]
    )
    settings = Blackbox(read_experiment(tmp_path / "x.yaml"), Store(tmp_path), tmp_path / "p").settings
    assert settings is not None
    assert (find_model(settings.model, settings.base) / "model.safetensors").is_file()


def test_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="tuning")
        for file in (*(TINY / "model").iterdir(), TINY / "train.jsonl", TINY / "valid.jsonl"):
            s3.upload_file(str(file), "tuning", str(file.relative_to(TINY)))
        ours = key_of(tmp_path, str(TINY / "model"), str(TINY))
        assert key_of(tmp_path, "s3://tuning/model", "s3://tuning") == ours
        with pytest.raises(InputError, match=r"s3://tuning/nothing: no model there"):
            remote.fetch_model("s3://tuning/nothing")
        with pytest.raises(InputError, match=r"s3://tuning/nothing.jsonl: no such file or folder"):
            remote.fetch_file("s3://tuning/nothing.jsonl")
    finally:
        server.stop()


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file or folder"):
        remote.fetch_file((tmp_path / "gone.jsonl").as_uri())
    with pytest.raises(InputError, match=f"{tmp_path.as_uri()}: is a folder, not a file"):
        remote.fetch_file(tmp_path.as_uri())
    with pytest.raises(InputError, match="Protocol not known: gopher"):
        remote.fetch_file("gopher://x/y.jsonl")
    registry = importlib.import_module("fsspec.registry")  # fsspec.registry is its mapping
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    with pytest.raises(InputError, match=r"s3:// needs pip install 'bbo\[s3\]'"):
        remote.fetch_file("s3://bucket/rows.jsonl")
    with pytest.raises(ValidationError, match=r"a URL must end in one of \.json, \.jsonl"):
        Source(path="s3://bucket/rows.txt")
