"""Damaged inputs for everything that reads a file: `python -m tests.fuzz 1000` tries a thousand."""
