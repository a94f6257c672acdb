"""Measurements of qgjet against the broker it stands on; run with `make bench`."""
