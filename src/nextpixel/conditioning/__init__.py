"""Conditioning on more than a class: degraded images, classifier features, coarse codes."""
