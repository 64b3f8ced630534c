"""The training recipe of the bundled weights (extra `train`): see README.md beside this file."""
