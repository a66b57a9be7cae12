"""Evaluates models: likelihood, receptive field, anomaly scores, sample and image quality."""
