"""Decoding: from video files and lists of images to sampled frames.

In: paths, the sampling settings and the limits. Out: `Frames`, patch rows as the model reads them, or a VideoError with its reason.
Every decoder runs in a process of its own, since nobody vouches for the files. Open `decoder.py` first.
"""
