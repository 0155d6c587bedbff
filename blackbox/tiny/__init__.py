"""The embedded default: a tiny LLaMA and its instruction data, both made here (`python -m blackbox.tiny`)."""
