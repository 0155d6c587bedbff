"""`bbo.tune` with the built-in fine-tuning: the embedded model, Hugging Face's objects, and the page that shows it."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

import bbo
from bbo.huggingface import OF_LORA, lora_settings, training_settings
from blackbox.hyperparameters import Training
from tests.conftest import ROOT

TINY = ROOT / "blackbox" / "tiny"

DATASET = {
    "train": {"path": str(TINY / "train.jsonl"), "split": "train[:48]"},
    "valid": {"path": str(TINY / "valid.jsonl"), "split": "train[:16]"},
    "prompt": "alpaca",
    "max_length": 192,
}
GIVEN: dict[str, Any] = {"model": str(TINY / "model"), "dataset": DATASET, "max_trial_count": 2}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_of_the_proposal_to_katib(here: Path) -> None:
    """kubeflow/katib, issue 2291: r, learning rate, batch size, epochs and weight decay; fewer trials and epochs."""
    import transformers  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415

    hp_space = {
        "learning_rate": bbo.search.double(min=1e-05, max=5e-05),
        "per_device_train_batch_size": bbo.search.int(min=8, max=16),
        "num_train_epochs": bbo.search.int(min=1, max=2),
        "weight_decay": bbo.search.double(min=0.0, max=1.0),
        "lora_config.r": bbo.search.int(min=8, max=32),
    }
    with pytest.warns(UserWarning, match="do_eval, eval_strategy, log_level, output_dir, save_strategy"):
        handle = bbo.tune(
            name="llm-hp-optimization-test",
            **GIVEN,
            training_parameters=transformers.TrainingArguments(
                output_dir="test_trainer",
                save_strategy="no",
                eval_strategy="epoch",
                disable_tqdm=True,
                log_level="info",
            ),
            lora_config=LoraConfig(r=8, lora_alpha=8, lora_dropout=0.1, bias="none"),
            hp_space={**hp_space},
            objective_metric_name="eval_loss",
            objective_type="minimize",
            algorithm_name="random",
            parallel_trial_count=2,
            resources_per_trial={"cpu": 2},
        )
    trials = handle.wait().trials()
    assert list(trials.status) == ["ok", "ok"] and trials.eval_loss.is_unique
    best = handle.get_optimal_hyperparameters()
    assert set(best) == {*hp_space, "lora_rank"} - {"lora_config.r"}
    assert best["lora_rank"] == trials.loc[trials.eval_loss.idxmin(), "lora_rank"]
    section = yaml.safe_load((handle.run.parameters / "llm-hp-optimization-test.yaml").read_text())["training"]
    assert section == {"lora_dropout": 0.1}, "the rest is at its default, or searched"


def test_search_objects_inside_hugging_faces_are_the_same_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415

    monkeypatch.setattr(bbo.Handle, "start", lambda handle: None)
    schedule = bbo.search.categorical(["linear", "cosine"])
    rate, epochs = bbo.search.loguniform(min=1e-5, max=1e-3), bbo.search.int(min=1, max=4)
    rank, alpha, dropout = (bbo.search.categorical(values) for values in ([4, 8, 16], [8, 16, 32], [0.0, 0.1]))
    within = bbo.tune(
        "run",
        **GIVEN,
        training_parameters=transformers.TrainingArguments(
            learning_rate=rate, num_train_epochs=epochs, max_grad_norm=0.5, seed=3, lr_scheduler_type="cosine"
        ),
        lora_config=LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["v_proj", "q_proj"]),
        hp_space={"weight_decay": bbo.search.double(min=0.0, max=0.1)},
    )
    first = yaml.safe_load((within.run.parameters / "run.yaml").read_text())
    beside = bbo.tune(
        "run",
        **GIVEN,
        training_parameters={
            "lr_scheduler_type": "cosine", "max_grad_norm": 0.5, "seed": 3, "target_modules": ["q_proj", "v_proj"]
        },
        hp_space={
            "learning_rate": rate, "num_train_epochs": epochs, "lora_rank": rank, "lora_alpha": alpha,
            "lora_dropout": dropout, "weight_decay": {"float": [0.0, 0.1]},
        },
    )  # fmt: skip
    bbo.tune("words", **GIVEN, hp_space={"lr_scheduler_type": schedule})
    assert yaml.safe_load((beside.run.parameters / "run.yaml").read_text()) == first
    assert first["space"]["learning_rate"] == {"log10": [-5, -3]}
    assert first["space"]["lora_dropout"] == {"choice": [0.0, 0.1]}
    words = yaml.safe_load((here / "runs/words/params/words.yaml").read_text())["space"]
    assert words == {"lr_scheduler_type": {"choice": ["linear", "cosine"]}}


def test_what_is_not_offered_is_refused_by_name(here: Path) -> None:
    import transformers  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415

    space = {"learning_rate": bbo.search.double(1e-5, 1e-4)}
    with pytest.raises(bbo.InputError) as error:
        bbo.tune(
            "run", **GIVEN, hp_space=space, training_parameters=transformers.TrainingArguments(max_steps=5, fp16=True)
        )
    assert set(error.value.messages) == {
        "training_parameters.max_steps: not offered here: leave it at its default, -1",
        "training_parameters.fp16: not offered here: leave it at its default, False",
    }
    with pytest.raises(
        bbo.InputError, match=r"lora_config\.use_dora: not offered here: leave it at its default, False"
    ):
        lora_settings(LoraConfig(use_dora=True, task_type="CAUSAL_LM"), "instruct")
    with pytest.raises(bbo.InputError, match=r"lora_config\.task_type: not offered here"):
        lora_settings(LoraConfig(task_type="SEQ_CLS"), "instruct")
    with pytest.raises(bbo.InputError, match="training_parameters: must be a TrainingArguments, got"):
        training_settings(LoraConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert training_settings(transformers.TrainingArguments(report_to="none", weight_decay=0.1)) == {
            "weight_decay": 0.1
        }
    assert not list(here.iterdir())


def test_an_untouched_setting_means_here_what_it_means_there() -> None:
    import transformers  # noqa: PLC0415
    from peft import LoraConfig  # noqa: PLC0415

    ours, arguments, lora = Training(), transformers.TrainingArguments(), LoraConfig()
    chosen = {"per_device_train_batch_size", "gradient_accumulation_steps", "report_to"}  # by Training.batch; none
    shared = {name for name in Training.model_fields if hasattr(arguments, name)} - chosen
    assert len(shared) == 13
    assert {name: getattr(ours, name) for name in shared} == {name: getattr(arguments, name) for name in shared}
    assert ours.batch(1).size == arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    assert {name: getattr(ours, name) for name in OF_LORA.values()} == {
        name: getattr(lora, theirs) for theirs, name in OF_LORA.items()
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"hp_space": {"lora_config.rank": bbo.search.int(1, 2)}},
            "hp_space: lora_config.rank: the names with a dot are",
        ),
        ({"hp_space": {"lr": bbo.search.double(0, 1)}}, "hp_space.lr: no such training setting, there are method"),
        ({"training_parameters": {"learning_rate": 1e-3}}, "learning_rate: given twice"),
        ({"model": "/no/such/model"}, "model.path: no such model folder: /no/such/model"),
        ({"dataset": None}, "model and dataset: must be given"),
        ({"dataset": {**DATASET, "valid": "no.jsonl"}}, "dataset.valid: no such file"),
        ({"objective_metric_name": "evalloss"}, "objective_metric_name, additional_metric_names: evalloss cannot be"),
    ],
)
def test_wrong_calls(here: Path, arguments: dict[str, Any], said: str) -> None:
    space = {"learning_rate": bbo.search.double(1e-5, 1e-4)}
    with pytest.raises(bbo.InputError) as error:
        bbo.tune("run", **{**GIVEN, "hp_space": space, **arguments})
    assert str(error.value).startswith(said)
    assert not list(here.iterdir())


def test_the_example_in_docs_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "Docs/python_api.md").read_text(), re.DOTALL | re.MULTILINE)
    notebook: dict[str, Any] = {"__name__": "__main__"}
    (here / "notebook.py").write_text("\n\n".join(blocks))
    exec(compile((here / "notebook.py").read_text(), str(here / "notebook.py"), "exec"), notebook)
    assert {folder.name for folder in (here / "runs").iterdir()} == {"notebook", "rosenbrock"}
    assert "best score" in capsys.readouterr().out
