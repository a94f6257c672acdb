"""Jobs, suites and control events: what they are, and what may happen to them. Pure: values in,
values out.
"""
