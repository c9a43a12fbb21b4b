"""Bodies as they were before they were compressed; of what was sent to fill the memory never more than a limit."""

import zlib

# Each member of a gzip body costs a copy of what follows it.
MOST_MEMBERS = 100
_EITHER_HEADER = zlib.MAX_WBITS | 32
_NO_HEADER = -zlib.MAX_WBITS


class EncodingError(ValueError):
    """The body can't be taken as it was encoded.

    EncodingError
     ├─ Unsupported   a content encoding that we don't undo
     ├─ TooLarge      more bytes than allowed once decompressed
     └─ Corrupt       not what its encoding says
    """


class Unsupported(EncodingError):
    """The body is compressed in a way that we don't undo."""


class TooLarge(EncodingError):
    """The body has more bytes than allowed once decompressed."""


class Corrupt(EncodingError):
    """The body is not what its encoding says."""


def undone(body: bytes, encoding: str | None, *, limit: int) -> bytes:
    """Undo `gzip` or `deflate` up to `limit` bytes; raises Unsupported, TooLarge or Corrupt."""
    name = (encoding or "identity").strip().lower()
    if name in ("identity", ""):
        if len(body) > limit:
            raise TooLarge(f"The body has more than {limit:,} bytes.")
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Unsupported(f"Content-Encoding may be gzip, deflate or identity, not {name}.")
    return _inflated(body, name, limit=limit)


def _inflated(body: bytes, name: str, *, limit: int) -> bytes:
    # Deflate comes with a zlib header by the standard and without one from some senders.
    is_raw = name == "deflate" and not (len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0)
    out = bytearray()
    for _ in range(MOST_MEMBERS):
        stream = zlib.decompressobj(_NO_HEADER if is_raw else _EITHER_HEADER)
        try:
            out += stream.decompress(body, limit - len(out) + 1)
        except zlib.error as error:
            raise Corrupt(f"The body is not valid {name}.") from error
        if len(out) > limit:
            raise TooLarge(f"The body has more than {limit:,} bytes once decompressed.")
        if not stream.eof:
            raise Corrupt(f"The {name} body ended early.")
        # Gzip members may follow one another.
        body = stream.unused_data
        if not body or name == "deflate":
            return bytes(out)
    raise Corrupt(f"The {name} body has more than {MOST_MEMBERS} members.")
