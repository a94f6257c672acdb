"""The checks of `qgjet doctor`."""
