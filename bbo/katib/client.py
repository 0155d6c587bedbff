"""The cluster: what was rendered is created there through the SDK's client."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bbo.errors import InputError, MachineError


def submit(documents: Sequence[Mapping[str, Any]]) -> str:
    """Create the volume's claim (one that is there already is kept) and the Katib Experiment, whose name is returned.

    The cluster is the current one of the kubeconfig, or the one we run in. Raises InputError where the SDK is missing,
    where there is no cluster, the name is taken or the API server refuses; MachineError where it cannot be reached.
    """
    try:
        from kubeflow.katib import KatibClient  # noqa: PLC0415 - an extra
        from kubernetes.config import ConfigException  # noqa: PLC0415
    except ImportError:
        raise InputError("--submit: needs Katib's SDK: pip install 'bbo[katib]'") from None
    *claims, experiment = documents
    namespace, name = experiment["metadata"]["namespace"], experiment["metadata"]["name"]
    try:
        client = KatibClient(namespace=namespace)
    except ConfigException as error:
        raise InputError(f"--submit: no cluster: {error}") from None
    try:
        for claim in claims:
            _create_claim(client, namespace, claim)
        client.create_experiment(experiment, namespace)
    except Exception as error:  # the SDK wraps what the API server said in bare exceptions
        raise _explained(error, f"{namespace}/{name}") from None
    return str(name)


def _create_claim(client: Any, namespace: str, claim: Mapping[str, Any]) -> None:
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415

    try:
        client.core_api.create_namespaced_persistent_volume_claim(namespace, claim)
    except ApiException as error:
        if error.status != 409:
            raise


def _explained(error: BaseException, what: str) -> Exception:
    """What the API server said, in one sentence; the SDK's exceptions have it as their context."""
    cause = error.__context__ or error
    status, body = getattr(cause, "status", None), getattr(cause, "body", None)
    if status is None:
        return MachineError(f"{what}: the cluster cannot be reached: {cause}")
    if status == 409:
        return InputError(f"{what}: an experiment of this name is there already: --name, or delete it")
    try:
        said = json.loads(body or "")["message"]
    except (ValueError, KeyError, TypeError):
        said = getattr(cause, "reason", None) or str(cause)
    kind = MachineError if status >= 500 else InputError
    return kind(f"{what}: the cluster refuses: {said}")
