"""The harness: proposes points, runs the blackbox, keeps store and run log. Knows no torch and no LLM."""

__version__ = "0.1.0"
