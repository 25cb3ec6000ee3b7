"""The diagnosis of a machine: what it is, and what works on it in which kind of process.

``warmclip doctor`` itself loads nothing heavy: whatever may crash or hang runs in children.
"""
