//! What a Milvus holds, read from its keys.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::manifest::Place;
use super::proto::{
    AliasInfo, CollectionInfo, CollectionLoadInfo, DatabaseInfo, FieldIndex, FieldSchema, FunctionSchema,
    MsgPosition, Pair, PartitionInfo, SegmentInfo,
};

/// What Milvus writes in the place of a value that is deleted.
pub(super) const TOMBSTONE: &[u8] = &[0xe2, 0x9b, 0xbc];

/// A database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its properties.
    pub properties: BTreeMap<String, String>,
}

/// A field of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its type, as users write it.
    pub data_type: String,
    /// Primary key, partition key, …
    pub roles: Vec<&'static str>,
    /// Dimension, greatest length, …
    pub parameters: BTreeMap<String, String>,
}

/// An index on a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The field it is on.
    pub field: i64,
    /// Its kind, metric and parameters.
    pub parameters: BTreeMap<String, String>,
}

/// A collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Its database's id.
    pub database: i64,
    /// Its name; empty for one of which only segments are left.
    pub name: String,
    /// Its description.
    pub description: String,
    /// `created`, `creating`, `dropping`, `dropped`.
    pub state: &'static str,
    /// When it was made, in milliseconds since 1970.
    pub created: u64,
    /// Shards.
    pub shards: i32,
    /// The consistency level, as users write it.
    pub consistency: &'static str,
    /// Whether rows may have fields that the schema has not.
    pub dynamic: bool,
    /// Its properties.
    pub properties: BTreeMap<String, String>,
    /// Its fields, those of Milvus itself left out.
    pub fields: BTreeMap<i64, Field>,
    /// Names of functions.
    pub functions: BTreeSet<String>,
    /// Partitions by id.
    pub partitions: BTreeMap<i64, String>,
    /// Aliases.
    pub aliases: BTreeSet<String>,
    /// Indexes that are not dropped, by id.
    pub indexes: BTreeMap<i64, Index>,
    /// Virtual channels.
    pub channels: Vec<String>,
    /// Replicas, where it is loaded or being loaded.
    pub replicas: Option<i32>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its collection.
    pub collection: i64,
    /// Its partition.
    pub partition: i64,
    /// Its rows, deleted ones with them.
    pub rows: u64,
    /// How many it may take.
    pub most_rows: u64,
    /// Its state.
    pub state: SegmentState,
    /// Its level; 1 holds deletes only.
    pub level: i32,
    /// How its files are laid out.
    pub storage: i64,
    /// Where its files are listed.
    pub listing: Listing,
    /// Whether an index of it lies in another place than those that are known.
    pub elsewhere: bool,
    /// Rows that its delta logs delete, each counted as often as it was deleted.
    pub deletes: u64,
}

/// Where the files of a segment are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// In keys of etcd.
    Keys,
    /// In an object (storage version 3).
    Manifest(Place),
    /// In one of which it cannot be told where it is.
    Unknown,
}

impl Listing {
    fn of(info: &SegmentInfo) -> Listing {
        match (&info.manifest[..], Place::parse(&info.manifest)) {
            ("", _) => Listing::Keys,
            (_, Some((place, _))) => Listing::Manifest(place),
            (_, None) => Listing::Unknown,
        }
    }
}

/// What has become of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentState {
    /// It takes rows; what is not flushed is in the message queue only.
    Growing,
    /// It takes no more rows and is being flushed.
    Sealed,
    /// It is in the bucket.
    Flushed,
    /// It is being imported.
    Importing,
    /// It is dropped, or replaced by others; its objects may be gone.
    Dropped,
}

impl SegmentState {
    fn of(info: &SegmentInfo) -> SegmentState {
        match info.state {
            _ if info.importing => SegmentState::Importing,
            2 => SegmentState::Growing,
            3 | 5 => SegmentState::Sealed,
            4 => SegmentState::Flushed,
            7 => SegmentState::Importing,
            _ => SegmentState::Dropped,
        }
    }

    /// Whether its objects must be there.
    pub fn is_live(self) -> bool {
        matches!(self, SegmentState::Growing | SegmentState::Sealed | SegmentState::Flushed)
    }
}

/// A role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// Users that have it.
    pub users: BTreeSet<String>,
    /// `privilege on object`.
    pub grants: BTreeSet<String>,
}

