"""Readers of a user's own backbone: an ONNX file becomes a PyTorch module (model/onnx_backbone.py)."""
