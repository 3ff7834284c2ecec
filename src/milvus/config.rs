//! `milvus.yaml`: the two lines of it that are needed.

/// What a `milvus.yaml` says of where Milvus keeps its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// `minio.bucketName`.
    pub bucket: Option<String>,
    /// `minio.rootPath`: the root path in the bucket.
    pub root: Option<String>,
}

impl Config {
    /// Reads it.
    ///
    /// Not a parser for YAML: sections stand at the beginning of a line and their keys below them, indented, as in
    /// every `milvus.yaml` and in the values of its chart.
    pub fn parse(yaml: &str) -> Config {
        let (mut config, mut section) = (Config::default(), "");
        for line in yaml.lines() {
            let text = line.split(" #").next().unwrap_or_default().trim_end();
            let Some((key, value)) = text.trim_start().split_once(':') else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            match (text.starts_with([' ', '\t']), section, key) {
                (false, _, _) => section = key,
                (true, "minio", "bucketName") => config.bucket = Some(value.to_owned()),
                (true, "minio", "rootPath") => config.root = Some(value.trim_matches('/').to_owned()),
                _ => {}
            }
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_and_root_path_are_those_of_the_section_minio() {
        let yaml = "# a comment: x\netcd:\n  rootPath: by-dev # of etcd\nminio:\n  address: localhost\n  bucketName: a-bucket # b\n  rootPath: \"a/b/\" # here\nrootCoord:\n  bucketName: x\n";
        let parsed = |bucket: Option<&str>, root: Option<&str>| Config {
            bucket: bucket.map(str::to_owned),
            root: root.map(str::to_owned),
        };
        assert_eq!(Config::parse(yaml), parsed(Some("a-bucket"), Some("a/b")));
        assert_eq!(Config::parse("minio:\n  rootPath:\n"), parsed(None, Some("")));
        assert_eq!(Config::parse("etcd:\n  rootPath: by-dev\n"), parsed(None, None));
        assert_eq!(Config::parse("rootPath: x\nminio: {}"), parsed(None, None));
    }
}
