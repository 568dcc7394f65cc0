"""Messages whose bytes are not what they should be: other encodings, other formats, and envelopes with a wrong head."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import marshal
import pickle
import random
import zlib
from collections.abc import Iterator

from tests.bad_input.case import Case, all_bad, all_good, envelope, job, new_epoch

__all__ = ["compressed", "content_types", "encodings", "heads", "other_formats"]

#: `{}` compressed by programs that Python 3.11 does not have.
_ZSTD, _BROTLI = bytes.fromhex("28b52ffd0402110000 7b7d d0dd2d52".replace(" ", "")), bytes.fromhex("0b00807b7d03")


def compressed() -> Iterator[Case]:
    """Whole and cut, with and without a word about it."""
    whole = envelope(job("compressed"), epoch=new_epoch())
    forms = {
        "gzip": gzip.compress(whole, mtime=0),
        "deflate": zlib.compress(whole),
        "bz2": bz2.compress(whole),
        "xz": lzma.compress(whole),
        "zstd": _ZSTD,
        "br": _BROTLI,
    }
    for name, body in forms.items():
        yield all_bad(f"{name}-unsaid", body, "not_json")
        yield all_bad(f"{name}-said", body, "not_json", content_encoding=name)
        yield all_bad(f"{name}-cut", body[: len(body) // 2], "not_json", content_encoding=name)
    epoch = new_epoch()
    said = envelope(job("said-to-be-compressed"), epoch=epoch)
    yield Case("not-compressed-but-said", said, {"stored": 1}, content_encoding="gzip")


def content_types() -> Iterator[Case]:
    """Whatever a message is called, it is what it is; only CloudEvents are known by their name."""
    for number, name in enumerate(
        (
            *("", "application/json", "text/plain", "application/x-python-serialize", "application/data", "x" * 250, "/", ";"),
            *("APPLICATION/VND.PENSTOCK.V1+JSON", "application/vnd.penstock.v1+json; charset=utf-16", "image/png", "\u202e"),
        )
    ):
        body = envelope(job(f"content-type-{number}"), epoch=new_epoch())
        yield Case(f"content-type-{number}", body, {"stored": 1}, content_type=name)
    for name in ("application/cloudevents+json", "application/cloudevents-batch+json; charset=utf-8"):
        body = envelope(job("not-a-cloudevent"), epoch=new_epoch())
        yield all_bad(f"envelope-as-{name}", body, "invalid_cloudevent", content_type=name)


def encodings() -> Iterator[Case]:
    """UTF-8 is the only encoding of JSON on a wire (RFC 8259), without a byte order mark."""
    whole = envelope(job("encodings", name="ä€"), epoch=new_epoch()).decode()
    for name in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp037"):
        yield all_bad(f"encoding-{name}", whole.encode(name), "not_json")
    for name, mark in {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_LE}.items():
        yield all_bad(f"mark-of-{name}", mark + whole.encode(), "not_json")


def other_formats() -> Iterator[Case]:
    """What a producer of something else may have put into our queue."""
    chance = random.Random(8)
    bodies = {
        "empty": b"",
        "pickle": pickle.dumps({"v": 1}),
        "marshal": marshal.dumps({"v": 1}),
        "msgpack": b"\x81\xa1v\x01",
        "protobuf": b"\x08\x01\x12\x07testing",
        "avro": b"Obj\x01\x04\x16avro.schema",
        "xml": b"<?xml version='1.0'?><events/>",
        "yaml": b"v: 1\nevents: []\n",
        "csv": b"type,op\nscheduler.job,upsert\n",
        "json_lines": b'{"v":1}\n{"v":1}\n',
        "python_repr": b"{'v': 1, 'events': [None, True]}",
        "javascript": b"{v: 1, events: [undefined]}",
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "elf": b"\x7fELF\x02\x01\x01",
        "http": b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "nul": b"\0" * 1_000,
        **{f"random-{number}": chance.randbytes(chance.randrange(1, 400)) for number in range(40)},
    }
    for name, body in bodies.items():
        yield all_bad(f"format-{name}", body, "not_json")
    task = b'[[], {"id": 1}, {"callbacks": null}]'
    for name, text in {"celery_task": task, "object": b'{"a":1}', "scalar": b"7", "event": job("alone")}.items():
        yield all_bad(f"format-{name}", text, "invalid_envelope")


def heads() -> Iterator[Case]:
    """The envelope's own fields."""
    dead: dict[str, list[bytes | None]] = {
        "v": [None, b"null", b'"1"', b"[]", b"1.5", b'"x"'],
        "producer": [None, b"null", b"7", b"[]", b'"a\\u0000b"', b'"\\u001b[2J"', b'"a\\nb"', b'"%b"' % (b"x" * 201)],
        "epoch": [None, b"null", b"7", b'"x"', b'""', b'"0199bad0-0000-7000-8000-00000000000g"', b"[]"],
        "seq": [None, b"null", b"-1", b"281474976710656", b"9223372036854775808", b"1.5", b"1e400", b'"x"', b"[]"],
        "dropped": [b"null", b"7", b"{}", b"[7]", b"[[1]]", b'[[1,2,"Full!"]]', b'[[-1,2,"full"]]', b'[[1,1e400,"full"]]'],
        "closed": [b"null", b"7", b'"maybe"', b"[]"],
        "reply_to": [b"7", b"[]", b"{}", b"true"],
    }
    for name, values in dead.items():
        for value in values:
            body = envelope(job("head"), **{"epoch": new_epoch(), name: value})
            yield all_bad(f"head-{name}-{(value or b'none')[:20].decode()}", body, "invalid_envelope")
    for value in (b"0", b"2", b"-1", b"999999999999999999999"):
        body = envelope(job("head"), epoch=new_epoch(), v=value)
        yield all_bad(f"head-v-{value.decode()}", body, "unknown_envelope_version", state="held")
    for value in (None, b"null", b"7", b'"x"', b"{}", b"true"):
        body = envelope(epoch=new_epoch(), events=value)
        yield all_bad(f"head-events-{(value or b'none').decode()}", body, "invalid_envelope")
    last = 2**48 - 1
    body = envelope(job("over-the-end-a"), job("over-the-end-b"), epoch=new_epoch(), seq=b"%d" % last)
    yield all_bad("seq-over-the-end", body, "invalid_envelope")
    epoch = new_epoch()
    body = envelope(job("at-the-end"), epoch=epoch, seq=b"%d" % last)
    yield Case("seq-at-the-end", body, {"stored": 1})
    for number, text in enumerate(
        (b'"garbage"', b'"penstock.events"', b'"celery"', b'"\\u0000"', b"null", b'"%b"' % (b"x" * 9_999))
    ):
        yield all_good(f"reply-to-{number}", job(f"reply-to-{number}"), reply_to=text)
    yield all_good("unknown-fields-of-the-head", job("unknown-head"), later=b'{"a":[1e400,null]}')
    yield all_good("dropped-backwards", job("dropped-backwards"), dropped=b'[[9,3,"buffer_full"]]')
