"""RQ: the private Redis, the worker, the jobs it accepts, and the client that sends them.

The only part of warmclip that uses rq and redis. A process that sends jobs imports nothing here
that loads onnxruntime, numpy or Qdrant's client: those belong to the process that runs jobs.
"""
