"""The variables of the environment that change how HTTP requests travel: proxies and certificates."""

from __future__ import annotations

import ipaddress
import os
import ssl
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from qgjet.errors import InvalidSettings


def client(base: httpx.URL, **options: Any) -> httpx.AsyncClient:
    """Make a client for one server. A local address needs no proxy; certificates count for it, too.

    Raises:
        InvalidSettings: A variable cannot be used; the error names it.
    """
    try:
        if not is_local(base.host):
            return httpx.AsyncClient(base_url=base, **options)
        verify = httpx.create_ssl_context() if base.scheme == "https" else True
        return httpx.AsyncClient(base_url=base, trust_env=False, verify=verify, **options)
    except (httpx.InvalidURL, ValueError, ImportError, OSError) as error:
        raise _unusable(error) from error


def is_local(host: str) -> bool:
    """Whether a host is this machine: its name is localhost, or its address is a loopback address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_variable(base: httpx.URL) -> str:
    """Name the variable with the proxy for a server; empty if there is none."""
    proxies = getproxies()
    if is_local(base.host) or proxy_bypass(base.host):
        return ""
    return next(
        (_variable(f"{scheme}_proxy") for scheme in (base.scheme, "all") if proxies.get(scheme)), ""
    )


def _variable(name: str) -> str:
    """Name a variable as it is set; lower case comes first, as it does for httpx."""
    return name if os.environ.get(name) else name.upper()


def _unusable(error: Exception) -> InvalidSettings:
    if isinstance(error, OSError):
        name = next(
            (name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)),
            "SSL_CERT_FILE",
        )
        why = (
            "it holds no certificates"
            if isinstance(error, ssl.SSLError)
            else error.strerror or str(error)
        )
        return InvalidSettings(
            name, f"cannot be used: {os.environ.get(name, '')}: {why}. Correct it, or unset it"
        )
    for scheme, url in getproxies().items():
        if scheme in ("http", "https", "all") and (why := _flaw(url)):
            return InvalidSettings(_variable(f"{scheme}_proxy"), f"cannot be used: {why}")
    return InvalidSettings(
        _variable("no_proxy"),
        "cannot be used: an entry is not a host, a domain or an address. Write a list such as localhost,.example.com",
    )


def _flaw(url: str) -> str:
    """Why httpx cannot use a proxy; empty if it can. The address may hold a password, so it is not
    shown.
    """
    try:
        httpx.AsyncHTTPTransport(
            proxy=httpx.Proxy(url if "://" in url else f"http://{url}"), verify=False
        )
    except ImportError:
        return "a SOCKS proxy needs another package: pip install 'httpx[socks]'"
    except (httpx.InvalidURL, ValueError):
        return "write an address such as http://proxy.example:3128"
    return ""
