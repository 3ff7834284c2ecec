//! Numbers, times and keys as text and as JSON.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use icecore::context::Nanos;
use icecore::format::HashKv;
pub use icecore::progress::size;
use serde_json::{Value, json};

/// A line on stderr, if anybody is there to read it.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
use super::failure::Failure;

/// A size as users write it: `200GiB`, `200GB`, `1000B`, plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no size; write 200GiB, 200GB, 1000B or plain bytes");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    let value: f64 = digits.parse().map_err(|_| bad())?;
    let bytes = value * factor as f64;
    if bytes.is_finite() && bytes < 9e18 { Ok(bytes as u64) } else { Err(bad()) }
}

/// A share as users write it: `5%`.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').and_then(|percent| percent.trim().parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("{text:?} is no share; write 5%")),
    }
}

/// A duration as users write it: `90s`, `1h30m`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| duration.try_into().ok());
    parsed.ok_or_else(|| format!("{text:?} is no duration; write 90s, 30m or 1h30m"))
}

/// A span of the calendar as users write it: `3d`, `2w`, `1y6mo`.
pub fn parse_span(text: &str) -> Result<jiff::Span, String> {
    let span = text.parse::<jiff::Span>().ok().filter(|span| !span.is_negative());
    span.ok_or_else(|| format!("{text:?} is no span of time; write 36h, 3d, 2w, 6mo or 1y"))
}

/// A count with its thousands apart.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 if seconds < 10.0 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{}:{:02} min", whole / 60, whole % 60),
        _ => format!("{}:{:02} h", whole / 3600, whole % 3600 / 60),
    }
}

fn timestamp(nanos: Nanos) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(nanos.into()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Local time with its offset.
pub fn local_time(nanos: Nanos) -> String {
    let zoned = timestamp(nanos).to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// RFC 3339 in UTC.
pub fn utc(nanos: Nanos) -> String {
    timestamp(nanos).to_string()
}

/// A key as text: as it is where it can be shown, else escaped.
pub fn key_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.escape_ascii().to_string(),
    }
}

/// A key as it was typed: its bytes, or base64 of them.
pub fn key_bytes(text: &OsStr, base64: bool) -> Result<Vec<u8>, Failure> {
    if !base64 {
        return Ok(text.as_bytes().to_vec());
    }
    let decoded = data_encoding::BASE64.decode(text.as_bytes());
    decoded.map_err(|e| Failure::usage(format!("{:?} is no base64: {e}", text.to_string_lossy())))
}

/// Puts a key into a JSON object: `key`, or `key_base64` where it is not UTF-8.
pub fn key_json(key: &[u8], mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        match std::str::from_utf8(key) {
            Ok(text) => fields.insert("key".into(), json!(text)),
            Err(_) => fields.insert("key_base64".into(), json!(data_encoding::BASE64.encode(key))),
        };
    }
    object
}

/// An id of etcd: 16 hexadecimal digits.
pub fn hex(id: u64) -> String {
    format!("{id:016x}")
}

/// A member's hash.
pub fn hash_json(hash: Option<HashKv>) -> Value {
    hash.map_or(Value::Null, |hash| {
        json!({"hash": hash.hash, "revision": hash.revision, "compact_revision": hash.compact_revision})
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(parse_size("200GiB"), Ok(200 << 30));
        assert_eq!(parse_size("200GB"), Ok(200_000_000_000));
        assert_eq!(parse_size("1000B"), Ok(1000));
        assert_eq!(parse_size("17"), Ok(17));
        assert_eq!(parse_size("1.5MiB"), Ok(3 << 19));
        for bad in ["", "GiB", "1X", "-1", "1e30TB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(number(1_234_567), "1,234,567");
    }

    #[test]
    fn shares_and_durations_are_read() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert!(["5", "-1%", "101%", "x%"].into_iter().all(|bad| parse_share(bad).is_err()));
        assert_eq!(parse_duration("1h30m").map(|d| d.as_secs()), Ok(5400));
        assert_eq!(parse_span("3d").map(|span| span.get_days()), Ok(3));
        assert_eq!(parse_span("1y6mo").map(|span| (span.get_years(), span.get_months())), Ok((1, 6)));
        assert!(["", "1", "-3d", "soon"].into_iter().all(|bad| parse_span(bad).is_err()));
        assert!(["", "1", "-5s", "soon"].into_iter().all(|bad| parse_duration(bad).is_err()));
    }

    #[test]
    fn a_key_that_is_not_utf_8_is_shown_in_base_64() {
        assert_eq!(key_json(b"a", json!({}))["key"], "a");
        assert_eq!(key_json(b"\xff", json!({}))["key_base64"], "/w==");
        assert_eq!(key_text(b"a\n\xff"), "a\\n\\xff");
    }
}
