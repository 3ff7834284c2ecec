//! Places in message queues, as Milvus writes them into etcd: told apart by their form.

use prost::Message;

/// Offsets of Kafka lie below; rocksmq's ids, made from the time, above.
const LEAST_ROCKSMQ: u64 = 1 << 48;

/// The kind of message queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// None yet: the channel is read from its begin.
    Unread,
    /// In a directory of a standalone Milvus.
    Rocksmq,
    /// Kafka.
    Kafka,
    /// Pulsar.
    Pulsar,
    /// One that is not known.
    Other,
}

/// Pulsar's `MessageIdData`.
#[derive(Clone, PartialEq, Message)]
struct PulsarId {
    #[prost(uint64, optional, tag = "1")]
    ledger: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    entry: Option<u64>,
    #[prost(int32, optional, tag = "3")]
    partition: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    batch: Option<i32>,
}

impl Queue {
    /// The queue that a message's id is of. Pulsar's are messages, the others numbers; a number is hardly ever
    /// such a message by chance.
    pub fn of(id: &[u8]) -> Queue {
        if id.is_empty() {
            return Queue::Unread;
        }
        if let Ok(PulsarId { ledger: Some(_), entry: Some(_), .. }) = PulsarId::decode(id) {
            return Queue::Pulsar;
        }
        match id.try_into().map(u64::from_le_bytes) {
            Ok(number) if number < LEAST_ROCKSMQ => Queue::Kafka,
            Ok(_) => Queue::Rocksmq,
            Err(_) => Queue::Other,
        }
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Queue::Unread => "no queue",
            Queue::Rocksmq => "rocksmq",
            Queue::Kafka => "Kafka",
            Queue::Pulsar => "Pulsar",
            Queue::Other => "a queue that is not known",
        }
    }
}

/// The id by which a queue of the same kind is read from its begin; `None` where there is none to write.
pub(super) fn begin(id: &[u8]) -> Option<Vec<u8>> {
    match Queue::of(id) {
        Queue::Unread | Queue::Other => None,
        Queue::Rocksmq | Queue::Kafka => Some(vec![0; 8]),
        // Pulsar's word for the earliest: minus one everywhere.
        Queue::Pulsar => {
            let all = PulsarId {
                ledger: Some(u64::MAX),
                entry: Some(u64::MAX),
                partition: Some(-1),
                batch: Some(-1),
            };
            Some(all.encode_to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_an_id_tells_its_queue() {
        assert_eq!(Queue::of(b""), Queue::Unread);
        assert_eq!(Queue::of(&470_689_028_414_574_294u64.to_le_bytes()), Queue::Rocksmq);
        assert_eq!(Queue::of(&12_345u64.to_le_bytes()), Queue::Kafka);
        assert_eq!(Queue::of(&[8, 90, 16, 7, 24, 0, 32, 5]), Queue::Pulsar, "as short as a number");
        assert_eq!(Queue::of(&[0; 8]), Queue::Kafka);
        assert_eq!(Queue::of(&[8, 0xb4, 0x12, 16, 3, 24, 0, 32, 0, 48, 0]), Queue::Pulsar);
        assert_eq!(Queue::of(b"wp:1/2"), Queue::Other);
    }

    #[test]
    fn the_begin_of_a_queue_is_an_id_of_it() {
        for id in [&12_345u64.to_le_bytes()[..], &[8, 90, 16, 7, 24, 0, 32, 0, 48, 0]] {
            let first = begin(id).unwrap();
            assert_eq!(Queue::of(&first), Queue::of(id));
            assert_eq!(begin(&first), Some(first.clone()));
        }
    }
}
