"""Scores, thresholds, metrics and reports: what is read from maps."""
