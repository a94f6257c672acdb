"""Puts API and dashboard together and serves them: under uvicorn, or as part of a local stack."""
