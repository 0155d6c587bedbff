"""In which order an optimizer is told what the log answers."""

from collections import Counter
from collections.abc import Sequence

from bbo.runlog import Answer, RunLog


class Arrivals:
    """The answers of a log in the order in which whole blocks were answered; in a block by number."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._complete: list[Answer] = []
        self._open: dict[int, list[Answer]] = {}
        self._sizes: Counter[int] = Counter()
        self._asks = self._answers = 0
        """Of the log, what was looked at."""

    def complete(self) -> Sequence[Answer]:
        """As the log has them now."""
        self._sizes.update(ask.block for ask in self._log.asks[self._asks :])
        self._asks = len(self._log.asks)
        for answer in self._log.arrived[self._answers :]:
            ask = self._log.asks[answer.number - 1]
            if not ask.native:
                block = self._open.setdefault(ask.block, [])
                block.append(answer)
                if len(block) == self._sizes[ask.block]:
                    self._complete += sorted(self._open.pop(ask.block), key=lambda a: a.number)
        self._answers = len(self._log.arrived)
        return self._complete
