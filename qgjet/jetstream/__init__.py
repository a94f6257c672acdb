"""The connection to NATS JetStream, and the embedded server. Errors of nats-py end here and leave
as errors of qgjet.
"""
