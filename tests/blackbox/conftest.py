"""A random LLaMA of 60,000 parameters with a byte-level tokenizer, data, and jobs for the trainer."""

import gc
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bbo.experiment import read_experiment
from bbo.run import Run
from bbo.runlog import Answer
from bbo.store import Result, Store, write_json
from blackbox.block import Blackbox

Rows = list[dict[str, str]]


def make_rows(count: int, first: int = 0) -> Rows:
    """Distinct rows of different lengths; every third has an input."""
    return [
        {
            "instruction": f"Say {'very ' * (i % 5)}often {i}.",
            "input": f"number {i}" if i % 3 == 0 else "",
            "output": " ".join([str(i)] * (1 + i % 4)),
        }
        for i in range(first, first + count)
    ]


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer that puts <s> before every text, as LLaMA's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: PLC0415 - heavy
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - heavy

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_model(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, random weights from a seed."""
    import torch  # noqa: PLC0415 - heavy
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="session")
def small_bloom(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BLOOM: padded rows, positions as distances, the vocabulary's matrix at both ends."""
    import torch  # noqa: PLC0415 - heavy
    from transformers import BloomConfig, BloomForCausalLM  # noqa: PLC0415 - heavy

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bloom")
    config = BloomConfig(
        vocab_size=260, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.2,
    )  # fmt: skip
    BloomForCausalLM(config).save_pretrained(folder)
    for file in tokenizer_folder.iterdir():
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="session")
def imported() -> None:
    """Heavy libraries are there, and no gc.collect() of the trainer searches them."""
    import blackbox.train  # noqa: F401, PLC0415 - heavy

    gc.freeze()


@pytest.fixture
def on_cpu(imported: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process on one thread of the CPU: other processes may want the rest."""
    import torch  # noqa: PLC0415 - heavy

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    torch.set_num_threads(1)


@pytest.fixture
def experiment(tmp_path: Path, small_model: Path) -> Callable[..., Path]:
    """Write experiment.yaml over 40 training and 10 validation rows: experiment(num_train_epochs=1, ...)."""

    def write(data: dict[str, Any] | None = None, sections: dict[str, Any] | None = None, **training: Any) -> Path:
        write_jsonl(tmp_path / "train.jsonl", make_rows(40))
        write_jsonl(tmp_path / "valid.jsonl", make_rows(10, first=100))
        content = {
            "model": {"path": str(small_model)},
            "data": {"train": "train.jsonl", "valid": "valid.jsonl", "max_length": 320, **(data or {})},
            "space": {"lora_rank": {"int": [1, 64]}},
            "training": {
                "num_train_epochs": 1,
                "global_batch_size": 8,
                "target_modules": ["q_proj", "v_proj"],
                "seed": 1,
                "learning_rate": 3e-3,
                "lora_dropout": 0.0,
                **training,
            },
            "outputs": ["eval_loss"],
            **(sections or {}),
        }
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Write the job file of these points: write_job(experiment, {"lora_rank": 4}, {...})."""

    def write(experiment: Path, *points: dict[str, Any], base_score: bool = False, name: str = "job") -> Path:
        entries = []
        for number, hyperparameters in enumerate(points):
            folder = tmp_path / name / f"{name}{number}"
            folder.mkdir(parents=True)
            entry = {"key": folder.name, "folder": str(folder), "point": None, "hyperparameters": hyperparameters}
            entries.append(entry | {"fidelity": {}, "attempts": 1})
        content = {
            "id": name, "experiment": str(experiment), "launched": time.time(), "slot": "cpu", "gpus": 0,
            "base_score": str(tmp_path / f"{name}.base.json") if base_score else None, "evaluations": entries,
        }  # fmt: skip
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(content))
        return file

    return write


