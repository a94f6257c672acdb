"""From what one attempt left behind to its outcome: the evidence, the readers of reports, and the
rules. Pure.
"""
