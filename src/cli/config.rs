//! The configuration file: the same words as the flags, in tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::failure::Failure;

/// What each table may hold.
const TABLES: [(&str, &[&str]); 5] = [
    (
        "repository",
        &[
            "url",
            "passphrase-file",
            "passphrase-command",
            "cache-dir",
            "memory",
            "limit-upload",
            "limit-download",
            "series",
        ],
    ),
    ("etcd", &["url", "prefix", "user", "password-file", "password-command", "ca", "cert", "key", "capture"]),
    ("milvus", &["config", "management", "flush", "user", "password-file", "password-command", "ca"]),
    (
        "objects",
        &[
            "s3",
            "bucket",
            "prefix",
            "ca",
            "dir",
            "exclude-caches",
            "one-file-system",
            "include",
            "exclude",
            "versions",
        ],
    ),
    (
        "retention",
        &[
            "keep-within",
            "keep-last",
            "keep-hourly",
            "keep-daily",
            "keep-weekly",
            "keep-monthly",
            "keep-yearly",
            "keep-tag",
            "keep-at-least",
            "max-size",
        ],
    ),
];

/// Between the texts of an array; nothing that is configured holds one.
pub const ARRAY: char = '\0';

/// Values by `table.key`, or `series.NAME.table.key`.
#[derive(Debug, Default)]
pub struct File {
    values: BTreeMap<String, String>,
}

impl File {
    /// The file that was named, or the first of the usual ones that exists.
    pub fn load(named: Option<&Path>) -> Result<File, Failure> {
        let usual = [PathBuf::from("icecore.toml"), PathBuf::from("/etc/icecore/icecore.toml")];
        let path = match named {
            Some(path) => path.to_owned(),
            None => match usual.into_iter().find(|path| path.exists()) {
                Some(path) => path,
                None => return Ok(File::default()),
            },
        };
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
        parse(&text).map_err(|why| Failure::usage(format!("{}: {why}", path.display())))
    }

    /// A value for the series: its own table first.
    pub fn get(&self, series: &str, table: &str, key: &str) -> Option<String> {
        let own = self.values.get(&format!("series.{series}.{table}.{key}"));
        own.or_else(|| self.values.get(&format!("{table}.{key}"))).cloned()
    }
}

/// The known word that is nearest, as advice.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.max_by(|a, b| strsim::jaro_winkler(word, a).total_cmp(&strsim::jaro_winkler(word, b)));
    best.map(|best| format!("; did you mean {best:?}?")).unwrap_or_default()
}

fn parse(text: &str) -> Result<File, String> {
    let tables: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let mut file = File::default();
    for (name, value) in &tables {
        if name == "series" {
            let all = value.as_table().ok_or("series is no table")?;
            for (series, value) in all {
                let own = value.as_table().ok_or_else(|| format!("series.{series} is no table"))?;
                for (table, value) in own {
                    file.read_table(&format!("series.{series}."), table, value)?;
                }
            }
        } else {
            file.read_table("", name, value)?;
        }
    }
    Ok(file)
}

impl File {
    fn read_table(&mut self, before: &str, name: &str, value: &toml::Value) -> Result<(), String> {
        let names = || TABLES.iter().map(|(name, _)| *name).chain(["series"]);
        let known = TABLES.iter().find(|(known, _)| *known == name);
        let (_, keys) =
            known.ok_or_else(|| format!("[{before}{name}] is not known{}", nearest(name, names())))?;
        let table = value.as_table().ok_or_else(|| format!("{before}{name} is no table"))?;
        for (written, value) in table {
            // TOML's own custom is max_size, a flag's max-size.
            let key = &written.replace('_', "-");
            if !keys.contains(&key.as_str()) {
                let advice = nearest(key, keys.iter().copied());
                return Err(format!("{written:?} in [{before}{name}] is not known{advice}"));
            }
            let text = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(yes) => yes.to_string(),
                toml::Value::Array(parts) => {
                    let parts: Option<Vec<&str>> = parts.iter().map(|part| part.as_str()).collect();
                    parts
                        .ok_or_else(|| format!("{key:?} in [{before}{name}] holds other things than texts"))?
                        .join(&ARRAY.to_string())
                }
                _ => return Err(format!("{key:?} in [{before}{name}] is no text")),
            };
            self.values.insert(format!("{before}{name}.{key}"), text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_own_table_comes_first() {
        let file = parse("[etcd]\nurl = ['a', 'b']\nprefix = 'p'\n[series.x.etcd]\nurl = 'c'").unwrap();
        assert_eq!(file.get("default", "etcd", "url").as_deref(), Some("a\0b"));
        assert_eq!(file.get("x", "etcd", "url").as_deref(), Some("c"));
        assert_eq!(file.get("x", "etcd", "prefix").as_deref(), Some("p"));
        assert_eq!(file.get("x", "objects", "bucket"), None);
    }

    #[test]
    fn keys_may_be_written_with_underscores() {
        let file = parse("[retention]\nmax_size = '1GiB'\nkeep-at-least = 3").unwrap();
        assert_eq!(file.get("default", "retention", "max-size").as_deref(), Some("1GiB"));
        assert_eq!(file.get("default", "retention", "keep-at-least").as_deref(), Some("3"));
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_known_one() {
        let error = parse("[objects]\nbuckt = 'b'").unwrap_err();
        assert!(error.contains("buckt") && error.contains("did you mean \"bucket\""), "{error}");
        let error = parse("[objets]\nbucket = 'b'").unwrap_err();
        assert!(error.contains("objets") && error.contains("did you mean \"objects\""), "{error}");
    }
}
