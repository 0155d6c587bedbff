"""HumanEval by our own runner, on the embedded model and on rows written here."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from bbo.errors import InputError, MachineError
from blackbox.scores import humaneval, sandbox
from blackbox.scores.humaneval import check, evaluate, pass_at
from blackbox.scores.requests import Request
from blackbox.scores.sandbox import Limits, Verdict
from blackbox.scores.settings import ScoresSettings
from tests.conftest import ROOT

shut_in = pytest.mark.skipif(sandbox.available() is not None, reason=str(sandbox.available()))

TESTS = {"add": "candidate(2, 3) == 5", "double": "candidate(4) == 8", "last": "candidate([1, 2]) == 2"}
PROMPTS = {
    "add": 'def add(a, b):\n    """Their sum."""\n',
    "double": 'def double(a):\n    """Twice a."""\n',
    "last": 'def last(rows):\n    """The last one."""\n',
}
RIGHT = {"add": "    return a + b\n", "double": "    return 2 * a\n", "last": "    return rows[-1]\n"}


def rows() -> list[dict[str, str]]:
    return [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": PROMPTS[name],
            "canonical_solution": RIGHT[name],
            "test": f"METADATA = {{}}\n\n\ndef check(candidate):\n    assert {TESTS[name]}\n",
            "entry_point": name,
        }
        for number, name in enumerate(PROMPTS)
    ]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with tasks/humaneval/test.jsonl."""
    folder = tmp_path / "tasks" / "humaneval"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return tmp_path


@pytest.fixture
def request_of() -> Callable[..., Request]:
    def make(**changes: Any) -> Request:
        usual = dict(
            task="humaneval", num_fewshot=None, limit=None, subtasks=(), num_samples=1, temperature=0.0,
            data="hub", lm_eval="0",
        )  # fmt: skip
        return Request(**{**usual, **changes})

    return make


@pytest.fixture
def settings() -> ScoresSettings:
    return ScoresSettings(data_dir="tasks", allow_code_execution=True)


@pytest.fixture
def model(on_cpu: None) -> Any:
    """The embedded model with two adapters that change what it says, and its tokenizer."""
    import torch  # noqa: PLC0415 - heavy
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    tiny = AutoModelForCausalLM.from_pretrained(ROOT / "blackbox/tiny/model")
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    adapted = get_peft_model(tiny, config, adapter_name="one")
    adapted.add_adapter("two", config)
    adapted.base_model.set_adapter(["one", "two"])
    return adapted.eval()


@pytest.fixture
def tokenizer(imported: None) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    return AutoTokenizer.from_pretrained(ROOT / "blackbox/tiny/model")


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch, model: Any, tokenizer: Any) -> Callable[..., None]:
    """Make the model write what a function of the name of the problem says: writes(lambda name: "    return 1")."""
    import torch  # noqa: PLC0415 - heavy

    def put(say: Callable[[str], str]) -> None:
        def generate(input_ids: Any, **options: Any) -> Any:
            texts = tokenizer.batch_decode(input_ids, skip_special_tokens=True)
            said = [say(text.partition("def ")[2].partition("(")[0]) for text in texts]
            tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] + [2] for text in said]
            longest = max(map(len, tokens))
            return torch.cat([input_ids, torch.tensor([each + [0] * (longest - len(each)) for each in tokens])], 1)

        monkeypatch.setattr(model, "generate", generate)

    return put


@pytest.fixture
def shorter(monkeypatch: pytest.MonkeyPatch, imported: None) -> None:
    """The model writes no more than 12 tokens."""
    from blackbox.scores import completions  # noqa: PLC0415 - heavy

    whole = completions.generation
    monkeypatch.setattr(completions, "generation", lambda sampled: {**whole(sampled), "max_gen_toks": 12})


def state(model: Any, tokenizer: Any) -> Any:
    import torch  # noqa: PLC0415 - heavy

    trained = [parameter.requires_grad for parameter in model.parameters()]
    layers = [(m.active_adapters, m.disable_adapters) for m in model.modules() if hasattr(m, "lora_A")]
    tokens = (tokenizer.padding_side, tokenizer.pad_token, tokenizer.eos_token)
    return trained, model.base_model.active_adapter, layers, tokens, torch.get_rng_state().tolist()


