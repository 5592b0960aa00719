"""Addresses of servers and repositories."""

from urllib.parse import urlsplit, urlunsplit


def without_credentials(uri: str) -> str:
    """Returns the address without user name and password, for files and logs."""
    address = urlsplit(uri)
    if "@" not in address.netloc:
        return uri
    return urlunsplit(address._replace(netloc=address.netloc.rpartition("@")[2]))
