"""Exchange formats: what the readers of ONNX and OpenVINO hand over -> `Graph`.

nodes       a node: operation, inputs by name, attributes; what the readers give
attributes  a dataclass for each set of attributes
operations  the table: inputs, attributes, `convert` and `fold` of each operation
build       the walk over the nodes
tensors, builder           activations of a file; the graph under construction
pictures    a resize of pictures that the file begins with
faces       axes of the file's own input and output, for the writers
pixels, windows, pools, padding, shapes, channels    converters by subject; advice: what would do instead of what is refused
constants, fold            constant values
quantizers, geometry       arithmetic of quantizers, resizes and padding
repair      quantizers where the graph needs them
tail        the end of the network as the graph has it
"""
