"""The two kinds of trouble that stop a run; a point's own failure is a Result, not an exception."""


class InputError(Exception):
    """Mistakes of the user's, each one sentence with file, line, rule and value; all found are reported together."""

    def __init__(self, *messages: str) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


class MachineError(Exception):
    """The machine's failure (disk full, device lost, file gone): nothing is recorded and the run can continue."""
