"""Mistakes in a YAML are all found at the door, each with file, line, rule and value."""

from pathlib import Path

import pytest

from bbo.errors import InputError
from bbo.experiment import Output, Stopping, read_experiment

GOOD = """\
model: {path: here}
space:
  lora_rank: {choice: [4, 8]}
  learning_rate: {fixed: 1e-4}
outputs: [eval_loss, "peak_gib <= 40", -mmlu]
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    return file


def test_reads_the_parts(tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path, GOOD))
    assert experiment.space.free == ("lora_rank",)
    assert experiment.space.decode((2,)) == {"lora_rank": 8, "learning_rate": 1e-4}  # 1e-4 is a number, as in YAML 1.2
    assert experiment.outputs == (
        Output("eval_loss", "OBJ"),
        Output("peak_gib", "PB", 1.0, 40.0),
        Output("mmlu", "EXTRA_O", -1.0),
    )
    metrics = {"eval_loss": 1.5, "peak_gib": 39.0, "mmlu": 0.4}
    assert [output.value(metrics) for output in experiment.outputs] == [1.5, -1.0, -0.4]
    assert [output.failed for output in experiment.outputs] == [float("inf"), 0.0, 0.0]


def test_rank_is_the_violation_and_then_the_objectives(tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path, GOOD))
    assert experiment.rank((1.5, -1.0, -0.4)) == (0, 1.5)
    assert experiment.rank((1.5, 2.5, -0.4)) == (2.5, 1.5)
    several = read_experiment(write(tmp_path, GOOD.replace("outputs:", "objectives: 2\noutputs:")))
    assert (experiment.objectives, several.objectives, several.objective) == ((0,), (0, 2), 0)
    assert several.rank((1.5, 2.5, -0.4)) == (2.5, 1.5, -0.4)
    assert several.outputs[1].condition == "peak_gib <= 40"


def test_a_copy_reads_the_same_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "data")
    first = read_experiment(write(tmp_path, GOOD + "data: {train: '${WHERE}/a', valid: '${NOT_SET:-b}'}\n"))
    monkeypatch.delenv("WHERE")
    (tmp_path / "sub").mkdir()
    again = read_experiment(write(tmp_path / "sub", first.dump()))
    assert again.data == {"train": "data/a", "valid": "b"}
    assert (again.space, again.outputs, again.base) == (first.space, first.outputs, first.base)


def test_a_path_from_the_environment_starts_where_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here/rows.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ROWS", "rows.jsonl")
    experiment = read_experiment(write(tmp_path, GOOD + "data: {train: '${ROWS}'}\n"))
    assert experiment.data == {"train": str(tmp_path / "here/rows.jsonl")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[4, 8]", "[]", "x.yaml:3: space.lora_rank: choice must not be empty, got []"),
        ("choice: [4, 8]", "choices: [4, 8]", "x.yaml:3: space.lora_rank.choices: no such setting"),
        ("choice: [4, 8]", "int: [8, 4]", "x.yaml:3: space.lora_rank: int must be [lower, upper]"),
        ("outputs:", "output:", "x.yaml:5: output: no such setting"),
        ("outputs: [", "outputs: [eval loss, ", "x.yaml:5: outputs.0: must be a metric"),
        ("{path: here}", "{path: '${NOPE}'}", "x.yaml:1: model.path: the environment variable NOPE is not set"),
        ("  learning_rate", "  lora_rank", "x.yaml:4: space.lora_rank: given twice"),
        ("model: {", "model: [", "x.yaml:1: not valid YAML"),
        ("{choice: [4, 8]}", "{fixed: 8}", "x.yaml:2: space: needs at least one variable that is not fixed"),
        (
            "model:",
            "resources: {keep: some}\nmodel:",
            "x.yaml:1: resources.keep: must be all, none or best N, got 'some'",
        ),
        ("model:", "fidelity: {low: {epochs: 1}}\nmodel:", "x.yaml:1: fidelity.low.epochs: no such setting"),
        (
            "model:",
            "fidelity: {low: {train_fraction: 0}}\nmodel:",
            "x.yaml:1: fidelity.low.train_fraction: input should be greater than 0, got 0",
        ),
        ("model:", "fidelity: {full: {epochs_fraction: 0.5}}\nmodel:", "x.yaml:1: fidelity: full is the whole"),
        ("model:", "fidelity: {a b: {}}\nmodel:", "x.yaml:1: fidelity: a name must be of letters"),
        ("model:", "stopping: never\nmodel:", "x.yaml:1: stopping: input should be 'none', 'median', 'asha' or"),
        ("model:", "stopping: {rule: asha, eta: 3}\nmodel:", "x.yaml:1: stopping.eta: no such setting"),
        (
            "model:",
            "stopping: {min_epochs: 0}\nmodel:",
            "x.yaml:1: stopping.min_epochs: input should be greater than or equal to 1, got 0",
        ),
        ("model:", "accelerate: no.yaml\nmodel:", "x.yaml:1: accelerate: no such file"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        read_experiment(write(tmp_path, GOOD.replace(old, new, 1)))
    assert said in str(caught.value)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("[4, 8]", "[]").replace("fixed: 1e-4", "fixes: 1").replace("model:", "models:")
    with pytest.raises(InputError) as caught:
        read_experiment(write(tmp_path, text))
    assert len(caught.value.messages) >= 3


@pytest.mark.parametrize("content", [b"", b"- 1", b"\x00\x01", b"\xff", b"a: !!python/object:os.system {}"])
def test_nonsense(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError):
        read_experiment(file)


def test_a_stopping_rule_may_be_named_alone(tmp_path: Path) -> None:
    assert read_experiment(write(tmp_path, GOOD)).stopping == Stopping(rule="none")
    assert read_experiment(write(tmp_path, "stopping: asha\n" + GOOD)).stopping == Stopping(rule="asha")
    whole = read_experiment(write(tmp_path, "stopping: {rule: median, n_startup: 9}\n" + GOOD))
    assert whole.stopping == Stopping(rule="median", n_startup=9)


def test_a_fidelity_is_its_fractions_below_one(tmp_path: Path) -> None:
    fidelity = "fidelity: {low: {epochs_fraction: 0.2, train_fraction: 1}, same: {epochs_fraction: 1.0}}\n"
    experiment = read_experiment(write(tmp_path, GOOD + fidelity))
    assert experiment.fidelities == {"full": {}, "low": {"epochs_fraction": 0.2}, "same": {}}
    assert experiment.fidelity("low") == {"epochs_fraction": 0.2}
    with pytest.raises(InputError, match=r"x.yaml:6: fidelity: no fidelity 'lo', there are full, low, same$"):
        experiment.fidelity("lo")
    assert read_experiment(write(tmp_path, GOOD)).fidelities == {"full": {}}


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("epochs_fraction=0", "--fidelity: epochs_fraction: input should be greater than 0, got '0'"),
        ("epochs_fraction=x", "--fidelity: epochs_fraction: input should be a valid number, unable to parse string as"),
        ("epochs=1", "--fidelity: epochs: extra inputs are not permitted, got '1'"),
        ("epochs_fraction=0.5,epochs_fraction=0.5", "--fidelity: each fraction once, got 'epochs_fraction=0.5,epochs_"),
        ("train_fraction=nan", "--fidelity: train_fraction: input should be less than or equal to 1, got 'nan'"),
        ("epochs_fraction=0.5,low", "--fidelity: low: extra inputs are not permitted, got ''"),
    ],
)
def test_a_fidelity_in_words(tmp_path: Path, words: str, wrong: str) -> None:
    experiment = read_experiment(write(tmp_path, GOOD))
    assert experiment.fidelity("epochs_fraction=0.25") == {"epochs_fraction": 0.25}
    assert experiment.fidelity("train_fraction=0.5,epochs_fraction=1") == {"train_fraction": 0.5}
    with pytest.raises(InputError) as error:
        experiment.fidelity(words)
    assert str(error.value).startswith(wrong)


def test_options_of_the_executor_that_is_chosen(tmp_path: Path) -> None:
    chosen = read_experiment(write(tmp_path, GOOD + "resources: {executor: ray, ray: {address: auto}}\n")).resources
    assert (chosen.ray.address, chosen.ray.shared_folder) == ("auto", False)
    assert chosen.on_a_cluster == (1, 1)
    assert chosen.model_copy(update={"cpus_per_job": 2}).on_a_cluster == (0, 2)
    assert chosen.model_copy(update={"gpus_per_job": 4}).on_a_cluster == (4, 4)
    with pytest.raises(InputError, match=r"x.yaml:6: resources.ray: is for executor: ray, and the executor is local"):
        read_experiment(write(tmp_path, GOOD + "resources: {ray: {address: auto}}\n"))
    with pytest.raises(InputError, match=r"resources.executor: input should be 'local'.*got 'cloud'") as refused:
        read_experiment(write(tmp_path, GOOD + "resources: {executor: cloud, ray: {address: auto}}\n"))
    assert len(refused.value.messages) == 1


def test_a_default_of_an_unset_variable_is_named_where_it_is_wrong(tmp_path: Path) -> None:
    experiment = read_experiment(write(tmp_path, GOOD + "data: {train: '${NOT_SET:-b}', valid: c}\n"))
    assert str(experiment.error("data.train", "no such file: b")).endswith("no such file: b (NOT_SET is not set)")
    assert str(experiment.error("data.valid", "no such file: c")).endswith("no such file: c")


def test_a_misspelt_section_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.yaml:6: resource: no such setting, did you mean resources\?"):
        read_experiment(write(tmp_path, GOOD + "resource: {pack: 2}\n"))