@pytest.fixture(scope="session")
def searched(small_model: Path, imported: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of three evaluations, by training loss from good to bad; the second one's adapter was not kept."""
    from blackbox import train  # noqa: PLC0415 - heavy

    root = tmp_path_factory.mktemp("searched")
    write_jsonl(root / "train.jsonl", make_rows(24))
    write_jsonl(root / "valid.jsonl", make_rows(8, first=100))
    content = {
        "model": {"path": str(small_model)},
        "data": {"train": "train.jsonl", "valid": "valid.jsonl", "max_length": 320},
        "space": {"learning_rate": {"choice": [1e-2, 3e-3, 1e-5]}},
        "training": {"num_train_epochs": 1, "global_batch_size": 8, "target_modules": ["q_proj", "v_proj"], "seed": 1},
        "outputs": ["eval_loss"],
        "resources": {"cpus_per_job": 1},
    }
    file = root / "experiment.yaml"
    file.write_text(yaml.safe_dump(content))
    experiment, run = read_experiment(file), Run(root / "runs" / "x")
    blackbox = Blackbox(experiment, Store(run.evals), run.preflight_file)
    points = [(1.0,), (2.0,), (3.0,)]
    candidates = [blackbox.candidate(experiment.space.decode(point), point) for point in points]
    entries = []
    for candidate in candidates:
        evaluation = blackbox.store.evaluation(candidate.key)
        evaluation.begin(experiment.dump(), f"{int(candidate.point[0])}\n")  # type: ignore[index]
        about = {"key": candidate.key, "folder": str(evaluation.folder), "point": candidate.point, "fidelity": {}}
        entries.append({**about, "hyperparameters": dict(candidate.hyperparameters), "attempts": 1})
    job = root / "job.json"
    about = {"id": "job", "experiment": str(file), "launched": time.time(), "slot": "cpu", "gpus": 0}
    job.write_text(json.dumps({**about, "base_score": None, "evaluations": entries}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        train.run(job)
    log = run.log()
    with log.locked():
        asks = log.ask(points, [candidate.key for candidate in candidates])
    for ask, result in zip(asks, results(job), strict=True):
        log.answer(Answer(ask.number, (result.metrics["eval_loss"],), "trained", 0.0))
    write_json(run.preflight_file, {"digest": "", "base": {"eval_loss": 9.5}})
    shutil.rmtree(blackbox.store.evaluation(candidates[1].key).adapter)
    return run.folder


def results(job_file: Path) -> list[Result]:
    """What the trainer recorded for a job's points, in their order."""
    folders = [Path(item["folder"]) for item in json.loads(job_file.read_text())["evaluations"]]
    return [Result(**json.loads((folder / "result.json").read_text())) for folder in folders]


WORDS = ("red apple", "old stone", "wide water")


def write_csv(path: Path, count: int, first: int = 0) -> Path:
    """Questions with several responses each, whose class is told by their words: Question, Response, target."""
    lines = ["Question,Response,target"]
    for i in range(first, first + count):
        words, others = WORDS[i % 3], "and so on " * (i % 4)
        lines.append(f'"What is {i // 3}, ""my"" dear?","It is {words}, {others}{i}.",{i % 3}')
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def classifier(tmp_path: Path, small_model: Path) -> Callable[..., Path]:
    """Write experiment.yaml over 40 training and 12 validation rows of 3 classes: classifier(seed=1, ...)."""

    def write(data: dict[str, Any] | None = None, sections: dict[str, Any] | None = None, **training: Any) -> Path:
        write_csv(tmp_path / "train.csv", 40)
        write_csv(tmp_path / "valid.csv", 12, first=60)
        content = {
            "task": "classification",
            "model": {"path": str(small_model)},
            "data": {
                "train": "train.csv", "valid": "valid.csv", "max_length": 100, "text": ["Question", "Response"],
                "label": "target", "num_labels": 3, "group": "Question", **(data or {}),
            },
            "space": {"lora_rank": {"int": [1, 64]}},
            "training": {
                "num_train_epochs": 2, "global_batch_size": 8, "target_modules": ["q_proj", "v_proj"], "seed": 1,
                "learning_rate": 3e-3, **training,
            },
            "outputs": ["eval_loss", "accuracy"],
            **(sections or {}),
        }  # fmt: skip
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write
