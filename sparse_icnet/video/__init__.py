"""Videos in and out, with PyAV (extra `video`), which is imported when a video is opened.

reading  what is in a file; its frames, upright and RGB, by their place in the film
writing  films, in one go or in parts that are joined without being encoded again
"""

from sparse_icnet.video.reading import EXTRA, SUFFIXES, Film, Stretch, VideoError, probe, read, require
from sparse_icnet.video.writing import GROUP, Writer, join

__all__ = [
    "EXTRA",
    "GROUP",
    "SUFFIXES",
    "Film",
    "Stretch",
    "VideoError",
    "Writer",
    "join",
    "probe",
    "read",
    "require",
]
