//! Manifests: lists of a segment's files (storage version 3), as milvus-storage writes them.
//!
//! Up to version 3 a manifest is a magic number, the version, and Avro values; later ones are Avro files of one
//! record, which carry their schema and no version. Paths are relative to folders beside the manifest.

use serde_json::Value;

use super::avro::{Error, Reader, Schema, unknown};

type Result<T> = std::result::Result<T, Error>;

/// "MILV".
const MAGIC: i64 = 0x4d49_4c56;
/// What an Avro file begins with.
const CONTAINER: &[u8] = b"Obj\x01";
/// The last version that is no Avro file.
const LAST_PLAIN: i64 = 3;

const DATA: &str = "_data";
const DELTAS: &str = "_delta";
const STATS: &str = "_stats";
const INDEXES: &str = "_index";
/// Large values, shared by the segments of a partition.
const LARGE: &str = "../lobs";

/// Where the manifest of a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What the keys of the segment's files begin with, below the root path.
    pub base: String,
    /// Counts up with each change of the list; 0 while there is none.
    pub version: i64,
}

impl Place {
    /// From what etcd says, and the root path in the bucket where that says it.
    pub(super) fn parse(text: &str) -> Option<(Place, Option<String>)> {
        let json: Value = serde_json::from_str(text).ok()?;
        let (whole, version) = (json.get("base_path")?.as_str()?, json.get("ver")?.as_i64()?);
        let whole = whole.trim_end_matches('/');
        let at = whole.find("insert_log/").filter(|&at| at == 0 || whole.as_bytes()[at - 1] == b'/')?;
        let root = Some(whole[..at].trim_end_matches('/').to_owned()).filter(|root| !root.is_empty());
        Some((Place { base: whole[at..].to_owned(), version }, root))
    }

    /// Its key below the root path; `None` where nothing is listed yet.
    pub(super) fn key(&self) -> Option<String> {
        let Place { base, version } = self;
        (*version > 0).then(|| format!("{base}/_metadata/manifest-{version}.avro"))
    }
}

/// What a manifest lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Columns, deletes, statistics, large values.
    pub files: Vec<File>,
    /// Indexes.
    pub indexes: Vec<Index>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its key below the root path.
    pub key: String,
    /// Its size, where it is recorded; else 0.
    pub size: u64,
}

impl File {
    /// Its id, where it is a log of deletes.
    pub(super) fn delta_log(&self) -> Option<i64> {
        self.key.rsplit_once(&format!("/{DELTAS}/"))?.1.parse().ok()
    }
}

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its id.
    pub id: i64,
    /// The keys of its files, below the root path.
    pub files: Vec<String>,
}

/// What the manifest of a segment says whose files begin with `base`.
pub fn read(bytes: &[u8], base: &str) -> Result<Manifest> {
    let (schema, record) = match bytes.strip_prefix(CONTAINER) {
        Some(rest) => container(rest)?,
        None => plain(bytes)?,
    };
    // A list that lacks one of these is something else.
    if let Some(lacks) = ["column_groups", "delta_logs", "stats"].into_iter().find(|name| !schema.has(name)) {
        return Err(unknown(format!("it has no {lacks:?}")));
    }
    let mut reader = Reader(record);
    let mut list = List { base, manifest: Manifest::default() };
    list.all(&mut reader, &schema)?;
    match reader.0 {
        [] => Ok(list.manifest),
        _ => Err(Error::Torn),
    }
}

/// The schema and the record of an Avro file.
fn container(bytes: &[u8]) -> Result<(Schema, &[u8])> {
    let mut reader = Reader(bytes);
    let mut schema = None;
    reader.each(&Schema::map(Schema::Bytes), |reader, key, _| {
        match (key, reader.bytes()?) {
            ("avro.schema", text) => schema = Some(Schema::parse(text)?),
            ("avro.codec", codec) if codec != b"null" => {
                let codec = String::from_utf8_lossy(codec);
                return Err(unknown(format!("it is compressed by {codec:?}")));
            }
            _ => {}
        }
        Ok(())
    })?;
    let mark = reader.take(16)?;
    if reader.long()? != 1 {
        return Err(unknown("it is not one record"));
    }
    let record = reader.bytes()?;
    match (reader.take(16)? == mark, reader.0, schema) {
        (true, [], Some(schema)) => Ok((schema, record)),
        _ => Err(Error::Torn),
    }
}

