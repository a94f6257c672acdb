"""What NATS stores for qgjet, one module for each thing: the event log, the queue, artifacts,
agents, streams and their backup.
"""
