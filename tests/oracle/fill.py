#!/usr/bin/env python3
"""Fills an etcd or a bucket with made-up data shaped like Milvus's.

  fill.py etcd  --endpoints URL [--cacert F --cert F --key F] [--user U:P]
                --keys N --seed S [--root by-dev] [--only-root] [--no-odd]
  fill.py s3    --endpoint URL --bucket B --access-key A --secret-key S [--ca F]
                --objects N --seed S [--root files] [--every N] [--large] [--no-odd]
  fill.py churn-etcd … --percent P --seed S [--root by-dev]
  fill.py churn-s3   … --percent P --seed S [--root files]
  fill.py poke-etcd  … --seed X [--prefix P]
  fill.py poke-s3    … --seed X [--prefix P] [--what byte|tag]

The same seed makes the same keys and values. N counts the ordinary ones; odd
ones (strange keys, empty and huge values, every kind of metadata) come on top.
What a server refuses is skipped and named. "churn" rewrites, deletes and adds
that share of the keys. "poke" changes exactly one thing: a comparison that does
not notice it is worth nothing.
"""

import argparse
import base64
import http.client
import json
import os
import random
import ssl
import sys
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

sys.dont_write_bytecode = True  # no __pycache__ in the repository
import dump

MIB = 1 << 20


def seeded(*parts):
    """A generator for each thing, so that its content depends on no order."""
    return random.Random("/".join(map(str, parts)))


# --- etcd -----------------------------------------------------------------


