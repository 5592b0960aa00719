"""The bodies of requests and responses that are videos.

In: a request with a video, or the path of one. Out: a temporary file, or a response. Open `uploads.py` first.
"""
