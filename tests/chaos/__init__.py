"""Whole runs whose processes are killed and stopped at random moments, and what must hold in the end.

python -m tests.chaos --kills 100 --seed 1 --write docs/reliability.md
"""
