"""Addresses of servers, as they may be shown."""

from __future__ import annotations

import re


def without_password(urls: str) -> str:
    """Addresses, separated by commas, fit to be shown. Passwords may hold what no URL may, such as
    `/`, `,` and `@`: too much goes rather than too little.
    """
    return ",".join(map(_without_password, re.split(r",(?=[a-z]+://)", urls)))


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("//")
    if not separator or "@" in scheme:
        scheme, separator, rest = "", "", url
    may_have_one = re.search("[:@]", rest.partition("/")[0])
    return scheme + separator + (rest.rpartition("@")[2] if may_have_one else rest)
