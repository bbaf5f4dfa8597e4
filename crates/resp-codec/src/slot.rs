//! Key slots, by the specification of Redis Cluster.

/// The slot (0..16383) of `key`: CRC16 of the key, or of what stands between its first `{` and the first `}`
/// behind it, if that is not empty.
pub fn of(key: &[u8]) -> u16 {
    redis_protocol::redis_keyslot(key)
}
