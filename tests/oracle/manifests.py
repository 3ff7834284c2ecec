#!/usr/bin/env python3
"""Manifests of storage version 3, written by fastavro by the schemas of milvus-storage.

  manifests.py DIRECTORY     (pip install fastavro==1.13.1)

tests/milvus/*.avro are what it writes: versions 1 to 3 (Avro values behind a magic number) and 4 to 6 (Avro files;
the later ones differ in fields that were added).
"""
import io
import sys

import fastavro
from fastavro.schema import parse_schema

MAGIC = 0x4D494C56
TEXTS = {"type": "array", "items": "string"}
NOTES = {"type": "map", "values": "string"}


def field(name, kind, **more):
    return {"name": name, "type": kind, **more}


def record(name, *fields):
    return {"type": "record", "name": name, "fields": list(fields)}


def array(items):
    return {"type": "array", "items": items}


def schema(version):
    file = [field("path", "string"), field("start_index", "long", default=0), field("end_index", "long", default=0)]
    if version < 4:
        file += [field("metadata", "bytes", default="")]
    else:
        file += [field("properties", NOTES, default={})]
    group = record("ColumnGroup", field("columns", TEXTS), field("files", array(record("ColumnGroupFile", *file))), field("format", "string"))
    delta = record("DeltaLog", field("path", "string"), field("type", "int"), field("num_entries", "long"))
    stats = TEXTS if version < 3 else record("Statistics", field("paths", TEXTS), field("metadata", NOTES, default={}))
    fields = [field("column_groups", array(group)), field("delta_logs", array(delta)), field("stats", {"type": "map", "values": stats}, default={})]
    if version >= 2:
        index = [field("column_name", "string"), field("index_type", "string"), field("path", "string")]
        if version >= 6:
            index.insert(1, field("index_name", "string", default=""))
            index += [field(name, "long", default=0) for name in ("field_id", "index_id", "build_id", "index_version", "num_rows", "serialized_size", "mem_size")]
            index += [field(name, "int", default=0) for name in ("current_index_version", "current_scalar_index_version", "index_store_path_version")]
            index += [field("index_file_keys", TEXTS, default=[])]
        index += [field("properties", NOTES, default={})]
        fields += [field("indexes", array(record("Index", *index)), default=[])]
    if version >= 5:
        large = record("LobFileInfo", field("path", "string"), *(field(name, "long") for name in ("field_id", "total_rows", "valid_rows", "file_size_bytes")))
        fields += [field("lob_files", array(large), default=[])]
    return parse_schema({**record("Manifest", *fields), "namespace": "milvus_storage"})


def manifest(version):
    def file(path, size):
        return {"path": path, "start_index": 0, "end_index": 1000, **({"metadata": b"\1\2"} if version < 4 else {"properties": {"file_size": str(size), "footer_size": "8"}})}

    # The first writers kept the folder in the path.
    data = "_data/" if version == 1 else ""
    paths = ["bloom_filter.100/11", "bloom_filter.100/1"]
    made = {
        "column_groups": [
            {"columns": ["0", "1", "100"], "files": [file(data + "0_aa.parquet", 4000), file(data + "0_bb.parquet", 5000)], "format": "parquet"},
            {"columns": ["101"], "files": [file(data + "1_cc.parquet", 60000)], "format": "vortex"},
        ],
        "delta_logs": [{"path": "77", "type": 0, "num_entries": 3}],
        "stats": {"bloom_filter.100": paths if version < 3 else {"paths": paths, "metadata": {"memory_size": "99"}}},
        "indexes": [],
        "lob_files": [{"path": "102/_data/dd.vortex", "field_id": 102, "total_rows": 9, "valid_rows": 9, "file_size_bytes": 700}],
    }
    if version >= 6:
        # As Milvus names them: seen from the folder of the segment's indexes.
        made["indexes"] = [{
            "column_name": "101", "index_name": "by_vector", "index_type": "HNSW", "path": "../../../../../index_v1/1/2/3/9/4",
            "field_id": 101, "index_id": 8, "build_id": 9, "index_version": 4, "num_rows": 1000, "serialized_size": 5, "mem_size": 6,
            "current_index_version": 7, "current_scalar_index_version": 2, "index_store_path_version": 1,
            "index_file_keys": ["HNSW_0", "HNSW_1"], "properties": {"M": "16"},
        }]
    return made


def plain(version, kind, made):
    out = io.BytesIO()
    for number in (MAGIC, version):
        fastavro.schemaless_writer(out, "long", number)
    fastavro.schemaless_writer(out, kind, made)
    return out.getvalue()


def container(kind, made, **more):
    out = io.BytesIO()
    fastavro.writer(out, kind, [made], sync_marker=b"0123456789abcdef", **more)
    return out.getvalue()


def main():
    out = sys.argv[1]
    files = {}
    for version in range(1, 7):
        kind, made = schema(version), manifest(version)
        files[f"manifest-{version}"] = plain(version, kind, made) if version < 4 else container(kind, made)
    files["manifest-compressed"] = container(schema(5), manifest(5), codec="deflate")
    # What a later version may add: a number can name no file, a text can.
    number, text = schema(6), schema(6)
    number = parse_schema({**number, "fields": number["fields"] + [field("minor_version", "int")]}, _force=True)
    text = parse_schema({**text, "fields": text["fields"] + [field("more_files", TEXTS)]}, _force=True)
    files["manifest-number"] = container(number, {**manifest(6), "minor_version": 1})
    files["manifest-more"] = container(text, {**manifest(6), "more_files": ["x"]})
    for name, data in files.items():
        with open(f"{out}/{name}.avro", "wb") as file:
            file.write(data)


main()
