"""ONNX: `read` and `write`.  Both import the package onnx when they are called, not before."""
