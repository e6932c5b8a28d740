"""`python -m benchmarks.scores`: what every algorithm reaches, on how many seeds, beside what others published.

Each run is a `shoal train` of its own with the preset that a user gets. Results are kept in docs/scores.json; what is
there is not run again. The page and its pictures are written from that file.
"""
