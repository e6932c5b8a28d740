"""Whole clusters: docker compose against a real engine (`make test-cluster`)."""
