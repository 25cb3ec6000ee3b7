"""Vectors for an application's own code, from a model in this process or from the workers.

Importing it loads no onnxruntime; a client that asks through the queue never loads it.
"""
