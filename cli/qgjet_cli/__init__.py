"""The command line: `qgjet`, also installed as `qgjob`."""
