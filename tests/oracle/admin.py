#!/usr/bin/env python3
"""What a MinIO's administrator does, over MinIO's own admin API.

  admin.py quota --endpoint URL --access-key A --secret-key S [--ca F] --bucket B --bytes N
                                     (0 lifts it)
  admin.py user  --endpoint URL --access-key A --secret-key S [--ca F] --bucket B --name U --secret P
                                     a user who may read and list that bucket, and no more
"""

import argparse
import ssl
import urllib.parse

import urllib3
from minio import MinioAdmin
from minio.credentials import StaticProvider


def admin(args):
    url = urllib.parse.urlsplit(args.endpoint)
    http = urllib3.PoolManager(cert_reqs=ssl.CERT_REQUIRED, ca_certs=args.ca)
    keys = StaticProvider(args.access_key, args.secret_key)
    return MinioAdmin(endpoint=url.netloc, credentials=keys, secure=url.scheme == "https", http_client=http)


def quota(args):
    server = admin(args)
    if args.bytes:
        server.bucket_quota_set(args.bucket, args.bytes)
    else:
        server.bucket_quota_clear(args.bucket)


def user(args):
    server = admin(args)
    place = f"arn:aws:s3:::{args.bucket}"
    actions = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": [place, place + "/*"]}
    server.policy_add(args.name, policy={"Version": "2012-10-17", "Statement": [statement]})
    server.user_add(args.name, args.secret)
    server.policy_set(args.name, user=args.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for verb in (quota, user):
        sub = verbs.add_parser(verb.__name__)
        sub.set_defaults(act=verb)
        for name in ("endpoint", "access-key", "secret-key", "bucket"):
            sub.add_argument("--" + name, required=True)
        sub.add_argument("--ca")
        if verb is quota:
            sub.add_argument("--bytes", type=int, required=True)
        else:
            sub.add_argument("--name", required=True)
            sub.add_argument("--secret", required=True)
    args = parser.parse_args()
    args.act(args)


main()
