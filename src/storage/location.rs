//! Repository URLs.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::S3Address;

/// Where a repository is, as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A local directory.
    Local(PathBuf),
    /// A bucket and a prefix on an S3 server.
    S3 {
        /// The server.
        address: S3Address,
        /// The bucket.
        bucket: String,
        /// The prefix, without slashes at its ends; may be empty.
        prefix: String,
    },
}

/// A repository URL that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not a repository: {why}")]
pub struct BadLocation {
    /// What was written.
    pub url: String,
    /// What is wrong with it.
    pub why: String,
}

impl FromStr for Location {
    type Err = BadLocation;

    /// A path, `file:///path`, or `s3://bucket/prefix?endpoint=…&region=…&ca=…`.
    fn from_str(url: &str) -> Result<Location, BadLocation> {
        let bad = |why: &str| BadLocation { url: url.into(), why: why.into() };
        match url.split_once("://") {
            _ if url.is_empty() => Err(bad("it is empty")),
            None => Ok(Location::Local(url.into())),
            Some(("file", path)) => Ok(Location::Local(path.into())),
            Some(("s3", rest)) => parse_s3(rest).map_err(|why| bad(&why)),
            Some((scheme, _)) => {
                Err(bad(&format!("{scheme}:// is not known; write a path or s3://bucket/prefix?endpoint=…")))
            }
        }
    }
}

fn parse_s3(rest: &str) -> Result<Location, String> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if bucket.is_empty() {
        return Err("it names no bucket".into());
    }
    let mut address = S3Address::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "endpoint" => address.endpoint = Some(value.into()),
            "region" => address.region = Some(value.into()),
            "ca" => address.ca = Some(value.into()),
            _ => return Err(format!("{name:?} is not known; endpoint, region and ca are")),
        }
    }
    Ok(Location::S3 { address, bucket: bucket.into(), prefix: prefix.trim_matches('/').into() })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Local(path) => write!(f, "{}", path.display()),
            Location::S3 { address, bucket, prefix } => {
                write!(f, "s3://{bucket}/{prefix}")?;
                match &address.endpoint {
                    Some(endpoint) => write!(f, " at {endpoint}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_an_s3_url_is_read() {
        let url = "s3://b/some/prefix/?endpoint=http://127.0.0.1:9000&region=eu-1&ca=/ca.pem";
        let address = S3Address {
            endpoint: Some("http://127.0.0.1:9000".into()),
            region: Some("eu-1".into()),
            ca: Some("/ca.pem".into()),
        };
        let expected = Location::S3 { address, bucket: "b".into(), prefix: "some/prefix".into() };
        assert_eq!(url.parse(), Ok(expected));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for url in ["", "s3://", "s3:///prefix", "s3://b?endpont=x", "ftp://host/x"] {
            assert!(url.parse::<Location>().is_err(), "{url}");
        }
    }
}
