"""The horse: the process that runs a worker's jobs, exec'd once and kept warm.

``warm_horse``, ``process`` and ``in_flight`` belong to the worker, which watches it; ``context``,
``reporter`` and ``__main__`` to the horse itself. They send lines of JSON through two pipes.
"""
