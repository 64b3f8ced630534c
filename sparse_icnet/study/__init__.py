"""For those who read the kernels: what a layer is and computes, where the time goes, and what zeros buy.

Everything here is read from the graph, its rewrites and the plan's own reports; nothing is counted a second time.
"""
