"""Time, files, text and log messages: what every other folder may use. Imports nothing of qgjet but
its errors.
"""
