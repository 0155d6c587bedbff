"""The YAML's model, data and training sections: names, defaults, coercion, and what is refused with which words."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bbo.errors import InputError
from bbo.experiment import read_experiment
from bbo.store import Store, key_of
from blackbox.hyperparameters import Batch, at_fidelity
from blackbox.recipe import Fingerprints, common, evaluation_key
from blackbox.settings import DataSettings, ModelSettings, Settings, Source, Training, read_settings

DOCUMENT: dict[str, Any] = {
    "model": {"path": "meta-llama/Llama-2-7b-hf", "dtype": "bfloat16"},
    "data": {"train": "train.jsonl", "valid": 0.1},
    "space": {"lora_rank": {"int": [1, 64]}},
    "training": {"lora_alpha": 16},
    "outputs": ["eval_loss"],
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of the document with one entry changed: read("training", "warmup_steps", 0.03)."""

    def settings(section: str = "training", name: str = "seed", value: Any = 0) -> Settings:
        content = {**DOCUMENT, section: {**DOCUMENT[section], name: value}}
        file = tmp_path / "x.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_settings(read_experiment(file))

    return settings


def test_a_point_overrides_the_training_section_by_name(read: Callable[..., Settings]) -> None:
    training = read("training", "weight_decay", 0.1).training_for({"lora_rank": 32.0, "learning_rate": "1e-4"})
    assert (training.lora_rank, training.learning_rate) == (32, 1e-4)
    assert (training.lora_alpha, training.weight_decay) == (16, 0.1)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, "0"])
def test_equal_numbers_have_equal_determinants(read: Callable[..., Settings], zero: Any) -> None:
    settings = read()
    point = {"lora_dropout": zero, "lora_alpha": 16, "seed": zero}
    reference = {"lora_dropout": 0.0, "lora_alpha": 16.0, "seed": 0}
    assert repr(settings.training_for(point).determinants(1)) == repr(settings.training_for(reference).determinants(1))


def test_only_what_determines_a_result_is_a_determinant() -> None:
    whole = Training(global_batch_size=16, per_device_train_batch_size=16, per_device_eval_batch_size=2)
    cut = Training(global_batch_size=16, gradient_accumulation_steps=4, gradient_checkpointing=True)
    assert whole.determinants(1) == cut.determinants(2)
    assert Training().determinants(2)["global_batch_size"] == 16
    for name, value in {"seed": 1, "warmup_steps": 0.1, "target_modules": ["a"], "use_rslora": True}.items():
        assert Training.model_validate({name: value}).determinants(1) != Training().determinants(1)


