"""The headers that tell a client how much it may still ask (draft-ietf-httpapi-ratelimit-headers-10)."""


def rate_limit_headers(
    policy: str, *, quota: int, window_seconds: int, remaining: int, reset_seconds: int
) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` for one policy, of whose quota so much remains until the reset."""
    return [
        (b"ratelimit-policy", f'"{policy}";q={quota};w={window_seconds}'.encode()),
        (b"ratelimit", f'"{policy}";r={max(remaining, 0)};t={max(reset_seconds, 0)}'.encode()),
    ]
