"""The YAML's `scores` section: how the tasks named in `outputs` are scored."""

from pathlib import Path

from pydantic import Field, model_validator

from blackbox.hyperparameters import Float, Int, Section

HUMANEVAL = "humaneval"
"""The one task that runs what the model writes."""


class TaskSettings(Section):
    """How one task is scored, where it is not lm-eval's own way."""

    num_fewshot: Int | None = Field(None, ge=0)
    """Examples before each question; unset: 5 for MMLU, lm-eval's own number for the others."""
    limit: Int | None = Field(None, ge=1)
    """Questions of each of its subtasks, the first ones; unset: all."""
    subtasks: tuple[str, ...] = ()
    """Of a group: these alone, without the group's name, as anatomy of mmlu."""
    num_samples: Int = Field(1, ge=1)
    """humaneval: programs written for each problem."""
    temperature: Float = Field(0.0, ge=0)
    """humaneval: of the sampling; 0 takes the likeliest token."""


class ScoresSettings(Section):
    """Where the tasks' data lies and how they are scored."""

    data_dir: str | None = None
    """A folder per task: mmlu/anatomy/test.jsonl, hellaswag/validation.jsonl. Unset: lm-eval's data on the hub."""
    batch_size: Int = Field(16, ge=1)
    """Questions in one pass; changes no score."""
    allow_code_execution: bool = False
    """Whether programs that the model writes may be run, in a sandbox: humaneval."""
    tasks: dict[str, TaskSettings] = Field(default_factory=dict)
    """By lm-eval's name, where a task is not to be scored in lm-eval's own way."""

    @model_validator(mode="after")
    def _sampling_is_humaneval(self) -> "ScoresSettings":
        for name, task in self.tasks.items():
            if name == HUMANEVAL and task.num_samples > 1 and task.temperature == 0:
                raise ValueError(f"tasks.{name}: temperature must be above 0 for num_samples to differ")
            if name != HUMANEVAL and {"num_samples", "temperature"} & task.model_fields_set:
                raise ValueError(f"tasks.{name}: num_samples and temperature are humaneval's")
        return self

    def folder(self, base: Path) -> Path | None:
        """data_dir, relative to the YAML's folder."""
        return None if self.data_dir is None else (base / Path(self.data_dir).expanduser()).absolute()
