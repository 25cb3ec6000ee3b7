"""What of a graph onnxruntime's CoreML provider takes, found without a Mac."""
