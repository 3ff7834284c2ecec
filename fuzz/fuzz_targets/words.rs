//! What users type: any text is understood or refused.
#![no_main]

use icecore::id::SessionId;
use icecore::repository::Point;
use icecore::restore::Map;
use icecore::selection::Selection;
use icecore::storage::{Location, decode_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text.parse::<Point>();
    let _ = text.parse::<Map>();
    let _ = text.parse::<Location>();
    let _ = decode_key(text);
    if let Ok(id) = text.parse::<SessionId>() {
        assert_eq!(id.to_string(), text);
    }
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Ok(selection) = Selection::new(lines.clone(), lines) {
        let _ = selection.takes(text.as_bytes());
    }
});
