//! Any bytes are a tree node or an error, and a node has one spelling.
#![no_main]

use icecore::tree::Node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(node) = Node::decode(bytes) {
        let again = Node::decode(&node.encode()).expect("what was encoded is decoded");
        assert_eq!(again, node);
    }
});
