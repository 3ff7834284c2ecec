//! Any bytes are an entry of a tree or an error, and what is read is written back the same.
#![no_main]

use icecore::format::{Event, Item, KeyState, parse_history_key, parse_version_key};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(item) = Item::decode(bytes) {
        assert_eq!(Item::decode(&item.encode()).as_ref(), Ok(&item));
    }
    if let Ok(event) = Event::decode(bytes) {
        assert_eq!(Event::decode(&event.encode()).as_ref(), Ok(&event));
    }
    if let Ok(state) = KeyState::decode(bytes) {
        assert_eq!(KeyState::decode(&state.encode()).as_ref(), Ok(&state));
    }
    let _ = parse_history_key(bytes);
    let _ = parse_version_key(bytes);
});