@pytest.mark.parametrize(
    ("samples", "right", "k"), [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in (1, 2, n)]
)
def test_pass_at_k_is_a_count(samples: int, right: int, k: int) -> None:
    if k <= samples:
        chosen = list(combinations(range(samples), k))
        hits = sum(any(number < right for number in each) for each in chosen)
        assert pass_at(k, samples, right) == pytest.approx(hits / len(chosen), abs=1e-12)


@shut_in
def test_right_wrong_and_endless(
    base: Path, settings: ScoresSettings, request_of: Any, writes: Any, model: Any, tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(humaneval, "LIMITS", Limits(cpu=1, wall=20))
    said = {**RIGHT, "double": "    return a\n", "last": "    while True:\n        pass\n"}
    writes(lambda name: said[name] + "\ndef beyond():\n    the stop word\n")
    before = state(model, tokenizer)
    scored = evaluate(model, tokenizer, [None, "one"], request_of(), settings, base)
    assert state(model, tokenizer) == before
    assert scored.keys() == {None, "one"}
    for each in scored.values():
        assert each.metrics == {"pass@1": pytest.approx(1 / 3), "pass@1_stderr": pytest.approx(1 / 3)}
        assert each.count == 3
        assert each.details == {"right": 1, "wrong": 1, "crashed": 0, "timed_out": 1}


@shut_in
@pytest.mark.parametrize(
    ("said", "end"),
    [
        ("    return a + b\n", "right"),
        ("    import numpy\n    return int(numpy.add(a, b))\n", "right"),
        ("    exit()\n", "crashed"),
        ("    import os; os._exit(0)\n", "crashed"),
        ("    return a b\n", "crashed"),
        ("    return c\n", "crashed"),
        ("    print('AssertionError')\n    return [0] * 10**12\n", "crashed"),
        ("    return open('/etc/passwd')\n", "crashed"),
        ("    return 6\n", "wrong"),
        ("", "wrong"),
    ],
)  # fmt: skip
def test_how_a_program_ends(said: str, end: str) -> None:
    program = humaneval._program(rows()[0], said)
    assert humaneval._end(humaneval._verdicts({program})[program]) == end


@shut_in
def test_the_samples_that_are_right_are_counted(
    base: Path, settings: ScoresSettings, request_of: Any, writes: Any, model: Any, tokenizer: Any
) -> None:
    said = iter(["    return a + b\n", *["    return 0\n"] * 9] + ["    return 2 * a\n"] * 10)
    writes(lambda name: next(said))
    request = request_of(limit=2, num_samples=10, temperature=0.5)
    one = evaluate(model, tokenizer, ["two"], request, settings, base)["two"]
    assert one.metrics["pass@1"] == pytest.approx((0.1 + 1) / 2)
    assert one.metrics["pass@1_stderr"] == pytest.approx(0.45)
    assert one.metrics["pass@10"] == 1
    assert "pass@100" not in one.metrics
    assert (one.count, one.details["right"], one.details["wrong"]) == (2, 11, 9)


@shut_in
def test_the_model_itself(
    base: Path, settings: ScoresSettings, request_of: Any, model: Any, tokenizer: Any, shorter: None
) -> None:
    before = state(model, tokenizer)
    scored = evaluate(model, tokenizer, ["one", None], request_of(), settings, base)
    assert state(model, tokenizer) == before
    assert {each.metrics["pass@1"] for each in scored.values()} == {0.0}
    assert {sum(each.details.values()) for each in scored.values()} == {3}


def test_what_is_written_is_lm_evals(model: Any, tokenizer: Any, request_of: Any, shorter: None) -> None:
    from lm_eval.api.instance import Instance  # noqa: PLC0415 - heavy
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - heavy

    from blackbox.scores.completions import complete, generation  # noqa: PLC0415 - heavy

    prompts = list(PROMPTS.values())
    ours = complete(model, tokenizer, "two", prompts, request_of(), 2)
    model.base_model.set_adapter("two")
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    theirs = lm.generate_until([Instance("generate_until", {}, (p, generation(False)), 0) for p in prompts])
    assert ours == [[text] for text in theirs]


def test_lm_evals_settings(imported: None) -> None:
    from blackbox.scores.completions import generation  # noqa: PLC0415 - heavy

    until = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]
    assert generation(False) == {"until": until, "max_gen_toks": 1024, "do_sample": False}
    sampled = {"until": until, "max_gen_toks": 1024, "do_sample": True, "temperature": 0.2, "top_p": 0.95}
    assert generation(True) == sampled


