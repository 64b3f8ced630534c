"""The symbols that `sparse_icnet.deflate_kernel` knows: bytes, and repeats of the byte before.  Does not import Numba."""

BYTES = 256  # symbols that are one byte
GROUP = 4  # bytes; repeats are multiples of it, symbol BYTES + bytes // GROUP
LONGEST = 256  # bytes of repeats
SYMBOLS = BYTES + LONGEST // GROUP + 1
# Bits of the code of a byte: those of a group and the seven bits left before fit a word.
MOST_BITS = 14
