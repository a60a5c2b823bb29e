"""Backbones of the user's own: an ONNX file becomes a module of PyTorch (model/onnx_backbone.py)."""
