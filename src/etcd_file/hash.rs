//! `HashKV`: what a member answers for its records up to a revision.
//!
//! CRC-32C over the bucket's name and the raw records, by (revision, sub). Which of them count depends on
//! the compaction point C that comes with the answer: all after C; of those at or below it the ones that
//! are what their key is at the revision hashed. Where no key is alive then, it depends: all that are there
//! count when the member hashes as it is asked, none when it answers with the hash that it made as it
//! compacted that very revision (3.6 and later).

use crc_fast::{CrcAlgorithm, Digest};

use super::KeyRecord;

/// The hash of records as they come.
#[derive(Clone)]
pub struct KeyHash {
    compacted: i64,
    digest: Digest,
}

impl KeyHash {
    /// The hash for the compaction point `compacted`.
    pub fn new(compacted: i64) -> KeyHash {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(b"key");
        KeyHash { compacted, digest }
    }

    /// The next record, and what it is encoded as. `kept` says whether it counts if it is not after the
    /// compaction point.
    pub fn push(&mut self, record: &KeyRecord, (name, value): (&[u8], &[u8]), kept: bool) {
        // Versions differ in whether a deletion at the compaction point stays in the file.
        let dropped = record.revision == self.compacted && record.tombstone;
        if record.revision > self.compacted || kept && !dropped {
            self.digest.update(name);
            self.digest.update(value);
        }
    }

    /// The hash.
    pub fn finish(&self) -> u32 {
        // A CRC of 32 bits.
        self.digest.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::etcd_file::KeyValue;

    /// What etcd 3.5.1, 3.6.4 and 3.7.3 answered alike, after
    ///
    /// ```text
    /// put a 1; put b 2 --lease=4d; put a 3; txn: del b, put c 4, put d 5; put e 6; del e; put f 7;
    /// del "" --from-key
    /// ```
    ///
    /// and compactions at 5, 7 and 8: revision, compaction point, hash.
    const RECORDED: [(i64, i64, u32); 16] = [
        (1, 0, 1_084_519_789),
        (2, 0, 2_587_454_935),
        (3, 0, 1_151_892_986),
        (4, 0, 1_479_781_970),
        (5, 0, 3_414_611_263),
        (6, 0, 4_159_602_696),
        (7, 0, 1_020_906_787),
        (8, 0, 2_363_025_922),
        (9, 0, 161_095_475),
        (6, 5, 78_833_822),
        (7, 5, 3_450_004_311),
        (8, 5, 539_407_485),
        (9, 5, 3_705_814_522),
        (8, 7, 1_879_698_394),
        (9, 7, 3_536_332_435),
        (9, 8, 3_536_332_435),
    ];
    /// What 3.6.4 and 3.7.3 answered for revision 9 after it was compacted itself, and 8 before it.
    const MADE_WHILE_COMPACTING: u32 = 238_036_456;

    fn put(
        revision: i64,
        sub: i64,
        key: &str,
        value: &str,
        (create_revision, version, lease): (i64, i64, i64),
    ) -> KeyRecord {
        let (key, value) = (key.into(), value.into());
        let kv = KeyValue { key, create_revision, mod_revision: revision, version, value, lease };
        KeyRecord { revision, sub, tombstone: false, kv }
    }

    fn delete(revision: i64, sub: i64, key: &str) -> KeyRecord {
        let kv = KeyValue { key: key.into(), ..KeyValue::default() };
        KeyRecord { revision, sub, tombstone: true, kv }
    }

    fn records() -> Vec<KeyRecord> {
        vec![
            put(2, 0, "a", "1", (2, 1, 0)),
            put(3, 0, "b", "2", (3, 1, 0x4d)),
            put(4, 0, "a", "3", (2, 2, 0)),
            delete(5, 0, "b"),
            put(5, 1, "c", "4", (5, 1, 0)),
            put(5, 2, "d", "5", (5, 1, 0)),
            put(6, 0, "e", "6", (6, 1, 0)),
            delete(7, 0, "e"),
            put(8, 0, "f", "7", (8, 1, 0)),
            delete(9, 0, "a"),
            delete(9, 1, "c"),
            delete(9, 2, "d"),
            delete(9, 3, "f"),
        ]
    }

    /// Where the newest record of each key alive at a revision stands.
    fn alive(records: &[KeyRecord], revision: i64) -> Vec<(i64, i64)> {
        let mut keys = BTreeMap::new();
        for record in records.iter().filter(|record| record.revision <= revision) {
            match record.tombstone {
                true => keys.remove(&record.kv.key),
                false => keys.insert(&record.kv.key, (record.revision, record.sub)),
            };
        }
        keys.into_values().collect()
    }

    fn push(hash: &mut KeyHash, record: &KeyRecord, kept: bool) {
        let mut raw = Vec::new();
        hash.push(record, record.encode(&mut raw), kept);
    }

    fn hash(revision: i64, compacted: i64, none_when_empty: bool) -> u32 {
        let records = records();
        let (there, kept) = (alive(&records, compacted), alive(&records, revision));
        let mut hash = KeyHash::new(compacted);
        for record in records.iter().filter(|record| record.revision <= revision) {
            let at = (record.revision, record.sub);
            if record.revision > compacted || there.contains(&at) {
                push(&mut hash, record, kept.contains(&at) || kept.is_empty() && !none_when_empty);
            }
        }
        hash.finish()
    }

    #[test]
    fn hashes_are_what_real_members_answered() {
        for (revision, compacted, expected) in RECORDED {
            assert_eq!(hash(revision, compacted, false), expected, "{revision} compacted at {compacted}");
        }
        assert_eq!(hash(9, 8, true), MADE_WHILE_COMPACTING);
    }

    #[test]
    fn a_deletion_at_the_compaction_point_does_not_count() {
        let mut with = KeyHash::new(7);
        push(&mut with, &delete(7, 0, "e"), true);
        assert_eq!(with.finish(), KeyHash::new(7).finish());
    }
}
