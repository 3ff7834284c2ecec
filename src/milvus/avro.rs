//! Avro's binary form, read where it stands by the schema it was written with: as much as manifests need.

use prost::encoding::decode_varint;
use serde_json::Value;

/// How deep types may lie inside each other.
const DEEPEST: usize = 16;

/// Why bytes are not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They are not what they are said to be.
    #[error("it is cut off or damaged")]
    Torn,
    /// They may be right.
    #[error("{0}")]
    Unknown(String),
}

type Result<T> = std::result::Result<T, Error>;

pub(super) fn unknown(what: impl Into<String>) -> Error {
    Error::Unknown(what.into())
}

/// What values look like: each has at least one byte, so that reading ends with the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schema {
    /// In a union only.
    Null,
    Boolean,
    /// `int` and `long`.
    Number,
    Float,
    Double,
    Bytes,
    Text,
    Array(Box<Schema>),
    /// By texts.
    Map(Box<Schema>),
    Union(Vec<Schema>),
    Record(Vec<(String, Schema)>),
}

impl Schema {
    pub fn array(of: Schema) -> Schema {
        Schema::Array(Box::new(of))
    }

    pub fn map(of: Schema) -> Schema {
        Schema::Map(Box::new(of))
    }

    pub fn record<const N: usize>(fields: [(&str, Schema); N]) -> Schema {
        Schema::Record(fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect())
    }

    /// From its JSON. Types that are named and used again are not known, so that none holds itself.
    pub fn parse(json: &[u8]) -> Result<Schema> {
        let json: Value = serde_json::from_slice(json).map_err(|_| Error::Torn)?;
        Schema::of(&json, DEEPEST)
    }

    fn of(json: &Value, depth: usize) -> Result<Schema> {
        let depth = depth.checked_sub(1).ok_or_else(|| unknown("its schema is too deep"))?;
        if let Value::Array(branches) = json {
            let branches = branches.iter().map(|branch| match branch.as_str() {
                Some("null") => Ok(Schema::Null),
                _ => Schema::of(branch, depth),
            });
            return Ok(Schema::Union(branches.collect::<Result<_>>()?));
        }
        let inside = |part| Schema::of(json.get(part).ok_or(Error::Torn)?, depth).map(Box::new);
        let kind = json.as_str().or_else(|| json.get("type")?.as_str());
        Ok(match kind {
            Some("boolean") => Schema::Boolean,
            Some("int" | "long") => Schema::Number,
            Some("float") => Schema::Float,
            Some("double") => Schema::Double,
            Some("bytes") => Schema::Bytes,
            Some("string") => Schema::Text,
            Some("array") => Schema::Array(inside("items")?),
            Some("map") => Schema::Map(inside("values")?),
            Some("record") => Schema::Record(Schema::fields(json, depth)?),
            Some(other) => return Err(unknown(format!("its schema has a type {other:?} that is not known"))),
            // The type in an object of its own.
            None => *inside("type")?,
        })
    }

    fn fields(json: &Value, depth: usize) -> Result<Vec<(String, Schema)>> {
        let fields = json.get("fields").and_then(Value::as_array).ok_or(Error::Torn)?;
        if fields.is_empty() {
            return Err(unknown("its schema has a record without fields"));
        }
        let field = |field: &Value| {
            let name = field.get("name").and_then(Value::as_str).ok_or(Error::Torn)?;
            Ok((name.to_owned(), Schema::of(field.get("type").ok_or(Error::Torn)?, depth)?))
        };
        fields.iter().map(field).collect()
    }

    /// Whether a record has such a field.
    pub fn has(&self, name: &str) -> bool {
        matches!(self, Schema::Record(fields) if fields.iter().any(|(field, _)| field == name))
    }

    /// Whether a value may have texts in it.
    fn has_text(&self) -> bool {
        match self {
            Schema::Bytes | Schema::Text | Schema::Map(_) => true,
            Schema::Array(of) => of.has_text(),
            Schema::Union(branches) => branches.iter().any(Schema::has_text),
            Schema::Record(fields) => fields.iter().any(|(_, schema)| schema.has_text()),
            Schema::Null | Schema::Boolean | Schema::Number | Schema::Float | Schema::Double => false,
        }
    }
}

/// What is still to be read.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Error::Torn)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number where one is written whatever the schema says.
    pub fn long(&mut self) -> Result<i64> {
        let number = decode_varint(&mut self.0).map_err(|_| Error::Torn)?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub fn length(&mut self) -> Result<usize> {
        usize::try_from(self.long()?).map_err(|_| Error::Torn)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    fn string(&mut self) -> Result<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Torn)
    }

    pub fn text(&mut self, schema: &Schema) -> Result<&'a str> {
        match schema {
            Schema::Text => self.string(),
            _ => Err(unknown("it has no text where one is looked for")),
        }
    }

    pub fn number(&mut self, schema: &Schema) -> Result<i64> {
        match schema {
            Schema::Number => self.long(),
            _ => Err(unknown("it has no number where one is looked for")),
        }
    }

    /// Each item of an array or a map, with its key in a map.
    pub fn each(
        &mut self,
        schema: &Schema,
        mut item: impl FnMut(&mut Self, &'a str, &Schema) -> Result<()>,
    ) -> Result<()> {
        let (of, keyed) = match schema {
            Schema::Array(of) => (of, false),
            Schema::Map(of) => (of, true),
            _ => return Err(unknown("it has no list where one is looked for")),
        };
        loop {
            let count = self.long()?;
            match count {
                0 => return Ok(()),
                // The size of the items in bytes follows.
                ..0 => drop(self.long()?),
                _ => {}
            }
            for _ in 0..count.unsigned_abs() {
                let key = if keyed { self.string()? } else { "" };
                item(self, key, of)?;
            }
        }
    }

    /// Each field of a record.
    pub fn record(
        &mut self,
        schema: &Schema,
        mut field: impl FnMut(&mut Self, &str, &Schema) -> Result<()>,
    ) -> Result<()> {
        let Schema::Record(fields) = schema else {
            return Err(unknown("it has no record where one is looked for"));
        };
        fields.iter().try_for_each(|(name, schema)| field(self, name, schema))
    }

    /// Passes a value over.
    pub fn skip(&mut self, schema: &Schema) -> Result<()> {
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => self.take(1).map(drop),
            Schema::Number => self.long().map(drop),
            Schema::Float => self.take(4).map(drop),
            Schema::Double => self.take(8).map(drop),
            Schema::Bytes | Schema::Text => self.bytes().map(drop),
            Schema::Array(_) | Schema::Map(_) => self.each(schema, |reader, _, of| reader.skip(of)),
            Schema::Union(branches) => {
                let branch = self.length()?;
                self.skip(branches.get(branch).ok_or(Error::Torn)?)
            }
            Schema::Record(_) => self.record(schema, |reader, _, of| reader.skip(of)),
        }
    }

    /// Passes a field over that nobody looked for, unless it may name something.
    pub fn pass(&mut self, name: &str, schema: &Schema) -> Result<()> {
        if schema.has_text() {
            return Err(unknown(format!("it has a field {name:?} that is not known")));
        }
        self.skip(schema)
    }
}