class Gateway:
    """etcd over its JSON gateway, on one kept connection."""

    def __init__(self, args):
        url = urllib.parse.urlsplit(args.endpoints.split(",")[0])
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=args.cacert)
            if args.cert:
                context.load_cert_chain(args.cert, args.key)
            self.connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=120)
        else:
            self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=120)
        self.headers = {}
        if args.user:
            name, _, password = args.user.partition(":")
            self.headers["Authorization"] = self.call("auth/authenticate", name=name, password=password)["token"]

    def call(self, path, may_exist=False, **request):
        self.connection.request("POST", "/v3/" + path, json.dumps(request), self.headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200 and not (may_exist and b"already exists" in body):
            sys.exit(f"etcd refused {path}: {answer.status} {body.decode(errors='replace').strip()}")
        return json.loads(body)

    def write(self, operations):
        """Transactions of at most 100 operations and, as etcd refuses more than
        1.5 MiB, of at most 1 MiB unless one alone is larger."""
        batch, size = [], 0
        for operation in operations:
            length = len(json.dumps(operation)) * 3 // 4
            if batch and (len(batch) == 100 or size + length > MIB):
                self.call("kv/txn", success=batch)
                batch, size = [], 0
            batch.append(operation)
            size += length
        if batch:
            self.call("kv/txn", success=batch)

    def keys(self, prefix):
        start, end = prefix or b"\0", dump.prefix_end(prefix) or b"\0"
        while True:
            page = self.call("kv/range", key=b64(start), range_end=b64(end), keys_only=True, limit=10_000)
            keys = [base64.b64decode(kv["key"]) for kv in page.get("kvs", [])]
            yield from keys
            if not page.get("more"):
                return
            start = keys[-1] + b"\0"


def b64(data):
    return base64.b64encode(data).decode()


def put(key, value, **more):
    return {"request_put": {"key": b64(key), "value": b64(value), **more}}


def delete(key):
    return {"request_delete_range": {"key": b64(key)}}


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(*fields):
    """Protobuf: (number, int or bytes) pairs."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def tso(rng):
    return (1_700_000_000_000 + rng.randrange(10**10)) << 18


def field_binlog(rng, field):
    logs = [
        message((1, rng.randrange(1, 9999)), (2, tso(rng)), (3, tso(rng)), (5, rng.randrange(10**7)),
                (6, 449 * 10**15 + rng.randrange(10**12)), (7, rng.randrange(10**7)))
        for _ in range(rng.randrange(2, 10))
    ]
    return message((1, field), *((2, log) for log in logs))


def position(rng, channel):
    return message((1, channel), (2, rng.randbytes(8)), (3, b"datanode-" + channel), (4, tso(rng)))


def milvus_key(rng, root, number):
    """One ordinary key and value; the number makes the key unique."""
    meta = f"{root}/meta"
    collection = 449 * 10**15 + number // 1000
    partition, segment = collection + 1, 449 * 10**15 + 10**9 + number
    channel = f"by-dev-rootcoord-dml_{number % 16}_{collection}v0".encode()
    triple = f"{collection}/{partition}/{segment}"
    kind = rng.choices(
        ("binlog", "statslog", "deltalog", "s", "segment-index", "fields", "partitions", "collection", "snapshot", "cp"),
        (45, 10, 10, 6, 10, 10, 3, 1, 4, 1),
    )[0]
    if kind in ("binlog", "statslog", "deltalog"):
        field = rng.choice((0, 1, 100, 101, 102))
        # Milvus writes empty delta logs.
        value = b"" if kind == "deltalog" and rng.random() < 0.02 else field_binlog(rng, field)
        return f"{meta}/datacoord-meta/{kind}/{triple}/{field}", value
    if kind == "s":
        # State 6 is "dropped": no object of the bucket belongs to these segments.
        value = message((1, segment), (2, collection), (3, partition), (4, channel), (5, rng.randrange(10**6)), (6, 6),
                        (9, position(rng, channel)), (10, position(rng, channel)), (16, tso(rng)))
        return f"{meta}/datacoord-meta/s/{triple}", value
    if kind == "segment-index":
        files = ((11, name) for name in (b"IVF_FLAT", b"index_params", b"SLICE_META"))
        value = message((1, collection), (2, partition), (3, segment), (4, rng.randrange(10**6)), (5, collection + 9),
                        (6, number), (8, 1), (9, 3), *files, (14, rng.randrange(10**8)))
        return f"{meta}/segment-index/{triple}/{number}", value
    if kind == "fields":
        params = ((6, message((1, b"dim"), (2, str(2 ** rng.randrange(5, 12)).encode()))) for _ in range(3))
        value = message((1, 100), (2, f"field_{number}".encode()), (5, rng.choice((5, 21, 101))), *params)
        return f"{meta}/root-coord/fields/{collection}/{number}", value
    if kind == "partitions":
        value = message((1, partition), (2, b"_default"), (3, tso(rng)), (4, collection), (5, 0)) + rng.randbytes(30)
        return f"{meta}/root-coord/partitions/{collection}/{number}", value
    if kind == "cp":
        return f"{meta}/datacoord-meta/channel-cp/{channel.decode()}_{number}", position(rng, channel)
    name = f"root-coord/database/collection-info/1/{segment}"
    schema = message((1, f"docs_{number}".encode()), (2, b"made up"))
    value = message((1, segment), (2, schema), (3, tso(rng)), (7, channel), (8, channel[:-2]), (10, 2), (12, 2), (13, 0))
    if kind == "snapshot":
        # Some are the mark that Milvus puts where something was deleted.
        value = b"\xe2\x9b\xbc" if rng.random() < 0.1 else value
        return f"{meta}/snapshots/{name}_ts{tso(rng)}", value
    return f"{meta}/{name}", value


def odd_keys(rng, root, only_root):
    """What breaks tools: (key, value) pairs."""
    odd = f"{root}/odd/".encode()
    yield odd + b"not-utf8-\xff\xfe\x80", b"invalid"
    yield odd + b"latin-\xe9t\xe9", rng.randbytes(60)
    yield odd + b"cut-emoji-\xf0\x9f", b"\xf0\x9f"
    yield odd + "emoji-\N{SNOWMAN}-\N{ROCKET}".encode(), "\N{ROCKET}".encode() * 20
    yield odd + b"nul\0inside", b"\0" * 100
    yield odd + b"nul\0inside\0twice", b"\0"
    yield odd + b"line\nbreak\ttab\r", b"a\nb\n"
    yield odd + b"-dash and  spaces ", b" "
    yield odd + b"long/" + b"k" * 4000, b"long key"
    yield odd + b"x", b"prefix of the next"
    yield odd + b"x/", b""
    yield odd + b"x/y", b"\0"
    for number in range(3):
        yield odd + f"empty/{number}".encode(), b""
    for number in range(5):
        yield odd + f"20k/{number}".encode(), rng.randbytes(20_000)
    # Just under the server's limit for one request, 1.5 MiB.
    yield odd + b"1.5MB", rng.randbytes(800_000) + bytes(700_000)
    if not only_root:
        # The first and the last key there can be, and one in between.
        yield b"\0", b"first"
        yield b"k", b"one byte"
        yield b"\xff", b"after every text"


SESSIONS = ("rootcoord", "datacoord", "querycoord", "indexcoord", "proxy-1", "datanode-2", "querynode-3", "indexnode-4")


def fill_etcd(args):
    etcd = Gateway(args)
    ordinary = (milvus_key(seeded(args.seed, args.root, number), args.root, number) for number in range(args.keys))
    etcd.write(put(key.encode(), value) for key, value in ordinary)
    count = args.keys
    if not args.no_odd:
        odd = list(odd_keys(seeded(args.seed, args.root, "odd"), args.root, args.only_root))
        etcd.write(put(key, value) for key, value in odd)
        for number, name in enumerate(SESSIONS):
            rng = seeded(args.seed, args.root, name)
            # Its own id, so that two sources with one seed are alike in this too.
            lease = rng.getrandbits(62)
            etcd.call("lease/grant", may_exist=True, TTL=3600 + number, ID=lease)
            value = json.dumps({"ServerID": number, "ServerName": name, "Address": f"127.0.0.1:{19530 + number}"})
            etcd.write([put(f"{args.root}/meta/session/{name}".encode(), value.encode(), lease=lease)])
        count += len(odd) + len(SESSIONS)
    return f"{count} keys put"


def churn_etcd(args):
    etcd = Gateway(args)
    rng = seeded(args.seed, "churn", args.root)
    keys = sorted(etcd.keys(f"{args.root}/".encode()))
    chosen = rng.sample(keys, max(1, round(len(keys) * args.percent / 100)))
    gone = set(chosen[: len(chosen) // 10])
    # A seed of its own, and numbers no other seed uses.
    base = 10**9 + rng.randrange(10**9)
    added = [milvus_key(seeded(args.seed, number), args.root, base + number) for number in range(len(chosen) // 10)]

    def operations():
        for key in chosen:
            if key in gone:
                yield delete(key)
            else:
                # A session's key stays with its lease.
                yield put(key, rng.randbytes(rng.randrange(50, 400)), ignore_lease=True)
        for key, value in added:
            yield put(key.encode(), value)

    etcd.write(operations())
    return f"{len(chosen) - len(gone)} keys rewritten, {len(gone)} deleted, {len(added)} added"


def poke_etcd(args):
    etcd = Gateway(args)
    rng = seeded(args.seed, "poke")
    key = rng.choice(sorted(etcd.keys(os.fsencode(args.prefix))))
    value = base64.b64decode(etcd.call("kv/range", key=b64(key))["kvs"][0].get("value", ""))
    changed, what = flip_bit(rng, value)
    etcd.write([put(key, changed, ignore_lease=True)])
    return f"{what} of the value of {key!r}"


def flip_bit(rng, data):
    if not data:
        return b"\0", "added a first byte, the end"
    changed = bytearray(data)
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    changed[at] ^= 1 << bit
    return bytes(changed), f"flipped bit {bit} of byte {at}"


# --- S3 -------------------------------------------------------------------


def upload(direct, key, body, headers=None, tags=None, parts=None):
    """Puts one object; with "parts" as a multipart upload of parts of these sizes."""
    headers = dict(headers or {})
    if tags:
        headers["x-amz-tagging"] = urllib.parse.urlencode(tags, quote_via=urllib.parse.quote)
    if not parts:
        direct("PUT", key, headers=headers, body=body)[1].read()
        return
    assert sum(parts) == len(body)
    upload_id = dump.read_xml(direct("POST", key, "?uploads=", headers)).findtext("{*}UploadId")
    upload_id = urllib.parse.quote(upload_id, safe="")
    done, at = "", 0
    for number, size in enumerate(parts, 1):
        part = body[at : at + size]
        got, answer = direct("PUT", key, f"?partNumber={number}&uploadId={upload_id}", body=part)
        answer.read()
        done += f"<Part><PartNumber>{number}</PartNumber><ETag>{got['etag']}</ETag></Part>"
        at += size
    done = f"<CompleteMultipartUpload>{done}</CompleteMultipartUpload>".encode()
    result = dump.read_xml(direct("POST", key, f"?uploadId={upload_id}", body=done))
    # A failure can come with status 200.
    if not result.tag.endswith("CompleteMultipartUploadResult"):
        raise RuntimeError(f"completing {key!a}: {result.findtext('{*}Code')}")


# A float32 whose last byte is one of these lies between 1e-5 and 2 in size.
EXPONENTS = bytes((0x3F, 0xBF, 0x3E, 0xBE, 0x3D, 0xBD, 0x3C, 0xBC)[byte % 8] for byte in range(256))


def vectors(rng, size):
    """Float32 numbers in a narrow range: as badly compressible as real ones."""
    data = bytearray(rng.randbytes(size))
    data[3::4] = bytes(data[3::4]).translate(EXPONENTS)
    return bytes(data)


def stats(rng, size):
    rows = []
    while size > 0:
        row = {"fieldID": rng.choice((0, 1, 100, 101)), "max": tso(rng), "min": tso(rng), "bf": rng.randbytes(24).hex()}
        rows.append(row)
        size -= len(json.dumps(row)) + 2
    return json.dumps(rows).encode()


def milvus_object(rng, root, number, every=100):
    """One ordinary object, as arguments of upload(); one in "every" is large."""
    collection = 449 * 10**15 + number // 2000
    segment = 449 * 10**15 + 10**9 + number // 20
    middle = f"{collection}/{collection + 1}/{segment}"
    log = 449 * 10**15 + 10**12 + number
    headers = {}
    # The large ones make nearly all of the bytes.
    if number % every == 7:
        key = f"{root}/insert_log/{middle}/101/{log}"
        body = vectors(rng, rng.randrange(256 << 10, 4 * MIB) & ~3)
    else:
        folder = rng.choices((f"insert_log/{middle}/100", f"stats_log/{middle}/100", f"delta_log/{middle}"), (70, 20, 10))
        key = f"{root}/{folder[0]}/{log}"
        body = stats(rng, rng.randrange(1000, 8000))
        if rng.random() < 0.3:
            headers["Content-Type"] = "application/json"
    if rng.random() < 0.05:
        headers |= metadata(rows=str(rng.randrange(10**6)), note="a b  c=d;e,f", written_by="fill.py")
    if rng.random() < 0.02:
        headers["Cache-Control"] = "max-age=3600, must-revalidate"
    if rng.random() < 0.02:
        headers["Content-Disposition"] = f'attachment; filename="log {number}.bin"'
    tags = {"tier": rng.choice(("hot", "cold")), "project name": "vector search"} if rng.random() < 0.05 else None
    return {"key": key, "body": body, "headers": headers, "tags": tags}


def metadata(**fields):
    return {f"x-amz-meta-{name.replace('_', '-')}": value for name, value in fields.items()}


ODD_NAMES = (
    "with space", "plus+and&percent%question?", "percent%20encoded%2Fslash", "..5", "...", "back\\slash",
    "emoji-\N{ROCKET}", "e\N{COMBINING ACUTE ACCENT}-and-\N{LATIN SMALL LETTER E WITH ACUTE}", "日本語/キー",
    "a", "a/b", "folder/", "folder/in it", "double//slash", "./dot", "up/../down", "quotes'\"`", "xml<&>]]>",
    "hash#and;semicolon=equals:colon@at", "star*bar|less", "tilde~", "brackets[0]{1}", " leading and trailing ",
    "line\nbreak", "tab\there", "control\x01char", "delete\x7fchar", "high\uffff", "n" * 200, "long/" + "/".join(["d" * 90] * 10),
    "longer-than-255-" + "x" * 300, "null\0byte",
)  # fmt: skip


def odd_objects(rng, root, large):
    odd = f"{root}/odd"
    for name in ODD_NAMES:
        yield {"key": f"{odd}/{name}", "body": b"" if name.endswith("/") else name.encode()}
    yield {"key": f"{odd}/empty", "body": b""}
    yield {"key": f"{odd}/one-byte", "body": b"\0"}
    every = {
        "Content-Type": 'text/plain; charset="utf-8"',
        "Cache-Control": "no-cache, max-age=0",
        "Content-Disposition": "attachment; filename*=UTF-8''%e2%82%ac.txt",
        "Content-Encoding": "gzip",
        "Content-Language": "de-CH, en",
        "Expires": "Thu, 01 Jan 2037 00:00:00 GMT",
        **metadata(a="1", with_dash="x y", empty="", long="v" * 1000, rfc2047="=?UTF-8?B?w6TDtsO8?="),
    }
    tags = {"plain": "1", "with space": "a b", "+-=._:/@": "+-=._:/@", "empty": ""}
    yield {"key": f"{odd}/every-header", "body": b"not really gzip", "headers": every, "tags": tags}
    # Other SDKs than boto3 send metadata as UTF-8, so it exists in buckets.
    utf8 = metadata(name="Zürich 日本 \N{ROCKET}", spaces="a  b")
    yield {"key": f"{odd}/metadata-utf8", "body": b"m", "headers": utf8}
    yield {"key": f"{odd}/disposition-utf8", "body": b"d", "headers": {"Content-Disposition": 'inline; filename="ü.txt"'}}
    yield {"key": f"{odd}/expires-no-date", "body": b"e", "headers": {"Expires": "0"}}
    yield {"key": f"{odd}/encoding-aws-chunked", "body": b"c", "headers": {"Content-Encoding": "aws-chunked,gzip"}}
    yield {"key": f"{odd}/tags-unicode", "body": b"t", "tags": {"Größe": "groß und klein", "日本": "語"}}
    yield {"key": f"{odd}/tags-ten", "body": b"t", "tags": {f"tag-{n}": "v" * (n * 25) for n in range(10)}}
    # A multipart ETag says how many parts there were, also when it was one.
    yield {"key": f"{odd}/parts-1", "body": rng.randbytes(100_000), "parts": [100_000], "tags": {"parts": "1"}}
    sizes, headers = [5 * MIB, 6 * MIB, 12_345], {"Content-Type": "application/x-parts", **metadata(parts="3")}
    yield {"key": f"{odd}/parts-3", "body": vectors(rng, sum(sizes)), "parts": sizes, "headers": headers}
    if large:
        sizes = [16 * MIB] * 6 + [9_876_543]
        yield {"key": f"{odd}/large", "body": vectors(rng, sum(sizes)), "parts": sizes}


def upload_all(direct, makers):
    # Each object is made in its thread, so that they are not all in memory.
    with ThreadPoolExecutor(dump.THREADS) as pool:
        return len(list(pool.map(lambda make: upload(direct, **make()), makers)))


def fill_s3(args):
    direct = dump.Direct(args)

    def maker(number):
        return lambda: milvus_object(seeded(args.seed, args.root, number), args.root, number, args.every)

    count, skipped = upload_all(direct, map(maker, range(args.objects))), 0
    put_keys = set()
    # One after the other: which of "a" and "a/b" a server refuses depends on order.
    for made in [] if args.no_odd else odd_objects(seeded(args.seed, args.root, "odd"), args.root, args.large):
        try:
            upload(direct, **made)
            put_keys.add(made["key"])
            count += 1
        except Exception as error:  # the server's refusal, or a name that HTTP can't carry
            skipped += 1
            text = str(error)
            print("skipped:", text if len(text) < 240 else f"{text[:120]}…{text[-100:]}", file=sys.stderr)
    # MinIO takes "a/b" beside "a", and gives it back, but never lists it.
    listed = {found["Key"] for found in dump.list_objects(dump.s3_client(args), args.bucket, f"{args.root}/odd/")}
    for key in sorted(put_keys - listed):
        print(f"put but not listed by the server: {key[:80]!a}", file=sys.stderr)
    return f"{count} objects put, {skipped} skipped, {len(put_keys - listed)} not listed"


def churn_s3(args):
    s3 = dump.s3_client(args)
    rng = seeded(args.seed, "churn", args.root)
    keys = sorted(listed["Key"] for listed in dump.list_objects(s3, args.bucket, f"{args.root}/"))
    chosen = rng.sample(keys, max(1, round(len(keys) * args.percent / 100)))
    tenth = len(chosen) // 10
    gone, retagged, rewritten = chosen[:tenth], chosen[tenth : 2 * tenth], chosen[2 * tenth :]
    base = 10**9 + rng.randrange(10**9)

    def rewriter(key):
        # What holds vectors still does: 7 is the number of such an object.
        number = 7 if "/101/" in key else 0
        return lambda: {**milvus_object(seeded(args.seed, key), args.root, number), "key": key}

    def adder(number):
        return lambda: milvus_object(seeded(args.seed, number), args.root, base + number)

    upload_all(dump.Direct(args), [rewriter(key) for key in rewritten] + [adder(number) for number in range(tenth)])
    for key in gone:
        s3.delete_object(Bucket=args.bucket, Key=key)
    for key in retagged:
        # The ETag stays as it is.
        tags = [{"Key": "churned", "Value": args.seed}]
        s3.put_object_tagging(Bucket=args.bucket, Key=key, Tagging={"TagSet": tags})
    return f"{len(rewritten)} objects rewritten, {len(retagged)} retagged, {len(gone)} deleted, {tenth} added"


# What a copy must carry over, beside the metadata.
PROPERTIES = ("content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires")


def poke_s3(args):
    s3, direct = dump.s3_client(args), dump.Direct(args)
    rng = seeded(args.seed, "poke")
    key = rng.choice(sorted(listed["Key"] for listed in dump.list_objects(s3, args.bucket, args.prefix)))
    tags = dump.read_tags(direct, key)
    if (args.what or rng.choice(("byte", "tag"))) == "tag":
        name = min(tags, default="poked")
        tags[name] = "poked" if tags.get(name) != "poked" else "poked again"
        tag_set = [{"Key": name, "Value": value} for name, value in tags.items()]
        s3.put_object_tagging(Bucket=args.bucket, Key=key, Tagging={"TagSet": tag_set})
        return f"set the tag {name!a} of {key!a}"
    got, answer = direct("GET", key)
    body, what = flip_bit(rng, answer.read())
    headers = {name: value for name, value in got.items() if name in PROPERTIES or name.startswith("x-amz-meta-")}
    parts = dump.part_sizes(direct, key) if "-" in got["etag"] else None
    upload(direct, key, body, headers, tags, parts)
    return f"{what} of {key!a}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for store, root, number in (("etcd", "by-dev", "--keys"), ("s3", "files", "--objects")):
        for verb in ("", "churn-", "poke-"):
            command = commands.add_parser(verb + store)
            (dump.add_etcd_options if store == "etcd" else dump.add_s3_options)(command)
            command.add_argument("--seed", required=True)
            if verb == "poke-":
                command.add_argument("--prefix", default="")
                if store == "s3":
                    command.add_argument("--what", choices=("byte", "tag"), help="default: by chance")
                continue
            command.add_argument("--root", default=root)
            if verb == "churn-":
                command.add_argument("--percent", type=float, default=1)
                continue
            command.add_argument(number, type=int, required=True)
            command.add_argument("--no-odd", action="store_true", help="ordinary ones only")
            if store == "etcd":
                command.add_argument("--only-root", action="store_true", help="nothing outside of the root")
            else:
                command.add_argument("--every", type=int, default=100, help="one in so many holds vectors (8 or more)")
                command.add_argument("--large", action="store_true", help="also an object of more than 100 MiB")
    args = parser.parse_args()
    run = globals()[{"etcd": "fill_etcd", "s3": "fill_s3"}.get(args.command, args.command.replace("-", "_"))]
    start = time.monotonic()
    print(f"{run(args)} ({time.monotonic() - start:.1f} s)")


if __name__ == "__main__":
    main()
