"""The HTTP API: training sessions, searches, vectors, health and metrics.

It loads no model and opens no store: it asks workers through the queue. So the server process
stays light, forks nothing, and works the same with the embedded store and with a Qdrant server.
"""

DEFAULT_RATE = 12_000
"""Requests that one address may make in a minute, unless told otherwise."""
