//! Dead letters on their way into the lake.

use tidegauge_core::ShardId;
use tidegauge_core::event::EventBatch;
use tidegauge_lake::dead_letter::DeadLetter as Letter;
use tidegauge_proto::convert::batch;

use crate::decide::{DeadBatch, DeadLetter, split_events};

/// Letters as they stand in the lake: a whole record each, or one event each.
pub(super) fn letters(shard: ShardId, dead: &DeadBatch) -> Vec<Letter> {
    let mut letters = Vec::new();
    for letter in &dead.letters {
        let whole = || one(shard, dead, letter, None, letter.payload.clone());
        if letter.reason.whole_record() {
            letters.push(whole());
            continue;
        }
        match batch::decode(letter.payload.clone()) {
            Ok(events) => {
                let each = split_events(&events).into_iter();
                letters.extend(each.map(|(index, event)| one(shard, dead, letter, Some(index), encode(event))));
            }
            // Encoded by this program: if it cannot be read, its bytes are kept as they are.
            Err(_) => letters.push(whole()),
        }
    }
    letters
}

fn encode(event: EventBatch) -> bytes::Bytes {
    batch::encode(event)
}

fn one(shard: ShardId, dead: &DeadBatch, letter: &DeadLetter, index: Option<u32>, payload: bytes::Bytes) -> Letter {
    Letter {
        tenant: Some(dead.tenant.clone()),
        shard,
        ordinal: letter.ordinal,
        event_index: index,
        reason: letter.reason.as_str().into(),
        detail: letter.detail.clone(),
        arrival_ns: letter.arrival_ns,
        payload,
    }
}
