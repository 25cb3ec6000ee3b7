"""A graph to try sessions on where there is no bundle: the mean of each colour of a picture.

Made with onnx, which is not installed here: GlobalAveragePool, then Flatten, from ``pixel_values``
(batch, 3, 8, 8) to ``features`` (batch, 3), opset 18. A test makes it again and compares.
"""

import base64

SIDE_PX = 8

_GRAPH = (
    "CAg6mgEKKAoMcGl4ZWxfdmFsdWVzEgVtZWFucyIRR2xvYmFsQXZlcmFnZVBvb2wKGgoFbWVhbnMSCGZlYXR1"
    "cmVzIgdGbGF0dGVuEgR0aW55WisKDHBpeGVsX3ZhbHVlcxIbChkIARIVCgcSBWJhdGNoCgIIAwoCCAgKAggI"
    "Yh8KCGZlYXR1cmVzEhMKEQgBEg0KBxIFYmF0Y2gKAggDQgQKABAS"
)


def tiny_graph() -> bytes:
    """The graph as an ONNX file."""
    return base64.b64decode(_GRAPH)
