"""The dashboard: pages over the same queries that the API answers with, served by the API's
process.

Pages work without scripts: links, forms and details elements do everything but following. With
scripts (HTMX, its extension for server-sent events, and idiomorph, put beside this by `make
assets`) a page asks for itself again when the read model has moved on, and what has changed is
changed in place.
"""
