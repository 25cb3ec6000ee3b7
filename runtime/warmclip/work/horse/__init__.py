"""The horse: the process that runs a worker's jobs, exec'd once and warm ever after.

``process``, ``flight`` and ``blame`` belong to the worker, which watches it; ``warm``, ``beats``
and ``__main__`` to the horse itself. The two sides talk in lines of JSON over two pipes.
"""
