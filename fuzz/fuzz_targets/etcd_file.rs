//! Any bytes are etcd's database or an error: nothing panics, nothing goes on for ever.
#![no_main]

use std::io::Write;

use icecore::etcd_file::{EtcdFile, Fault, SYSTEM_BUCKETS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::tempfile().expect("a temporary file can be made");
    file.write_all(bytes).expect("a temporary file can be written");
    let Ok(etcd) = EtcdFile::open(file, bytes.len() as u64) else { return };
    // A page may be reached in many ways; so many records are enough to see.
    let mut left = 10_000;
    let _ = etcd.records(0, |_| {
        left -= 1;
        Ok::<bool, Fault>(left > 0)
    });
    for bucket in SYSTEM_BUCKETS {
        let _ = etcd.entries(bucket, |_, _| {
            left -= 1;
            if left > 0 { Ok(()) } else { Err(Fault::Malformed("enough".into())) }
        });
    }
});
