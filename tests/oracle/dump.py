#!/usr/bin/env python3
"""Dumps what an etcd or a bucket holds, and compares two dumps.

This is the judge of icecore's restores, so it shares no code with it: etcd is
read through etcdctl, S3 through boto3, and every value and body in full.

  dump.py etcd --etcdctl PATH --endpoints URL [--cacert F --cert F --key F]
               [--user U:P] [--prefix P] [--revisions] > FILE
  dump.py s3 --endpoint URL --bucket B --access-key A --secret-key S [--ca F]
             [--prefix P] > FILE
  dump.py compare A B [--ignore FIELD,...] [--allow-empty]

A dump is one JSON object a line, sorted by the key's bytes. It is written only
when all of it has been read. "compare" exits with 0 when all is equal, 1 when
anything differs and 2 when it could not tell.
"""

import argparse
import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

THREADS = 16
SHOWN = 50


# --- etcd -----------------------------------------------------------------


def add_etcd_options(parser):
    parser.add_argument("--endpoints", required=True)
    for name in ("--cacert", "--cert", "--key"):
        parser.add_argument(name)
    parser.add_argument("--user", help="NAME:PASSWORD")


def etcdctl(args, *words):
    command = [args.etcdctl, "--endpoints", args.endpoints, "--command-timeout", "120s", "-w", "json"]
    for option in ("cacert", "cert", "key", "user"):
        if getattr(args, option):
            command += ["--" + option, getattr(args, option)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ETCDCTL_")}
    env["ETCDCTL_API"] = "3"  # for 3.4
    done = subprocess.run(command + list(words), env=env, capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"etcdctl {words[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return json.loads(done.stdout)


def prefix_end(prefix):
    """The first key after all that begin with the prefix; empty if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def etcd_pages(args, prefix):
    """All keys under the prefix in order, at the revision of the first page."""
    end = prefix_end(prefix)
    start, last, limit, revision = prefix, None, 2000, 0
    while True:
        words = ["get", "--limit", str(limit), "--rev", str(revision)]
        # An argument can't be "key + NUL", the successor of a key: so a page
        # begins with the last key of the page before, which is then dropped.
        words += ["--", start, end] if end else ["--from-key", "--", start]
        page = etcdctl(args, *words)
        revision = revision or page["header"]["revision"]
        kvs = page.get("kvs", [])
        for kv in kvs:
            kv["key"] = base64.b64decode(kv["key"])
            kv["value"] = base64.b64decode(kv.get("value", ""))
        fresh = [kv for kv in kvs if last is None or kv["key"] > last]
        yield from fresh
        if not page.get("more"):
            return
        if fresh:
            last = fresh[-1]["key"]
            # A key with a NUL can't be an argument either: begin before it.
            start = last.split(b"\0")[0]
            size = sum(len(kv["key"]) + len(kv["value"]) for kv in kvs)
            # Before 3.7 every page counts all the keys that remain: few pages,
            # but none that fills the memory.
            limit = max(100, min(100_000, len(kvs) * (32 << 20) // size))
        else:
            limit *= 2


def granted_ttl(args, lease):
    answer = etcdctl(args, "lease", "timetolive", f"{lease:x}")
    # An expired lease is answered with a TTL of -1.
    return answer["granted-ttl"] if answer["ttl"] >= 0 else None


def dump_etcd(args):
    prefix = os.fsencode(args.prefix)
    records = []
    for kv in etcd_pages(args, prefix):
        record = {
            "key_b64": base64.b64encode(kv["key"]).decode(),
            "value_sha256": hashlib.sha256(kv["value"]).hexdigest(),
            "value_len": len(kv["value"]),
            "lease": kv.get("lease", 0),
        }
        if args.revisions:
            for field in ("create_revision", "mod_revision", "version"):
                record[field] = kv[field]
        records.append(record)
    leases = sorted({record["lease"] for record in records} - {0})
    with ThreadPoolExecutor(4) as pool:
        ttls = dict(zip(leases, pool.map(lambda lease: granted_ttl(args, lease), leases)))
    for record in records:
        record["lease_ttl_granted"] = ttls.get(record["lease"], 0)
    return records


# --- S3 -------------------------------------------------------------------


def add_s3_options(parser):
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--access-key", required=True)
    parser.add_argument("--secret-key", required=True)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--ca", help="PEM file of the CA")


def s3_client(args):
    import boto3  # here, so that dumping etcd and comparing need no venv
    from botocore.config import Config

    # The caller's settings must not change what is read: AWS_CA_BUNDLE breaks
    # clients, a profile changes endpoints.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
    config = Config(
        s3={"addressing_style": "path"},
        max_pool_connections=THREADS,
        proxies={},
        read_timeout=300,
        retries={"max_attempts": 5, "mode": "standard"},
        # The checksums that newer SDKs add by default are not known everywhere.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client(
        "s3",
        endpoint_url=args.endpoint,
        aws_access_key_id=args.access_key,
        aws_secret_access_key=args.secret_key,
        region_name=args.region,
        verify=args.ca,
        config=config,
    )


def list_objects(s3, bucket, prefix):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        yield from page.get("Contents", [])


def header_text(value):
    """HTTP headers arrive as Latin-1; servers send what they were given, UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class Direct:
    """Requests about one object, signed by boto3's signer but sent directly: a call
    of boto3's own costs three times the CPU, a minute more for 20,000 objects. It
    also lets headers through that boto3 refuses or rewrites."""

    def __init__(self, args):
        import urllib3
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        self.signer = S3SigV4Auth(Credentials(args.access_key, args.secret_key), "s3", args.region)
        self.request = AWSRequest
        retries = urllib3.Retry(
            5, redirect=0, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), allowed_methods=None
        )
        tls = {"ca_certs": args.ca} if args.ca else {}
        self.pool = urllib3.connection_from_url(args.endpoint, maxsize=THREADS, timeout=300, retries=retries, **tls)
        self.endpoint, self.bucket = args.endpoint.rstrip("/"), args.bucket

    def __call__(self, method, key, query="", headers=None, body=None):
        """The answer's headers, and the answer, whose body is still to be read."""
        # Not through a URL: parsing one resolves "." and "..", which keys may hold.
        target = f"/{self.bucket}/{urllib.parse.quote(key, safe='/-_.~')}{query}"
        request = self.request(method, self.endpoint + target, headers, body)
        self.signer.add_auth(request)
        answer = self.pool.urlopen(
            method,
            target,
            body=body,
            headers={name: value.encode() for name, value in request.headers.items()},
            preload_content=False,
            decode_content=False,
        )
        if answer.status not in (200, 206):  # 206 for one part
            why = answer.read().decode(errors="replace")
            code = re.search("<Code>(.*)</Code>", why)
            raise RuntimeError(f"{method}{query} {key!a}: {answer.status} {code[1] if code else ' '.join(why.split())[:200]}")
        return {name.lower(): header_text(value) for name, value in answer.headers.items()}, answer


def read_xml(answered):
    return ElementTree.fromstring(answered[1].read())


def part_sizes(direct, key):
    """The sizes of a multipart object's parts; None where the server won't say."""

    def head(number):
        headers, answer = direct("HEAD", key, f"?partNumber={number}")
        answer.drain_conn()
        answer.release_conn()
        return headers

    first = head(1)
    if "x-amz-mp-parts-count" not in first:
        return None
    rest = [head(number) for number in range(2, int(first["x-amz-mp-parts-count"]) + 1)]
    return [int(headers["content-length"]) for headers in [first, *rest]]


def read_tags(direct, key):
    tags = read_xml(direct("GET", key, "?tagging=")).iterfind(".//{*}Tag")
    return {tag.findtext("{*}Key"): tag.findtext("{*}Value") for tag in tags}


def dump_object(direct, listed):
    key = listed["Key"]
    headers, body = direct("GET", key)
    sha256, size = hashlib.sha256(), 0
    for chunk in body.stream(1 << 20):
        sha256.update(chunk)
        size += len(chunk)
    etag = headers["etag"].strip('"')
    if (size, etag) != (listed["Size"], listed["ETag"].strip('"')):
        raise RuntimeError(f"{key!r} is not what was listed: it changed meanwhile, or the server is wrong")
    meta = "x-amz-meta-"
    return {
        "key": key,
        "size": size,
        "etag": etag,
        "sha256": sha256.hexdigest(),
        "content_type": headers.get("content-type"),
        "cache_control": headers.get("cache-control"),
        "content_encoding": headers.get("content-encoding"),
        "content_disposition": headers.get("content-disposition"),
        "content_language": headers.get("content-language"),
        "expires": headers.get("expires"),
        "metadata": {name[len(meta) :]: value for name, value in headers.items() if name.startswith(meta)},
        # Asked for each object: not every server counts tags in the answer to GET.
        "tags": read_tags(direct, key),
        "parts": part_sizes(direct, key) if re.search(r"-\d+$", etag) else None,
    }


def dump_s3(args):
    listing = list(list_objects(s3_client(args), args.bucket, args.prefix))
    direct = Direct(args)
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda listed: dump_object(direct, listed), listing))