/// Where reading of a channel of the message queue goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The physical channel.
    pub channel: String,
    /// The message, in the queue's own form.
    pub message: Vec<u8>,
    /// When, in milliseconds since 1970.
    pub time: u64,
}

/// What a Milvus holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// Databases by id.
    pub databases: BTreeMap<i64, Database>,
    /// Collections by id.
    pub collections: BTreeMap<i64, Collection>,
    /// Segments by id.
    pub segments: BTreeMap<i64, Segment>,
    /// Users.
    pub users: BTreeSet<String>,
    /// Roles by name.
    pub roles: BTreeMap<String, Role>,
    /// Resource groups.
    pub resource_groups: BTreeSet<String>,
    /// Checkpoints by virtual channel.
    pub checkpoints: BTreeMap<String, Checkpoint>,
    /// The newest format of JSON statistics that a segment has.
    pub(super) json_format: i64,
    /// Privileges by the id under which a role has them.
    grantees: BTreeMap<String, BTreeSet<String>>,
    /// (role, object, id of privileges).
    granted: Vec<(String, String, String)>,
}

fn pairs(pairs: Vec<Pair>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
}

/// The time in a timestamp of Milvus: milliseconds in its upper 46 bits.
fn millis(timestamp: u64) -> u64 {
    timestamp >> 18
}

/// A type's name.
fn type_name(number: i32) -> String {
    let name = match number {
        1 => "Bool",
        2 => "Int8",
        3 => "Int16",
        4 => "Int32",
        5 => "Int64",
        10 => "Float",
        11 => "Double",
        20 => "String",
        21 => "VarChar",
        22 => "Array",
        23 => "JSON",
        24 => "Geometry",
        25 => "Text",
        26 => "Timestamptz",
        100 => "BinaryVector",
        101 => "FloatVector",
        102 => "Float16Vector",
        103 => "BFloat16Vector",
        104 => "SparseFloatVector",
        105 => "Int8Vector",
        106 => "ArrayOfVector",
        201 => "Struct",
        other => return format!("type {other}"),
    };
    name.into()
}

impl From<FieldSchema> for Field {
    fn from(schema: FieldSchema) -> Field {
        let roles = [
            (schema.primary, "primary key"),
            (schema.auto_id, "auto id"),
            (schema.partition_key, "partition key"),
            (schema.dynamic, "dynamic"),
            (schema.nullable, "nullable"),
        ];
        let mut data_type = type_name(schema.data_type);
        if schema.element_type != 0 {
            data_type += &format!("<{}>", type_name(schema.element_type));
        }
        Field {
            id: schema.id,
            name: schema.name,
            data_type,
            roles: roles.into_iter().filter(|(is, _)| *is).map(|(_, role)| role).collect(),
            parameters: pairs(schema.parameters),
        }
    }
}

/// Fields below this number are Milvus's own: row ids and timestamps.
const FIRST_USER_FIELD: i64 = 100;

impl Catalog {
    fn collection(&mut self, id: i64) -> &mut Collection {
        self.collections.entry(id).or_default()
    }

    fn add_field(&mut self, collection: i64, schema: FieldSchema) {
        if schema.id >= FIRST_USER_FIELD {
            let field = Field::from(schema);
            self.collection(collection).fields.insert(field.id, field);
        }
    }

    fn add_collection(&mut self, info: CollectionInfo) {
        let schema = info.schema.unwrap_or_default();
        // Older ones have no database: the one that is always there.
        let database = if info.database == 0 { 1 } else { info.database };
        let collection = self.collection(info.id);
        collection.database = database;
        collection.name = schema.name;
        collection.description = schema.description;
        collection.dynamic = schema.dynamic;
        collection.created = millis(info.created);
        collection.shards = info.shards;
        collection.properties = pairs(info.properties);
        collection.channels = info.virtual_channels;
        let states = ["created", "creating", "dropping", "dropped"];
        collection.state = states.get(info.state as usize).copied().unwrap_or("unknown");
        let levels = ["Strong", "Session", "Bounded", "Eventually", "Customized"];
        collection.consistency = levels.get(info.consistency as usize).copied().unwrap_or("unknown");
        for field in schema.fields {
            self.add_field(info.id, field);
        }
    }

    fn add_alias(&mut self, alias: AliasInfo) {
        self.collection(alias.collection).aliases.insert(alias.name);
    }

