"""OpenVINO IR: `xml` (syntax), `read` (versions 10 and 11), `read_v7` and `write`."""
