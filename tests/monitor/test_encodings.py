"""Bodies undone from their encoding: what is taken, what is refused, and how much memory that takes."""

import gzip
import tracemalloc
import zlib

import pytest

from monitor import encodings

LIMIT = 100_000


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        (None, lambda body: body),
        ("identity", lambda body: body),
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:3]) + gzip.compress(body[3:])),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body)[2:-4]),
    ],
)
def test_what_senders_use_is_undone(encoding, packed):
    assert encodings.undone(packed(b"many words"), encoding, limit=LIMIT) == b"many words"


@pytest.mark.parametrize(
    ("encoding", "body", "error"),
    [
        ("br", b"x", encodings.Unsupported),
        ("gzip", b"not gzip", encodings.Corrupt),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9], encodings.Corrupt),
        ("gzip", b"", encodings.Corrupt),
        ("deflate", b"\xff\xff\xff", encodings.Corrupt),
        ("gzip", gzip.compress(bytes(50_000_000), mtime=0), encodings.TooLarge),
        ("deflate", zlib.compress(bytes(50_000_000)), encodings.TooLarge),
        ("gzip", gzip.compress(bytes(LIMIT), mtime=0) + gzip.compress(b"x", mtime=0), encodings.TooLarge),
        (None, bytes(LIMIT + 1), encodings.TooLarge),
    ],
)
def test_bombs_and_rubbish_are_refused(encoding, body, error):
    with pytest.raises(error):
        encodings.undone(body, encoding, limit=LIMIT)


def test_a_bomb_is_never_held_in_memory():
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(encodings.TooLarge):
        encodings.undone(bomb, "gzip", limit=LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 10 * LIMIT


def test_a_body_of_just_the_limit_is_taken():
    assert len(encodings.undone(gzip.compress(bytes(LIMIT)), "gzip", limit=LIMIT)) == LIMIT


def test_a_body_of_many_members_is_refused_at_once():
    with pytest.raises(encodings.Corrupt, match="more than 100 members"):
        encodings.undone(gzip.compress(b"") * 200_000, "gzip", limit=10**7)
