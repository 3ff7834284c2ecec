//! What Milvus stores as values: only the fields that are needed, by their numbers.
//!
//! From `root_coord.proto`-style etcd messages (`etcd_meta.proto`, `schema.proto`, `data_coord.proto`,
//! `index_coord.proto`, `query_coord.proto`) of Milvus 2.2 to 2.6. Unknown fields are skipped.

use std::collections::HashMap;

use prost::Message;

/// `commonpb.KeyValuePair`.
#[derive(Clone, PartialEq, Message)]
pub struct Pair {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DatabaseInfo {
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(int64, tag = "3")]
    pub id: i64,
    #[prost(uint64, tag = "5")]
    pub created: u64,
    #[prost(message, repeated, tag = "6")]
    pub properties: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionInfo {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(message, optional, tag = "2")]
    pub schema: Option<CollectionSchema>,
    #[prost(uint64, tag = "3")]
    pub created: u64,
    #[prost(string, repeated, tag = "7")]
    pub virtual_channels: Vec<String>,
    #[prost(int32, tag = "10")]
    pub shards: i32,
    #[prost(int32, tag = "12")]
    pub consistency: i32,
    #[prost(int32, tag = "13")]
    pub state: i32,
    #[prost(message, repeated, tag = "14")]
    pub properties: Vec<Pair>,
    #[prost(int64, tag = "15")]
    pub database: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionSchema {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub description: String,
    /// Where older versions keep them; newer ones have a key for each.
    #[prost(message, repeated, tag = "4")]
    pub fields: Vec<FieldSchema>,
    #[prost(bool, tag = "5")]
    pub dynamic: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct FieldSchema {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bool, tag = "3")]
    pub primary: bool,
    #[prost(int32, tag = "5")]
    pub data_type: i32,
    #[prost(message, repeated, tag = "6")]
    pub parameters: Vec<Pair>,
    #[prost(bool, tag = "8")]
    pub auto_id: bool,
    #[prost(int32, tag = "10")]
    pub element_type: i32,
    #[prost(bool, tag = "12")]
    pub dynamic: bool,
    #[prost(bool, tag = "13")]
    pub partition_key: bool,
    #[prost(bool, tag = "15")]
    pub nullable: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct FunctionSchema {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct PartitionInfo {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(int64, tag = "4")]
    pub collection: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct AliasInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int64, tag = "2")]
    pub collection: i64,
    #[prost(int64, tag = "5")]
    pub database: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct MsgPosition {
    #[prost(string, tag = "1")]
    pub channel: String,
    #[prost(bytes = "vec", tag = "2")]
    pub message: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub timestamp: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct SegmentInfo {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int64, tag = "2")]
    pub collection: i64,
    #[prost(int64, tag = "3")]
    pub partition: i64,
    #[prost(string, tag = "4")]
    pub channel: String,
    #[prost(int64, tag = "5")]
    pub rows: i64,
    #[prost(int32, tag = "6")]
    pub state: i32,
    #[prost(int64, tag = "7")]
    pub most_rows: i64,
    /// Logs of inserts, of statistics and of deletes: here in old versions, later each under a key of its own.
    #[prost(message, repeated, tag = "11")]
    pub binlogs: Vec<FieldBinlog>,
    #[prost(message, repeated, tag = "12")]
    pub statslogs: Vec<FieldBinlog>,
    #[prost(message, repeated, tag = "13")]
    pub deltalogs: Vec<FieldBinlog>,
    #[prost(bool, tag = "17")]
    pub importing: bool,
    #[prost(int32, tag = "20")]
    pub level: i32,
    #[prost(int64, tag = "21")]
    pub storage: i64,
    /// By field.
    #[prost(map = "int64, message", tag = "26")]
    pub text_stats: HashMap<i64, FieldStats>,
    /// By field.
    #[prost(map = "int64, message", tag = "29")]
    pub json_stats: HashMap<i64, FieldStats>,
    #[prost(string, tag = "32")]
    pub manifest: String,
}

/// `TextIndexStats` and `JsonKeyStats`.
#[derive(Clone, PartialEq, Message)]
pub struct FieldStats {
    #[prost(int64, tag = "1")]
    pub field: i64,
    #[prost(int64, tag = "2")]
    pub version: i64,
    /// Names, in some versions whole keys.
    #[prost(string, repeated, tag = "3")]
    pub files: Vec<String>,
    #[prost(int64, tag = "6")]
    pub build: i64,
    /// Of JSON only: of texts this is another number.
    #[prost(int64, tag = "7")]
    format: i64,
}

impl FieldStats {
    /// The format of statistics of JSONs, which has a small number.
    pub fn json_format(&self) -> i64 {
        self.format.clamp(0, 1 << 16)
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct FieldBinlog {
    #[prost(int64, tag = "1")]
    pub field: i64,
    #[prost(message, repeated, tag = "2")]
    pub binlogs: Vec<Binlog>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Binlog {
    #[prost(int64, tag = "1")]
    pub entries: i64,
    /// The whole key of the object, where older versions keep it.
    #[prost(string, tag = "4")]
    pub path: String,
    #[prost(int64, tag = "5")]
    pub size: i64,
    #[prost(int64, tag = "6")]
    pub id: i64,
    #[prost(int64, tag = "7")]
    pub memory: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct FieldIndex {
    #[prost(message, optional, tag = "1")]
    pub index: Option<IndexInfo>,
    #[prost(bool, tag = "2")]
    pub deleted: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct IndexInfo {
    #[prost(int64, tag = "1")]
    pub collection: i64,
    #[prost(int64, tag = "2")]
    pub field: i64,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(int64, tag = "4")]
    pub id: i64,
    #[prost(message, repeated, tag = "6")]
    pub parameters: Vec<Pair>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SegmentIndex {
    #[prost(int64, tag = "1")]
    pub collection: i64,
    #[prost(int64, tag = "2")]
    pub partition: i64,
    #[prost(int64, tag = "3")]
    pub segment: i64,
    #[prost(int64, tag = "5")]
    pub index: i64,
    #[prost(int64, tag = "6")]
    pub build: i64,
    #[prost(int64, tag = "8")]
    pub version: i64,
    #[prost(int32, tag = "9")]
    pub state: i32,
    #[prost(string, repeated, tag = "11")]
    pub files: Vec<String>,
    #[prost(bool, tag = "12")]
    pub deleted: bool,
    #[prost(uint64, tag = "14")]
    pub size: u64,
    /// 0: below `index_files/<build>/`.
    #[prost(int32, tag = "22")]
    pub path_version: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct CollectionLoadInfo {
    #[prost(int64, tag = "1")]
    pub collection: i64,
    #[prost(int32, tag = "3")]
    pub replicas: i32,
    /// 1 loading, 2 loaded.
    #[prost(int32, tag = "4")]
    pub status: i32,
    #[prost(map = "int64, int64", tag = "5")]
    pub field_index: HashMap<i64, i64>,
}
