"""Optuna's dashboard on a run: a study in memory that follows the run's log and store.

Whatever is done in the browser changes that copy alone.
"""

import socketserver
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from bbo.errors import InputError
from bbo.optimizers.study import silence
from bbo.record import Entry, Record
from bbo.reports import study as views
from bbo.runlog import Ask

EVERY = 1.0
"""Seconds between two looks at the run."""


class Mirror:
    """A study in memory that is kept like a run."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.storage = InMemoryStorage()
        self._trials: dict[int, int] = {}
        """Numbers of asks -> the storage's ids of trials."""
        self._open: dict[int, Ask] = {}
        """Asks that had no answer yet, by number."""
        self.study = self._create()
        """The storage's id of it."""

    def refresh(self) -> None:
        """Take over what has happened. After a `bbo retry`, which forgets, it is begun anew."""
        log = self.record.log
        log.refresh()
        if len(log.asks) < max(self._trials, default=0):
            optuna.delete_study(study_name=self.record.run.name, storage=self.storage)
            self._begin()
        elif not any(study._study_id == self.study for study in self.storage.get_all_studies()):
            self._begin()  # somebody has deleted it in the browser
        with silence():
            for ask in list(self._open.values()):
                self._update(self.record.entry(ask))
            for ask in self.record.asks:
                if ask.number not in self._trials and (entry := self.record.entry(ask)).status in views.STATES:
                    self._add(entry)

    def _begin(self) -> None:
        self._trials, self._open, self.study = {}, {}, self._create()

    def _create(self) -> int:
        with silence():
            return views.create(self.storage, self.record)._study_id

    def _add(self, entry: Entry) -> None:
        trial = views.trial_of(self.record.experiment, entry)
        self._trials[entry.ask.number] = self.storage.create_new_trial(self.study, template_trial=trial)
        if entry.status == "pending":
            self._open[entry.ask.number] = entry.ask

    def _update(self, entry: Entry) -> None:
        trial, number = self._trials[entry.ask.number], entry.ask.number
        known = self.storage.get_trial(trial).intermediate_values
        for step, loss in views.losses_of(entry).items():
            if step not in known:
                self.storage.set_trial_intermediate_value(trial, step, loss)
        if entry.status == "pending":
            return
        for name, value in views.attributes_of(entry).items():
            self.storage.set_trial_user_attr(trial, name, value)
        whole = views.trial_of(self.record.experiment, entry) if entry.status in views.STATES else None
        for name, value in (whole.system_attrs if whole else {}).items():
            self.storage.set_trial_system_attr(trial, name, value)
        state = views.STATES.get(entry.status, TrialState.FAIL)  # a declined one, beyond the budget
        self.storage.set_trial_state_values(trial, state, views.values_of(self.record.experiment, entry))
        del self._open[number]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A line per request helps nobody."""


def serve(record: Record, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Until interrupted. Raises InputError where the dashboard is not installed, or nobody can listen there."""
    if find_spec("optuna_dashboard") is None:
        raise InputError("bbo dashboard needs optuna-dashboard: `pip install 'bbo[dashboard]'`")
    from optuna_dashboard import wsgi  # noqa: PLC0415 - an extra

    mirror = Mirror(record)
    mirror.refresh()
    try:
        server = make_server(host, port, wsgi(mirror.storage), server_class=_Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: {error.args[-1]}") from None
    over = threading.Event()
    follower = threading.Thread(target=_follow, args=(mirror, over), name="follower", daemon=True)
    with server:
        follower.start()
        try:
            announce(f"http://{host}:{server.server_port}/dashboard/studies/{mirror.study}")
            server.serve_forever()
        finally:
            over.set()
            follower.join()


def _follow(mirror: Mirror, over: threading.Event) -> None:
    while not over.wait(EVERY):
        mirror.refresh()
