"""The embedded default: a tiny LLaMA and its instruction data, both made by this project (`python -m blackbox.tiny`)."""
