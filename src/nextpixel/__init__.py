"""Exact-likelihood pixel models."""