# --- comparing ------------------------------------------------------------


def cannot_tell(why):
    print(f"dump.py: {why}", file=sys.stderr)
    sys.exit(2)


def record_key(record):
    return base64.b64decode(record["key_b64"]) if "key_b64" in record else record["key"].encode("utf-8", "surrogatepass")


def write(records):
    for record in sorted(records, key=record_key):
        print(json.dumps(record, sort_keys=True))


def read(path):
    last = None
    with open(path, encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            key = record_key(record)
            if last is not None and key <= last:
                cannot_tell(f"{path}:{number}: keys are not in order, or one comes twice")
            last = key
            yield key, record


def readable(key):
    try:
        text = ascii(key.decode())
    except UnicodeError:
        text = repr(key)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(key)} bytes)"


def differences(a, b, ignored, counts):
    """Walks two sorted dumps; neither is held in memory."""
    end = (None, None)
    key_a, in_a = next(a, end)
    key_b, in_b = next(b, end)
    while key_a is not None or key_b is not None:
        key = min(key for key in (key_a, key_b) if key is not None)
        name = readable(key)
        counts["keys"] += 1
        if key_a != key:
            yield f"only in B: {name}"
        elif key_b != key:
            yield f"only in A: {name}"
        else:
            fields = sorted((set(in_a) | set(in_b)) - ignored)
            different = [field for field in fields if in_a.get(field, "absent") != in_b.get(field, "absent")]
            if different:
                changes = (f"{field}: {in_a.get(field, 'absent')!a} -> {in_b.get(field, 'absent')!a}" for field in different)
                yield f"differs: {name}: " + "; ".join(changes)
        # Both sides must be looked at before either moves on.
        move_a, move_b = key_a == key, key_b == key
        if move_a:
            key_a, in_a = next(a, end)
        if move_b:
            key_b, in_b = next(b, end)


