"""Exchange formats: what the readers of ONNX and OpenVINO hand over -> `Graph`.

nodes       a node: operation, inputs by name, attributes; what the readers give
attributes  a dataclass for each set of attributes
operations  the table: inputs, attributes, `convert` and `fold` of each operation
build       the walk over the nodes
tensors     the graph under construction
pixels, windows, pools, shapes    converters by subject
constants, fold            constant values
quantizers, geometry       arithmetic of quantizers, resizes and padding
repair      quantizers where the graph needs them
"""
