"""One module a command of `sparse_icnet.cli`: `run(arguments) -> exit code`; errors are raised."""
