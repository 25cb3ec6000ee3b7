"""The HTTP API: training sessions, searches, vectors, and how all of it is.

It embeds nothing and opens no store: workers do, asked through the queue. So this process stays
light, forks nothing, and works the same with the embedded store and with a server.
"""

DEFAULT_RATE = 12_000
"""Requests a minute that one client may make, unless told otherwise."""
