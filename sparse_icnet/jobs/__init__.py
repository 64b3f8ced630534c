"""Many pictures and films: what to segment, what the results are called and whose they are, from files to files.

    sources    arguments (files, folders, patterns, lists) -> Source: a file and its output name
    outputs    a source's result files, the marks in them, and whether they may be written
    manifest   the lines of manifest.jsonl
    batch      one run over many sources on an executor
    films      a video -> result files and a record, whole or in stretches that are joined
    side_by_side  inferences at the same time
    overlap    items made ahead, or worked on at the same time, by threads
    tasks      what a worker process calls
    work       one Source -> result files and records

Nothing here prints or parses a command line.
"""
