//! What the user may read, as far as the server tells him.

use std::fmt;

use etcd_client::PermissionType;

use super::{Etcd, Result, Span};

/// What a user may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// His name.
    pub user: String,
    /// The ranges that his roles let him read; an empty end stands for a single key.
    pub readable: Vec<Span>,
}

impl Etcd {
    /// The roles of the user and what they let him read. A user may ask for his own; `None` where there
    /// is no name to ask with (a certificate's is known to the server only).
    pub fn rights(&self) -> Result<Option<Rights>> {
        let Some((user, _)) = self.user.clone() else { return Ok(None) };
        let mut client = self.client();
        let roles = self.answered("ask for the user's roles in", client.user_get(user.as_str()))?;
        let mut readable = Vec::new();
        for role in roles.roles() {
            let role = self.answered("ask for the user's rights in", client.role_get(role.as_str()))?;
            let reads = role
                .permissions()
                .into_iter()
                .filter(|permission| permission.get_type() != i32::from(PermissionType::Write));
            readable.extend(reads.map(|permission| Span {
                from: permission.key().to_vec(),
                to: permission.range_end().to_vec(),
            }));
        }
        readable.sort_by(|a, b| a.from.cmp(&b.from));
        Ok(Some(Rights { user, readable }))
    }
}

fn text(key: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(key))
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.readable.iter().map(|Span { from, to }| {
            if matches!(from[..], [] | [0]) && *to == [0] {
                "all keys".into()
            } else if to.is_empty() {
                format!("the key {}", text(from))
            } else if *to == Span::of_prefix(from).to {
                text(from)
            } else if *to == [0] {
                format!("all from {} on", text(from))
            } else {
                format!("{} up to {}", text(from), text(to))
            }
        });
        let ranges: Vec<String> = ranges.collect();
        match ranges.is_empty() {
            true => write!(f, "user {:?} may read nothing", self.user),
            false => write!(f, "user {:?} may read {} only", self.user, ranges.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_told_as_prefixes_keys_and_ranges() {
        let span = |from: &[u8], to: &[u8]| Span { from: from.to_vec(), to: to.to_vec() };
        let mut rights = Rights { user: "reader".into(), readable: Vec::new() };
        assert_eq!(rights.to_string(), "user \"reader\" may read nothing");
        rights.readable.push(span(b"a/", b"a0"));
        assert_eq!(rights.to_string(), "user \"reader\" may read \"a/\" only");
        rights.readable = vec![span(b"\0", b"\0")];
        assert_eq!(rights.to_string(), "user \"reader\" may read all keys only");
        rights.readable = vec![span(b"a/", b"a0")];
        rights.readable.extend([span(b"b", b""), span(b"c", b"\0"), span(b"d", b"x")]);
        let all = "\"a/\", the key \"b\", all from \"c\" on, \"d\" up to \"x\"";
        assert_eq!(rights.to_string(), format!("user \"reader\" may read {all} only"));
    }
}
