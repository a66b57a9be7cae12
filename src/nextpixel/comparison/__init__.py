"""Compares several models at an equal budget."""