/// The schema of a version that has none with it, and the values.
fn plain(bytes: &[u8]) -> Result<(Schema, &[u8])> {
    use Schema::{Bytes, Number, Text};
    let mut reader = Reader(bytes);
    if reader.long().ok() != Some(MAGIC) {
        return Err(unknown("it does not begin as a manifest"));
    }
    let version = reader.long()?;
    if !(1..=LAST_PLAIN).contains(&version) {
        return Err(unknown(format!("its version {version} is not known")));
    }
    let paths = || Schema::array(Text);
    let notes = || Schema::map(Text);
    let file =
        Schema::record([("path", Text), ("start_index", Number), ("end_index", Number), ("metadata", Bytes)]);
    let group = Schema::record([("columns", paths()), ("files", Schema::array(file)), ("format", Text)]);
    let delta = Schema::record([("path", Text), ("type", Number), ("num_entries", Number)]);
    let stats = match version {
        1 | 2 => paths(),
        _ => Schema::record([("paths", paths()), ("metadata", notes())]),
    };
    let index = Schema::record([
        ("column_name", Text),
        ("index_type", Text),
        ("path", Text),
        ("properties", notes()),
    ]);
    let mut fields = vec![
        ("column_groups", Schema::array(group)),
        ("delta_logs", Schema::array(delta)),
        ("stats", Schema::map(stats)),
    ];
    if version > 1 {
        fields.push(("indexes", Schema::array(index)));
    }
    let fields = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema));
    Ok((Schema::Record(fields.collect()), reader.0))
}

/// A manifest that is being read.
struct List<'b> {
    base: &'b str,
    manifest: Manifest,
}

impl List<'_> {
    fn all(&mut self, reader: &mut Reader, schema: &Schema) -> Result<()> {
        reader.record(schema, |reader, name, schema| match name {
            "column_groups" => reader.each(schema, |reader, _, group| self.group(reader, group)),
            "delta_logs" => reader.each(schema, |reader, _, delta| self.file(reader, delta, DELTAS)),
            "lob_files" => reader.each(schema, |reader, _, large| self.file(reader, large, LARGE)),
            "stats" => reader.each(schema, |reader, _, stats| match stats {
                Schema::Array(_) => self.paths(reader, stats),
                _ => reader.record(stats, |reader, name, schema| match name {
                    "paths" => self.paths(reader, schema),
                    "metadata" => reader.skip(schema),
                    _ => reader.pass(name, schema),
                }),
            }),
            "indexes" => reader.each(schema, |reader, _, index| self.index(reader, index)),
            _ => reader.pass(name, schema),
        })
    }

    /// Columns that are stored together.
    fn group(&mut self, reader: &mut Reader, schema: &Schema) -> Result<()> {
        reader.record(schema, |reader, name, schema| match name {
            "files" => reader.each(schema, |reader, _, file| self.file(reader, file, DATA)),
            "columns" | "format" => reader.skip(schema),
            _ => reader.pass(name, schema),
        })
    }

    fn file(&mut self, reader: &mut Reader, schema: &Schema, folder: &str) -> Result<()> {
        let (mut path, mut size) = (None, 0);
        reader.record(schema, |reader, name, schema| match name {
            "path" => reader.text(schema).map(|text| path = Some(text)),
            "properties" => reader.each(schema, |reader, key, schema| {
                let text = reader.text(schema)?;
                if key == "file_size" {
                    size = text.parse().map_err(|_| Error::Torn)?;
                }
                Ok(())
            }),
            "metadata" => reader.skip(schema),
            _ => reader.pass(name, schema),
        })?;
        let key = self.key(folder, path)?;
        self.manifest.files.push(File { key, size });
        Ok(())
    }

    fn paths(&mut self, reader: &mut Reader, schema: &Schema) -> Result<()> {
        reader.each(schema, |reader, _, schema| {
            let key = self.key(STATS, Some(reader.text(schema)?))?;
            self.manifest.files.push(File { key, size: 0 });
            Ok(())
        })
    }

    /// Its path is what the keys of its files begin with.
    fn index(&mut self, reader: &mut Reader, schema: &Schema) -> Result<()> {
        let (mut id, mut path, mut names) = (0, None, Vec::new());
        reader.record(schema, |reader, name, schema| match name {
            "index_id" => reader.number(schema).map(|number| id = number),
            "path" => reader.text(schema).map(|text| path = Some(text)),
            "index_file_keys" => {
                reader.each(schema, |reader, _, schema| reader.text(schema).map(|name| names.push(name)))
            }
            "column_name" | "index_name" | "index_type" | "properties" => reader.skip(schema),
            _ => reader.pass(name, schema),
        })?;
        let files = match (id, self.key(INDEXES, path)?) {
            // Before version 6, and written by nobody: which index it is cannot be told.
            (0, _) => return Err(unknown("it has an index without an id")),
            (_, folder) => names.into_iter().map(|name| join(&folder, name)).collect::<Result<_>>()?,
        };
        self.manifest.indexes.push(Index { id, files });
        Ok(())
    }

    /// The key of a file, below the root path, from its path in the list.
    fn key(&self, folder: &str, path: Option<&str>) -> Result<String> {
        let path = path.ok_or_else(|| unknown("it has a file without a path"))?;
        // The first writers kept the folder in the path.
        if path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) {
            return join(self.base, path);
        }
        join(&format!("{}/{folder}", self.base), path)
    }
}

