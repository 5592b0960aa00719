"""Decoding: from video files and lists of images to sampled frames.

In: paths, the sampling settings and the limits. Out: `Frames`, patch rows as the model reads them, or a VideoError with its reason.
Decoding runs in separate processes, because the files are untrusted. Open `decoder.py` first.
"""
