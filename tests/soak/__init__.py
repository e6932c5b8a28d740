"""Whole runs for an hour: no process grows (`python -m tests.soak`, `make soak`)."""
