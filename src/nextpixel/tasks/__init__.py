"""Applies trained models: restoration, variations, reconstruction."""
