"""Exchange formats: nodes as the readers of ONNX and OpenVINO hand them over -> `Graph`."""
