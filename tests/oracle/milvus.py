#!/usr/bin/env python3
"""What a Milvus holds, by its own client: filled, changed, recorded and compared.

    milvus.py ADDRESS fill [--rows N]      databases, collections, partitions, aliases, indexes, users, roles
    milvus.py ADDRESS insert-more          inserts, deletes, a new partition
    milvus.py ADDRESS replace              a collection dropped, another one made, a new user
    milvus.py ADDRESS churn SECONDS        inserts and deletes, flushed one by one, and compaction; a collection
                                           comes and goes
    milvus.py ADDRESS grow COUNT           rows that are not flushed
    milvus.py ADDRESS small                one collection of 500 rows, flushed
    milvus.py old-paths ETCD ROOT          logs in etcd get the whole keys of their objects, below ROOT in the bucket,
                                           as Milvus before 2.2 wrote them
    milvus.py ADDRESS record FILE          everything a client can see, as JSON
    milvus.py compare FILE FILE            exit 1 and what differs, where they differ
    milvus.py ADDRESS insert               rows go in and are found
"""
import base64
import json
import sys
import time
import urllib.request

import numpy as np
from pymilvus import (Collection, CollectionSchema, DataType, FieldSchema, MilvusException, Role, connections,
                      db, utility)

DIM = 32
USER, PASSWORD = "root", "Milvus"


def connect(address, database="default"):
    connections.connect(alias="default", address=address, user=USER, password=PASSWORD, db_name=database)


def vectors(seed, count):
    return np.random.default_rng(seed).random((count, DIM), dtype=np.float32)


def words(first, count):
    ids = list(range(first, first + count))
    return [{"id": i, "word": f"word {i}", "vector": v.tolist(), "even": i % 2 == 0}
            for i, v in zip(ids, vectors(first, count))]


def make_words(name, index):
    schema = CollectionSchema([
        FieldSchema("id", DataType.INT64, is_primary=True, auto_id=False),
        FieldSchema("word", DataType.VARCHAR, max_length=100),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=DIM),
    ], description="words and their vectors", enable_dynamic_field=True)
    collection = Collection(name, schema, shards_num=2, properties={"collection.ttl.seconds": 0})
    collection.create_index("vector", index, index_name="by_vector")
    return collection


IVF = {"index_type": "IVF_FLAT", "metric_type": "L2", "params": {"nlist": 16}}
HNSW = {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 8, "efConstruction": 64}}


