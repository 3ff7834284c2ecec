//! Milvus's lists of files: any bytes are read or refused, and no file lies above the root path.
#![no_main]

use icecore::milvus::read_manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(manifest) = read_manifest(bytes, "insert_log/1/2/3") else { return };
    let indexes = manifest.indexes.iter().flat_map(|index| &index.files);
    for key in manifest.files.iter().map(|file| &file.key).chain(indexes) {
        assert!(key.split('/').all(|part| !["", ".", ".."].contains(&part)), "{key}");
    }
});
