"""Evaluates models: likelihood, anomaly scores, sample and image quality."""
