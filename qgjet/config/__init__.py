"""Settings: their names, their types and how they are read. No other folder knows a key of
`qgjet.toml`.
"""
