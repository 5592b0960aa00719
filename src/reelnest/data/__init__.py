"""Formats, validation, decoding, the frame store and what training reads from it."""
