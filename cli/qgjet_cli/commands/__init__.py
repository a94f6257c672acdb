"""Commands of `qgjet`, one module for each noun or verb."""
