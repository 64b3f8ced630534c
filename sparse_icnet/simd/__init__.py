"""The vector language of the kernels: plain Python over `load`, `splat`, `tile_dot`, `store`, one source for every CPU."""
