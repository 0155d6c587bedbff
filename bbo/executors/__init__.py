"""Where jobs run: one verb, `run(launches)`, for each of them (protocol.py); `resources.executor` says which."""
