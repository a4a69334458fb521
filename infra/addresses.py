"""Client addresses, as far as they tell one client from another."""

from ipaddress import IPv6Address, ip_address, ip_network

SUBSCRIBER_BITS = 64
"""What one subscriber of IPv6 has at least: all addresses of a /64 (RFC 6177)."""


def network_of(ip: str) -> str:
    """What to count under: an IPv4 address itself, the /64 of an IPv6 one, and whatever is neither as it is."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if not isinstance(address, IPv6Address):
        return ip
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ip_network((address, SUBSCRIBER_BITS), strict=False))
