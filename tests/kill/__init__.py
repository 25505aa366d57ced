"""A run that is killed at a random moment and started again, compared with one that nobody disturbed.

Runs are real processes, killed with SIGKILL. What they left is read here without the program that wrote it: lines of
JSON, and files by their sha256; what the program says of itself is asked at its door. `python -m tests.kill --help`.
"""
