//! Entry points for the fuzz target and a test of the framing.
#![cfg_attr(not(fuzzing), allow(unreachable_pub))]

use std::sync::Arc;

use super::{Link, Wire};
use crate::clock::ManualClock;

/// Parses `bytes` as a client's and as a server's messages, as a whole and in pieces of these
/// lengths in turn. Used by the fuzz target `postgres`.
///
/// # Panics
///
/// Panics if the results differ.
pub fn follows_alike(bytes: &[u8], lengths: &[u8]) {
    let followed = |lengths: &[u8], sent: bool| {
        let link = Arc::new(Link::default());
        let mut wire = Wire::new(None, link.clone());
        let (mut rest, mut lengths) = (bytes, lengths.iter().cycle());
        while !rest.is_empty() {
            let length = lengths.next().map_or(rest.len(), |length| usize::from(*length).max(1));
            let (piece, later) = rest.split_at(length.min(rest.len()));
            if sent {
                wire.sent.feed(piece, |kind, _| link.sent(kind));
            } else {
                wire.received.feed(piece, |kind, body| link.received(kind, body));
            }
            rest = later;
        }
        format!("{:?}", link.state())
    };
    for sent in [true, false] {
        assert_eq!(followed(lengths, sent), followed(&[], sent), "sent: {sent}");
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new(Arc::new(ManualClock::new()))
    }
}
