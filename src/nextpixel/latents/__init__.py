"""Latent codes as data, and the two-stage generator."""
