//! `milvus.yaml`: the one line of it that is needed.

/// `minio.rootPath` of a `milvus.yaml`: the root path in the bucket.
///
/// Not a parser for YAML: sections stand at the beginning of a line and their keys below them, indented, as in
/// every `milvus.yaml` and in the values of its chart.
pub fn bucket_root(yaml: &str) -> Option<String> {
    let mut section = "";
    for line in yaml.lines() {
        let text = line.split(" #").next().unwrap_or_default().trim_end();
        let Some((key, value)) = text.trim_start().split_once(':') else { continue };
        if !text.starts_with([' ', '\t']) {
            section = key;
        } else if section == "minio" && key == "rootPath" {
            let value = value.trim().trim_matches(['"', '\'']);
            return Some(value.trim_matches('/').to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_path_is_that_of_the_section_minio() {
        let yaml = "# a comment: x\netcd:\n  rootPath: by-dev # of etcd\nminio:\n  address: localhost\n  rootPath: \"a/b/\" # here\n";
        assert_eq!(bucket_root(yaml).as_deref(), Some("a/b"));
        assert_eq!(bucket_root("minio:\n  rootPath:\n").as_deref(), Some(""));
        assert_eq!(bucket_root("etcd:\n  rootPath: by-dev\n"), None);
        assert_eq!(bucket_root("rootPath: x\nminio: {}"), None);
    }
}