    /// A key below `<root>/meta/root-coord/`; says whether it was one that is known.
    pub(super) fn add_root_coord(
        &mut self,
        parts: &[&str],
        value: &[u8],
    ) -> Result<bool, prost::DecodeError> {
        match parts {
            ["database", "db-info", _] => {
                let info = DatabaseInfo::decode(value)?;
                let database = Database { name: info.name, properties: pairs(info.properties) };
                self.databases.insert(info.id, database);
            }
            ["database", "collection-info", _, _] | ["collection", _] => {
                self.add_collection(CollectionInfo::decode(value)?);
            }
            ["database", "aliases", _, _] | ["aliases", _] => self.add_alias(AliasInfo::decode(value)?),
            // The oldest form: a whole collection under the alias.
            ["collection-alias", alias] => {
                let collection = CollectionInfo::decode(value)?.id;
                self.add_alias(AliasInfo { name: (*alias).into(), collection, database: 1 });
            }
            ["partitions", _, _] => {
                let info = PartitionInfo::decode(value)?;
                self.collection(info.collection).partitions.insert(info.id, info.name);
            }
            ["fields", collection, _] => match collection.parse() {
                Ok(collection) => self.add_field(collection, FieldSchema::decode(value)?),
                Err(_) => return Ok(false),
            },
            ["functions", collection, _] => match collection.parse() {
                Ok(id) => drop(self.collection(id).functions.insert(FunctionSchema::decode(value)?.name)),
                Err(_) => return Ok(false),
            },
            ["struct-array-fields", ..] => {}
            ["credential", rest @ ..] => return Ok(self.add_credential(rest, value)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_credential(&mut self, parts: &[&str], value: &[u8]) -> bool {
        let text = String::from_utf8_lossy(value);
        match parts {
            ["users", user] => drop(self.users.insert((*user).into())),
            ["roles", role] => drop(self.roles.entry((*role).into()).or_default()),
            ["user-role-mapping", user, role] => {
                self.roles.entry((*role).into()).or_default().users.insert((*user).into());
            }
            ["grantee-privileges", role, kind, object @ ..] => {
                let object = format!("{kind} {}", object.join("/"));
                self.granted.push(((*role).into(), object, text.into()));
            }
            ["grantee-id", id, privilege] => {
                let privilege = privilege.trim_start_matches("Privilege");
                self.grantees.entry((*id).into()).or_default().insert(privilege.into());
            }
            ["privilege-group", ..] => {}
            _ => return false,
        }
        true
    }

    /// Privileges are found by an id that the role's object has.
    pub(super) fn join_grants(&mut self) {
        for (role, object, id) in std::mem::take(&mut self.granted) {
            for privilege in self.grantees.get(&id).into_iter().flatten() {
                self.roles.entry(role.clone()).or_default().grants.insert(format!("{privilege} on {object}"));
            }
        }
        self.grantees.clear();
    }

    pub(super) fn add_segment(&mut self, info: SegmentInfo) {
        let formats = info.json_stats.values().map(|stats| stats.json_format());
        self.json_format = formats.fold(self.json_format, i64::max);
        let segment = Segment {
            collection: info.collection,
            partition: info.partition,
            rows: info.rows.max(0) as u64,
            most_rows: info.most_rows.max(0) as u64,
            state: SegmentState::of(&info),
            level: info.level,
            storage: info.storage,
            listing: Listing::of(&info),
            elsewhere: false,
            deletes: 0,
        };
        self.segments.insert(info.id, segment);
    }

    pub(super) fn add_checkpoint(&mut self, channel: &str, position: MsgPosition) {
        let time = millis(position.timestamp);
        let checkpoint = Checkpoint { channel: position.channel, message: position.message, time };
        self.checkpoints.insert(channel.into(), checkpoint);
    }

    pub(super) fn add_index(&mut self, index: FieldIndex) {
        let Some(info) = index.index.filter(|_| !index.deleted) else { return };
        let parameters = pairs(info.parameters);
        let index = Index { id: info.id, name: info.name, field: info.field, parameters };
        self.collection(info.collection).indexes.insert(index.id, index);
    }

    pub(super) fn add_load(&mut self, info: CollectionLoadInfo) {
        self.collection(info.collection).replicas = Some(info.replicas);
    }
}
