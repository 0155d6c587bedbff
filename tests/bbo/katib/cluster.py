"""What Katib does with an Experiment, as its controller, pod webhook and metrics collector have it in Go, and an API
server that only takes notes."""

import json
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import optuna
import yaml

FILTER = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
"""DefaultFilter of pkg/metricscollector/v1beta1/common."""


def suggest(experiment: Mapping[str, Any], seed: int) -> dict[str, str]:
    """Assignments as the Optuna suggestion service makes them: str() of what Optuna draws."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask(
        {each["name"]: distribution(each) for each in experiment["spec"]["parameters"]}
    )
    return {name: str(value) for name, value in trial.params.items()}


def distribution(parameter: Mapping[str, Any]) -> optuna.distributions.BaseDistribution:
    space = parameter["feasibleSpace"]
    if parameter["parameterType"] == "categorical":
        return optuna.distributions.CategoricalDistribution(space["list"])
    if parameter["parameterType"] == "int":
        return optuna.distributions.IntDistribution(int(space["min"]), int(space["max"]))
    log = space.get("distribution") == "logUniform"
    return optuna.distributions.FloatDistribution(float(space["min"]), float(space["max"]), log=log)


def substitute(experiment: Mapping[str, Any], assignments: Mapping[str, str]) -> dict[str, Any]:
    """The trial's object: applyParameters replaces text in the template's JSON."""
    template = experiment["spec"]["trialTemplate"]
    text = json.dumps(template["trialSpec"])
    assert len(assignments) == len(template["trialParameters"])
    for each in template["trialParameters"]:
        place = f"${{trialParameters.{each['name']}}}"
        assert place in text
        text = text.replace(place, assignments[each["reference"]])
    assert not re.search(r"\$\{trialParameters\..+?\}", text)
    replaced: dict[str, Any] = json.loads(text)
    return replaced


def wrapped(container: Mapping[str, Any], metrics: Path) -> list[str]:
    """The container's command as wrapWorkerContainer makes it, to catch what it prints."""
    words = [*container["command"], *container["args"]]
    shell = ["sh", "-c"]
    if words[0] in ("sh", "bash") and words[1] == "-c":
        shell, words = words[:2], words[2:]
    quoted = shlex.quote(str(metrics))
    done = f"echo completed > {shlex.quote(str(metrics.parent))}/$$.pid"
    return [*shell, " ".join([*words, f"1>{quoted} 2>&1", "&&", done])]


def collect(metrics: Path, objective: Mapping[str, Any]) -> dict[str, str]:
    """The latest value of each metric, as the collector finds them."""
    wanted = [objective["objectiveMetricName"], *objective["additionalMetricNames"]]
    found: dict[str, str] = {}
    for line in metrics.read_text().splitlines():
        if any(name in line for name in wanted):
            for name, value, *_ in re.findall(FILTER, line, re.ASCII):
                if name in wanted:
                    found[name] = value
    return found


@contextmanager
def api_server(
    folder: Path, status: int = 201, message: str = "", claimed: int = 201
) -> Iterator[list[tuple[str, Any]]]:
    """A Kubernetes API server on localhost, by a kubeconfig in `folder`; what is created: (path, object).

    It answers with `status`, for a claim with `claimed`.
    """
    created: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            created.append((self.path, content))
            code = claimed if self.path.endswith("persistentvolumeclaims") else status
            answer = content if code == 201 else {"kind": "Status", "message": message, "code": code}
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"cluster": "here", "user": "me"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": names}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield created
    finally:
        server.shutdown()
        server.server_close()
