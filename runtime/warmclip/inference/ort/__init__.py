"""onnxruntime in one process: sessions, their graphs, and what is cached on disk."""