def test_a_sample_depends_on_nothing_else(model: Any, tokenizer: Any, request_of: Any, shorter: None) -> None:
    from blackbox.scores.completions import complete  # noqa: PLC0415 - heavy

    request = request_of(num_samples=5, temperature=1.0)
    prompts = list(PROMPTS.values())
    before = state(model, tokenizer)
    found = complete(model, tokenizer, "one", prompts, request, 5)
    assert complete(model, tokenizer, "two", prompts, request, 5) != found
    assert complete(model, tokenizer, None, prompts, request, 5) != found
    assert complete(model, tokenizer, "one", prompts, request, 2) == found
    assert complete(model, tokenizer, "one", prompts[1:], request_of(num_samples=3, temperature=1.0), 16) == [
        texts[:3] for texts in found[1:]
    ]
    assert all(len(set(texts)) > 1 for texts in found)
    assert state(model, tokenizer) == before


def test_draws_have_the_models_probabilities(imported: None) -> None:
    import torch  # noqa: PLC0415 - heavy

    from blackbox.scores.completions import Draw  # noqa: PLC0415 - heavy

    logits = torch.tensor([0.5, 0.3, 0.17, 0.03]).log()
    draw = Draw(range(4000), temperature=1.0, top_p=0.95)
    drawn = draw(torch.zeros(4000, 1, dtype=torch.long), logits.repeat(4000, 1)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert shares.tolist() == pytest.approx([0.5 / 0.97, 0.3 / 0.97, 0.17 / 0.97, 0], abs=0.03)


def test_what_is_wrong_is_said_first(base: Path, settings: ScoresSettings, request_of: Any) -> None:
    refused = ScoresSettings(data_dir="elsewhere")
    request = request_of(num_fewshot=3, num_samples=10, subtasks=("easy",))
    assert check(request, "pass@100", refused, base) == [
        "outputs: humaneval has no metric pass@100 with num_samples 10, it has pass@1, pass@10",
        "scores.tasks.humaneval.num_fewshot: it takes no examples, got 3",
        "scores.tasks.humaneval.subtasks: it has none, got easy",
        f"scores.data_dir: no such file: {base}/elsewhere/humaneval/test.jsonl",
        "scores.allow_code_execution: humaneval runs what the model writes: set it to true to have that done, in a "
        "sandbox",
    ]
    assert check(request_of(), "acc", settings, base)[0] == "outputs: humaneval has no metric acc, it has pass@1"


@shut_in
def test_nothing_is_wrong(base: Path, settings: ScoresSettings, request_of: Any) -> None:
    assert check(request_of(num_fewshot=0), None, settings, base) == []
    assert check(request_of(), "pass@1", ScoresSettings(allow_code_execution=True), base) == []


def test_without_a_sandbox_nothing_runs(
    base: Path, settings: ScoresSettings, request_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(program: str, limits: Limits) -> Verdict:
        raise AssertionError("ran")

    monkeypatch.setattr(sandbox, "run", run)
    monkeypatch.setattr(sandbox, "available", lambda: "there is none")
    place = "scores.allow_code_execution"
    assert check(request_of(), None, settings, base) == [f"{place}: humaneval needs a sandbox, and there is none"]
    with pytest.raises(MachineError, match="there is none"):
        evaluate(None, None, ["one"], request_of(), settings, base)
    with pytest.raises(InputError, match="set it to true"):
        evaluate(None, None, ["one"], request_of(), ScoresSettings(data_dir="tasks"), base)


@shut_in
def test_rows_that_are_no_problems(base: Path, settings: ScoresSettings, request_of: Any) -> None:
    file = base / "tasks/humaneval/test.jsonl"
    file.write_text(json.dumps({"task_id": "HumanEval/0", "prompt": "def f():", "test": None}) + "\n")
    with pytest.raises(InputError, match=r"scores.data_dir: .*row 1 has no text test, entry_point"):
        evaluate(None, None, ["one"], request_of(), settings, base)


def test_a_model_without_room(small_model: Path, on_cpu: None, tokenizer: Any, request_of: Any) -> None:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - heavy
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    from blackbox.scores.completions import complete  # noqa: PLC0415 - heavy

    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    small = get_peft_model(AutoModelForCausalLM.from_pretrained(small_model), config, adapter_name="one")
    with pytest.raises(InputError, match="humaneval writes up to 1024 tokens, the model has room for 512"):
        complete(small, tokenizer, "one", ["def f():"], request_of(), 1)