def fill(address, rows):
    connect(address)
    collection = make_words("words", IVF)
    collection.create_partition("new")
    collection.insert(words(0, rows))
    collection.insert(words(rows, rows // 2), partition_name="new")
    collection.flush()
    collection.delete(f"id in {list(range(0, 100, 7))}")
    collection.flush()
    utility.create_alias("words", "w")
    utility.wait_for_index_building_complete("words", "by_vector")
    collection.load()
    # Neither loaded nor indexed beyond what it needs.
    cold = make_words("cold", HNSW)
    cold.insert(words(0, rows))
    cold.flush()
    make_words("empty", IVF)
    for name, password in (("reader", "reader-1"), ("writer", "writer-1")):
        utility.create_user(name, password)
    role = Role("readers")
    role.create()
    role.grant("Collection", "words", "Search")
    role.grant("Collection", "words", "Query")
    role.add_user("reader")

    db.create_database("library")
    connect(address, "library")
    schema = CollectionSchema([
        FieldSchema("page", DataType.INT64, is_primary=True, auto_id=False),
        FieldSchema("book", DataType.VARCHAR, max_length=50, is_partition_key=True),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=DIM),
    ])
    pages = Collection("pages", schema, num_partitions=4)
    pages.create_index("vector", HNSW)
    pages.insert([{"page": i, "book": f"book {i % 10}", "vector": v.tolist()}
                  for i, v in enumerate(vectors(7, rows))])
    pages.flush()
    utility.wait_for_index_building_complete("pages")
    pages.load()


def insert_more(address):
    connect(address)
    collection = Collection("words")
    first = 10_000_000
    collection.insert(words(first, 1500))
    collection.delete("id in [1, 2, 3]")
    collection.flush()
    collection.create_partition("newer")


def replace(address):
    connect(address)
    utility.drop_collection("cold")
    made = make_words("made", HNSW)
    made.insert(words(0, 1200))
    made.flush()
    utility.wait_for_index_building_complete("made", "by_vector")
    made.load()
    utility.create_alias("made", "m")
    utility.create_user("late", "late-001")


def churn(address, seconds):
    connect(address)
    collection = Collection("words")
    until, first = time.monotonic() + seconds, 20_000_000
    while time.monotonic() < until:
        collection.insert(words(first, 300))
        collection.delete(f"id in {list(range(first, first + 300, 3))}")
        collection.flush()
        brief = make_words("brief", HNSW)
        brief.insert(words(0, 300))
        brief.flush()
        collection.compact()
        utility.drop_collection("brief")
        first += 300


def grow(address, rows):
    connect(address)
    Collection("words").insert(words(40_000_000, rows))


def small(address):
    connect(address)
    collection = make_words("small", IVF)
    collection.insert(words(0, 500))
    collection.flush()


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def encode(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def old_paths(etcd, root):
    folders = {"binlog": "insert_log", "statslog": "stats_log", "deltalog": "delta_log"}
    call = lambda what, body: json.load(urllib.request.urlopen(f"{etcd}/v3/kv/{what}", json.dumps(body).encode()))
    b64 = lambda data: base64.b64encode(data).decode()
    done = 0
    for kind, folder in folders.items():
        first = f"by-dev/meta/datacoord-meta/{kind}/".encode()
        for kv in call("range", {"key": b64(first), "range_end": b64(first[:-1] + b"0")}).get("kvs", []):
            key, value = base64.b64decode(kv["key"]).decode(), base64.b64decode(kv.get("value", ""))
            *_, collection, partition, segment, field = key.split("/")
            at, made = 0, b""
            while at < len(value):
                begin, (tag, at) = at, varint(value, at)
                length, at = varint(value, at)
                if tag != 2 << 3 | 2:
                    made += value[begin:at]
                    continue
                log, at = value[at:at + length], at + length
                place, end, number = 0, len(log), 0
                while place < end:
                    inner, place = varint(log, place)
                    assert inner & 7 == 0, "a log without a path has numbers only"
                    content, place = varint(log, place)
                    number = content if inner >> 3 == 6 else number
                middle = f"{field}/" if kind != "deltalog" else ""
                path = f"{root}/{folder}/{collection}/{partition}/{segment}/{middle}{number}".encode()
                log += encode(4 << 3 | 2) + encode(len(path)) + path
                made += encode(tag) + encode(len(log)) + log
                done += 1
            if made:
                call("put", {"key": kv["key"], "value": b64(made)})
    print(f"{done} logs")
    assert done > 0


def insert(address):
    connect(address)
    collection = Collection("words")
    before = count(collection)
    collection.insert(words(90_000_000, 50))
    assert count(collection) == before + 50, (before, count(collection))
    collection.flush()
    found = collection.search([vectors(90_000_000, 1)[0].tolist()], "vector", {"metric_type": "L2", "params": {"nprobe": 16}},
                              limit=1, consistency_level="Strong")
    assert found[0][0].id == 90_000_000, found[0][0]


def count(collection):
    return collection.query("", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"]


def search(collection):
    metric = collection.indexes[0].params["metric_type"]
    found = collection.search(vectors(1234, 3).tolist(), "vector",
                              {"metric_type": metric, "params": {"nprobe": 16, "ef": 64}}, limit=20, consistency_level="Strong")
    return [[[hit.id, float(hit.distance)] for hit in hits] for hits in found]


def loaded(collection):
    """Waits until a collection that is being loaded is."""
    for _ in range(600):
        state = str(utility.load_state(collection.name))
        if state != "Loading":
            return state
        time.sleep(0.2)
    sys.exit(f"{collection.name} does not load")


def patient(what, tries=60):
    """A Milvus that has just started knows its data after a while."""
    for attempt in range(tries):
        try:
            return what()
        except MilvusException as error:
            if attempt == tries - 1:
                raise
            last = error
            time.sleep(1)


def see(name):
    collection = Collection(name)
    seen = {
        "schema": collection.schema.to_dict(),
        "partitions": sorted(p.name for p in collection.partitions),
        "aliases": sorted(collection.aliases),
        "indexes": [[i.field_name, i.index_name, i.params] for i in collection.indexes],
        "state": loaded(collection),
    }
    if seen["state"] == "Loaded":
        seen["count"] = patient(lambda: count(collection))
        seen["search"] = patient(lambda: search(collection))
        primary = collection.primary_field.name
        rows = patient(lambda: collection.query(f"{primary} >= 0", output_fields=["*"], limit=50, consistency_level="Strong"))
        seen["rows"] = sorted(({k: str(v) for k, v in row.items()} for row in rows), key=lambda row: row[primary])
    return seen


def record(address):
    connect(address)
    users = {}
    for user in utility.list_users(True).groups:
        users[user.username] = sorted(user.roles)
    roles = {}
    for role in utility.list_roles(False).groups:
        grants = Role(role.role_name).list_grants().groups
        roles[role.role_name] = sorted([g.object, g.object_name, g.privilege, g.grantor_name] for g in grants)
    seen = {"users": users, "roles": roles, "databases": {}}
    for database in sorted(db.list_database()):
        connections.disconnect("default")
        connect(address, database)
        seen["databases"][database] = {name: see(name) for name in sorted(utility.list_collections())}
    return seen


def compare(one, other, path=""):
    if isinstance(one, dict) and isinstance(other, dict):
        return [line for key in sorted(one.keys() | other.keys())
                for line in compare(one.get(key), other.get(key), f"{path}/{key}")]
    return [] if one == other else [f"{path}: {str(one)[:300]} and then {str(other)[:300]}"]


def main():
    if sys.argv[1] == "compare":
        one, other = (json.load(open(path)) for path in sys.argv[2:4])
        differ = compare(one, other)
        print("\n".join(differ[:20]) or "the same")
        sys.exit(bool(differ))
    if sys.argv[1] == "old-paths":
        return old_paths(*sys.argv[2:4])
    address, verb, *rest = sys.argv[1:]
    if verb == "fill":
        fill(address, int(rest[1]) if rest else 3000)
    elif verb == "insert-more":
        insert_more(address)
    elif verb == "replace":
        replace(address)
    elif verb == "churn":
        churn(address, float(rest[0]))
    elif verb == "insert":
        insert(address)
    elif verb == "grow":
        grow(address, int(rest[0]))
    elif verb == "small":
        small(address)
    elif verb == "record":
        with open(rest[0], "w") as out:
            json.dump(record(address), out, indent=1, default=str)
    else:
        sys.exit(__doc__)


main()
