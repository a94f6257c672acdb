"""Questions to the read model, one module for each thing. Plain and synchronous; each reads one
snapshot.
"""
