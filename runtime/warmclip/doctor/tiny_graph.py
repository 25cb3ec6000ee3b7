"""A graph to try sessions on where there is no bundle: the mean of each colour of a picture.

It is a file of this package, so that a doctor needs no folder to write one into. It was made with
onnx, which is not installed here: GlobalAveragePool, then Flatten, from ``pixel_values``
(batch, 3, 8, 8) to ``features`` (batch, 3), opset 18. A test compares.
"""

from pathlib import Path

SIDE_PX = 8

TINY_GRAPH = Path(__file__).with_name("tiny.onnx")
