"""Whom an IP address stands for."""

from __future__ import annotations

import ipaddress

_ONE_NETWORK = 64


def counted_address(address: str) -> str:
    """What limits count by: every IPv6 customer has at least a /64 to choose addresses from, so that counts as one."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((ip, _ONE_NETWORK), strict=False))