/// What a path means in a folder: a key, not above the root path.
fn join(folder: &str, path: &str) -> Result<String> {
    let elsewhere = || unknown(format!("it lists a file in another place: {path:?}"));
    if path.is_empty() || path.starts_with('/') || path.contains("://") {
        return Err(elsewhere());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(elsewhere)?),
            _ => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "insert_log/1/2/3";

    /// Written by another implementation: tests/oracle/manifests.py.
    fn written(version: u8) -> &'static [u8] {
        match version {
            1 => include_bytes!("../../tests/milvus/manifest-1.avro"),
            2 => include_bytes!("../../tests/milvus/manifest-2.avro"),
            3 => include_bytes!("../../tests/milvus/manifest-3.avro"),
            4 => include_bytes!("../../tests/milvus/manifest-4.avro"),
            5 => include_bytes!("../../tests/milvus/manifest-5.avro"),
            _ => include_bytes!("../../tests/milvus/manifest-6.avro"),
        }
    }

    fn files(bytes: &[u8]) -> Vec<(String, u64)> {
        let mut files: Vec<_> =
            read(bytes, BASE).unwrap().files.into_iter().map(|file| (file.key, file.size)).collect();
        files.sort();
        files
    }

    #[test]
    fn every_version_lists_the_same_files() {
        let listed = |sizes: [u64; 3], large: bool| {
            let [a, b, c] = sizes;
            let all = [
                ("1/2/3/_data/0_aa.parquet", a),
                ("1/2/3/_data/0_bb.parquet", b),
                ("1/2/3/_data/1_cc.parquet", c),
                ("1/2/3/_delta/77", 0),
                ("1/2/3/_stats/bloom_filter.100/1", 0),
                ("1/2/3/_stats/bloom_filter.100/11", 0),
                ("1/2/lobs/102/_data/dd.vortex", 0),
            ];
            let some = all.into_iter().take(if large { 7 } else { 6 });
            some.map(|(key, size)| (format!("insert_log/{key}"), size)).collect::<Vec<_>>()
        };
        for version in 1..=3 {
            assert_eq!(files(written(version)), listed([0; 3], false), "{version}");
        }
        let sizes = [4000, 5000, 60000];
        assert_eq!(files(written(4)), listed(sizes, false));
        assert_eq!(files(written(5)), listed(sizes, true));
        assert_eq!(files(written(6)), listed(sizes, true));
    }

    #[test]
    fn an_index_is_where_its_path_leads() {
        assert!((1..=5).all(|version| read(written(version), BASE).unwrap().indexes.is_empty()));
        let files = ["index_v1/1/2/3/9/4/HNSW_0", "index_v1/1/2/3/9/4/HNSW_1"].map(str::to_owned).to_vec();
        assert_eq!(read(written(6), BASE).unwrap().indexes, [Index { id: 8, files }]);
    }

    #[test]
    fn what_is_cut_off_is_never_a_shorter_list() {
        for version in 1..=6 {
            let whole = written(version);
            for length in 0..whole.len() {
                assert!(read(&whole[..length], BASE).is_err(), "version {version}, {length} bytes");
            }
            assert_eq!(
                read(&[whole, &[0]].concat(), BASE),
                Err(Error::Torn),
                "version {version}, a byte more"
            );
        }
    }

    #[test]
    fn any_byte_may_be_another() {
        for version in 1..=6 {
            for at in 0..written(version).len() {
                for byte in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bytes = written(version).to_vec();
                    bytes[at] = byte;
                    let _ = read(&bytes, BASE);
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_is_said() {
        let why = |bytes: &[u8]| read(bytes, BASE).unwrap_err().to_string();
        let magic = &written(1)[..5];
        assert_eq!(why(&[magic, &[8]].concat()), "its version 4 is not known");
        assert_eq!(why(b""), "it does not begin as a manifest");
        assert_eq!(why(b"PAR1 and so on"), "it does not begin as a manifest");
        let compressed = include_bytes!("../../tests/milvus/manifest-compressed.avro");
        assert_eq!(why(compressed), "it is compressed by \"deflate\"");
        let more = include_bytes!("../../tests/milvus/manifest-more.avro");
        assert_eq!(why(more), "it has a field \"more_files\" that is not known");
        let number = include_bytes!("../../tests/milvus/manifest-number.avro");
        assert_eq!(files(number), files(written(6)), "a number names no file");
    }

    /// Numbers as Avro writes them.
    fn long(number: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(((number << 1) ^ (number >> 63)) as u64, &mut bytes);
        bytes
    }

    fn container(schema: &str, record: &[u8]) -> Vec<u8> {
        let text = |text: &[u8]| [long(text.len() as i64), text.to_vec()].concat();
        let head = [long(1), text(b"avro.schema"), text(schema.as_bytes()), long(0)].concat();
        let mark = [7; 16];
        [CONTAINER, &head, &mark, &long(1), &text(record), &mark].concat()
    }

    #[test]
    fn hostile_bytes_end_soon() {
        let plain = |values: Vec<u8>| [long(MAGIC), long(1), values].concat();
        assert_eq!(read(&plain(long(i64::MAX)), BASE), Err(Error::Torn), "more groups than bytes");
        assert_eq!(read(&plain(long(i64::MIN)), BASE), Err(Error::Torn));
        let items = [long(1), long(1), long(i64::MAX)].concat();
        assert_eq!(read(&plain(items), BASE), Err(Error::Torn), "a text longer than all");
        for nothing in [r#""null""#, r#"{"type":"record","name":"N","fields":[]}"#] {
            let lists = r#"{"type":"record","name":"M","fields":[{"name":"column_groups","type":{"type":"array","items":0}}]}"#;
            let lists = lists.replace('0', nothing);
            assert!(read(&container(&lists, &long(i64::MAX)), BASE).is_err(), "items without bytes");
        }
        let mut deep = "\"int\"".to_owned();
        for _ in 0..100 {
            deep = format!(r#"{{"type":"array","items":{deep}}}"#);
        }
        assert_eq!(read(&container(&deep, &[]), BASE), Err(unknown("its schema is too deep")));
        let itself = r#"{"type":"record","name":"M","fields":[{"name":"m","type":"M"}]}"#;
        assert_eq!(
            read(&container(itself, &[]), BASE),
            Err(unknown("its schema has a type \"M\" that is not known"))
        );
        let other = r#"{"type":"record","name":"M","fields":[{"name":"x","type":"long"}]}"#;
        assert_eq!(read(&container(other, &long(1)), BASE), Err(unknown("it has no \"column_groups\"")));
    }

    #[test]
    fn paths_stay_below_the_root_path() {
        assert_eq!(join("a/b", "../c").unwrap(), "a/c");
        assert_eq!(join("a/b", "c//./d").unwrap(), "a/b/c/d");
        for path in ["", "/etc/passwd", "s3://other/x", "../../../x"] {
            assert!(join("a/b", path).is_err(), "{path}");
        }
    }

    #[test]
    fn where_a_manifest_is_says_etcd() {
        let place = |text| Place::parse(text).map(|(place, root)| (place.key(), root));
        let key = || Some(format!("{BASE}/_metadata/manifest-4.avro"));
        let files = place(r#"{"ver":4,"base_path":"files/insert_log/1/2/3"}"#);
        assert_eq!(files, Some((key(), Some("files".into()))));
        assert_eq!(place(r#"{"ver":4,"base_path":"insert_log/1/2/3/"}"#), Some((key(), None)));
        let none_yet = place(r#"{"ver":0,"base_path":"files/insert_log/1/2/3"}"#);
        assert_eq!(none_yet, Some((None, Some("files".into()))));
        assert_eq!(place(r#"{"ver":4,"base_path":"external/1"}"#), None);
        assert_eq!(place("files/insert_log/1/2/3"), None);
    }
}
