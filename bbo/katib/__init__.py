"""Katib on Kubernetes: a params pair as a Katib Experiment, whose trials run the blackbox."""

from bbo.katib.client import submit
from bbo.katib.render import manifests, render, to_yaml
from bbo.katib.settings import KatibSettings, katib_settings

__all__ = ["KatibSettings", "katib_settings", "manifests", "render", "submit", "to_yaml"]