def compare(args):
    ignored = {field for field in args.ignore.split(",") if field}
    counts = {"keys": 0}
    found = differences(read(args.a), read(args.b), ignored, counts)
    for line in itertools.islice(found, SHOWN):
        print(line)
        counts["shown"] = counts.get("shown", 0) + 1
    more = sum(1 for _ in found)
    if not counts["keys"] and not args.allow_empty:
        # Most likely nothing was read at all, and that must not pass as equal.
        cannot_tell("both dumps are empty")
    total = counts.get("shown", 0) + more
    if total:
        print(f"{total} of {counts['keys']} differ" + (f", {SHOWN} shown" if more else ""))
        sys.exit(1)
    print(f"{counts['keys']} equal")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    etcd = commands.add_parser("etcd")
    add_etcd_options(etcd)
    etcd.add_argument("--etcdctl", default="etcdctl")
    etcd.add_argument("--prefix", default="")
    etcd.add_argument("--revisions", action="store_true", help="also create_revision, mod_revision and version")
    s3 = commands.add_parser("s3")
    add_s3_options(s3)
    s3.add_argument("--prefix", default="")
    two = commands.add_parser("compare")
    two.add_argument("a")
    two.add_argument("b")
    two.add_argument("--ignore", default="", help="fields, separated by commas")
    two.add_argument("--allow-empty", action="store_true")
    args = parser.parse_args()
    if args.command == "compare":
        try:
            compare(args)
        except (OSError, ValueError, KeyError) as error:
            # Not 1, which says "they differ": a broken dump says nothing.
            cannot_tell(repr(error))
    else:
        write(dump_etcd(args) if args.command == "etcd" else dump_s3(args))


if __name__ == "__main__":
    main()
