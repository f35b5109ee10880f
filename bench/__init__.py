"""Measurements: what README and docs/ claim, and the commands that made it."""
