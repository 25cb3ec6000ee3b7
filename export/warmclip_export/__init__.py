"""Turns OpenCLIP into a bundle: the only place where torch, open_clip and onnx are imported."""