@pytest.mark.parametrize(
    ("point", "sentence"),
    [
        ({"rank": 8}, "space.rank: no such training setting"),
        ({"lora_dropout": 1.5}, "space.lora_dropout: input should be less than or equal to 1, got 1.5"),
        ({"seed": True}, "space.seed: must be a number"),
        ({"lora_rank": 8.5}, "space.lora_rank: "),
        ({"lr_scheduler_type": "greedy"}, "needs arguments of its own"),
        ({"lr_scheduler_type": "constant", "warmup_steps": 3}, "write constant_with_warmup"),
    ],
)
def test_bad_points_are_refused_in_one_sentence(
    read: Callable[..., Settings], point: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as error:
        read().training_for(point)
    assert sentence in str(error.value)
    assert len(error.value.messages) == 1


@pytest.mark.parametrize(
    ("section", "name", "value", "sentence"),
    [
        ("training", "warmup_ratio", 0.03, "x.yaml:14: training.warmup_ratio: no such setting"),
        ("training", "lr_scheduler_type", "warmup_stable_decay", "x.yaml:14: training.lr_scheduler_type: needs arg"),
        ("training", "target_modules", [], "x.yaml:14: training.target_modules: must name at least one module"),
        ("training", "warmup_steps", 3.5, "x.yaml:14: training.warmup_steps: must be a whole number of steps"),
        ("model", "dtype", "int4", "x.yaml:3: model.dtype: input should be 'float32', 'bfloat16' or 'float16'"),
        ("data", "valid", 1.5, "x.yaml:6: data.valid: a number is a share of the training data"),
        ("data", "train", {"path": "a.json", "split": "[:10]"}, "must be a split or a slice"),
    ],
)
def test_bad_sections_are_refused_with_file_and_line(
    read: Callable[..., Settings], section: str, name: str, value: Any, sentence: str
) -> None:
    with pytest.raises(InputError) as error:
        read(section, name, value)
    assert sentence in str(error.value)


def test_errors_of_all_sections_come_together(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({**DOCUMENT, "model": {"paht": "x"}, "training": {"lora_rank": 0}}))
    with pytest.raises(InputError) as error:
        read_settings(read_experiment(file))
    assert len(error.value.messages) == 3  # no path, no such setting, rank


def test_dropout_one_is_legal() -> None:
    assert Training(lora_dropout=1).lora_dropout == 1.0


@pytest.mark.parametrize(
    ("training", "processes", "batch"),
    [
        ({}, 1, Batch(8, 8, 1)),
        ({}, 2, Batch(16, 8, 1)),
        ({"gradient_accumulation_steps": 4}, 2, Batch(64, 8, 4)),
        ({"global_batch_size": 128, "per_device_train_batch_size": 4}, 2, Batch(128, 4, 16)),
        ({"global_batch_size": 128, "gradient_accumulation_steps": 2}, 4, Batch(128, 16, 2)),
        ({"global_batch_size": 12}, 1, Batch(12, 6, 2)),
        ({"global_batch_size": 4}, 1, Batch(4, 4, 1)),
    ],
)
def test_a_step_is_cut_up(training: dict[str, Any], processes: int, batch: Batch) -> None:
    assert Training.model_validate(training).batch(processes) == batch
    assert batch.size == batch.micro * batch.passes * processes


@pytest.mark.parametrize(
    ("training", "processes", "sentence"),
    [
        ({"global_batch_size": 9}, 2, "9 is no multiple of the 2 processes"),
        ({"global_batch_size": 16, "per_device_train_batch_size": 3}, 1, "per_device_train_batch_size 3 x 1 process"),
        ({"global_batch_size": 16, "gradient_accumulation_steps": 3}, 2, "gradient_accumulation_steps 3 x 2 processes"),
        (
            {"global_batch_size": 16, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
            1,
            "16 differs from per_device_train_batch_size 2 x gradient_accumulation_steps 2 x 1 process = 4",
        ),
    ],
)
def test_what_does_not_divide_is_named(training: dict[str, Any], processes: int, sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        Training.model_validate(training).batch(processes)


def test_lengths_are_counted_as_transformers_does() -> None:
    training = Training(global_batch_size=16, num_train_epochs=2.5, warmup_steps=0.03)
    assert training.steps_per_epoch(100, 1) == 7
    assert training.steps(100, 1) == 18  # ceil(2.5 * 7)
    assert training.warmup(18) == 1  # ceil(0.54)
    assert Training(warmup_steps=5).warmup(18) == 5


def test_a_fidelity_shortens_the_epochs() -> None:
    training = Training(num_train_epochs=3, global_batch_size=8)
    low = at_fidelity(training, {"epochs_fraction": 0.2, "train_fraction": 0.5})
    assert low.num_train_epochs == 0.6
    assert low.steps(320, 1) == 24  # 0.6 * 40, and no step more
    assert at_fidelity(training, {"epochs_fraction": 1e-9}).steps(8, 1) == 1
    assert at_fidelity(training, {}) == at_fidelity(training, {"train_fraction": 0.5}) == training


def test_a_fidelity_is_part_of_the_key_by_value(read: Callable[..., Settings], tmp_path: Path) -> None:
    settings = read("data", "valid", 0.1)
    (tmp_path / "train.jsonl").write_text("{}")
    fingerprints = Fingerprints(Store(tmp_path))

    def key(**fidelity: float) -> str:
        return evaluation_key(settings, Training(), 1, fingerprints, fidelity)

    training = Training().determinants(1)
    assert key() == key_of({**common(settings, fingerprints), "training": training, "fidelity": {}})
    assert len({key(), key(epochs_fraction=0.5), key(train_fraction=0.5), key(epochs_fraction=0.25)}) == 4


def test_target_modules_are_a_set() -> None:
    names = [Training(target_modules=value).target_modules for value in (["v", "q"], ("q", "v"), "q, v", "v q")]  # type: ignore[arg-type]
    assert names == [("q", "v")] * 4
    assert Training(target_modules="all-linear").target_modules == "all-linear"


def test_sources_and_shares(tmp_path: Path) -> None:
    data = DataSettings.model_validate({"train": {"path": "a.jsonl", "split": "train[:3000]"}, "valid": "0.1"})
    assert data.valid == 0.1
    assert data.train.file(tmp_path) == tmp_path / "a.jsonl"
    assert DataSettings.model_validate({"train": "a/b", "valid": "c.parquet"}).valid == Source(path="c.parquet")
    assert Source(path="tatsu-lab/alpaca").file(tmp_path) is None


def test_a_model_is_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert ModelSettings(path="here").resolved(tmp_path) == str(tmp_path / "here")
    assert ModelSettings(path="./gone").resolved(tmp_path) == str(tmp_path / "gone")
    assert ModelSettings(path="org/name").resolved(tmp_path) == "org/name"


def test_settings_are_read_without_heavy_libraries() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'peft', 'accelerate', 'numpy', 'huggingface_hub'}"
    code = (
        f"import sys, blackbox.settings, blackbox.sources, blackbox.launch; sys.exit(bool({heavy} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
