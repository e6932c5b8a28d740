"""Fixtures of the end-to-end tests."""

from tests.e2e.runs import train

__all__ = ["train"]
