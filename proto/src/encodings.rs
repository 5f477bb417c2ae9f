//! The same events in every legal encoding, for tests: what a receiver makes of them must not depend on it.
//!
//! Protobuf lets an encoder write fields in any order, arrays packed, in pieces or element by element, a nested message in
//! pieces, and add fields that a reader does not know. The contract lets a dictionary hold entries twice, unused ones and
//! in any order, and lets ids be left out where there is only one entry. All of it is drawn from a seed here.

use std::collections::BTreeMap;

use crate::convert::time::timestamp_ns;
use crate::ingest::v1::Event;
use crate::raw::encode::put_varint;
use crate::stream::v1::Mode;

/// What stands in a request beside its events.
#[derive(Clone, Debug)]
pub struct Head {
    /// 16 bytes, or none.
    pub producer_id: Vec<u8>,
    /// Place in the producer's order.
    pub sequence: u64,
    /// Mode.
    pub mode: Mode,
}

/// Draws the choices that an encoder has (splitmix64).
#[derive(Clone, Debug)]
pub struct Encoder(u64);

impl Encoder {
    /// The same seed makes the same choices.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is at least 1.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    /// An encoded `PublishRequest` with the events as rows or as columns. As columns only where each event has a time, and
    /// no tenant of its own.
    pub fn request(&mut self, head: &Head, events: &[Event]) -> Vec<u8> {
        let mut fields = vec![vec![number(2, head.sequence)], vec![number(3, head.mode as u64)]];
        if !head.producer_id.is_empty() {
            fields.push(vec![bytes(1, &head.producer_id)]);
        }
        let has_columns = events.iter().all(|event| event.tenant_id.is_empty() && time_of(event).is_some());
        if has_columns && !self.one_in(4) {
            let columns = self.column_fields(events);
            // A nested message may come in pieces; concatenation is protobuf's merge.
            let middle = if self.one_in(2) { 0 } else { self.below(columns.len() + 1) };
            let pieces = [&columns[..middle], &columns[middle..]];
            let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
            fields.push(pieces.map(|piece| bytes(5, &piece.concat())).collect());
        } else {
            fields.push(events.iter().map(|event| bytes(4, &self.row(event))).collect());
        }
        self.weave(fields).concat()
    }

    /// An encoded `Event`.
    pub fn row(&mut self, event: &Event) -> Vec<u8> {
        let texts = [
            (1, &event.tenant_id),
            (2, &event.event_type),
            (4, &event.metric_name),
            (7, &event.source),
            (8, &event.version),
        ];
        // An empty text may be written or left out.
        let texts = texts.into_iter().filter(|(_, text)| !text.is_empty() || self.one_in(2));
        let mut fields: Vec<Vec<Vec<u8>>> = texts.map(|(field, text)| vec![bytes(field, text.as_bytes())]).collect();
        if let Some(time) = &event.timestamp {
            let parts = [number(1, time.seconds.cast_unsigned()), number(2, i64::from(time.nanos).cast_unsigned())];
            fields.push(if self.one_in(3) {
                parts.iter().map(|part| bytes(3, part)).collect()
            } else {
                vec![bytes(3, &parts.concat())]
            });
        }
        let mut entries: Vec<Vec<u8>> =
            event.dimensions.iter().map(|(key, value)| bytes(6, &self.pair(key, value))).collect();
        self.shuffle(&mut entries);
        fields.push(entries);
        fields.push(vec![[vec![5 << 3 | 1], event.metric_value.to_le_bytes().to_vec()].concat()]);
        self.weave(fields).concat()
    }

    /// An encoded `EventColumns`. Each event must have a time.
    pub fn columns(&mut self, events: &[Event]) -> Vec<u8> {
        self.column_fields(events).concat()
    }

    /// The encoded fields of an `EventColumns`, in order.
    fn column_fields(&mut self, events: &[Event]) -> Vec<Vec<u8>> {
        let texts: [fn(&Event) -> &str; 4] =
            [|event| &event.event_type, |event| &event.metric_name, |event| &event.source, |event| &event.version];
        let mut fields = Vec::new();
        for (at, text) in texts.into_iter().enumerate() {
            let used: Vec<Vec<u8>> = events.iter().map(|event| text(event).as_bytes().to_vec()).collect();
            let unused: &[&[u8]] = if at < 2 { &[b"unused", b"m"] } else { &[b"", b"unused"] };
            let (entries, ids) = self.dictionary(used, unused, at >= 2);
            fields.push(entries.iter().map(|entry| bytes(1 + at as u32, entry)).collect());
            fields.push(self.ids(8 + at as u32, &ids));
        }
        let set = |event: &Event| -> Vec<u8> {
            // Equal sets must be equal bytes here; each entry of the dictionary is shuffled on its own below.
            let pairs: BTreeMap<&String, &String> = event.dimensions.iter().collect();
            let dimension = |(key, value): (&String, &String)| {
                bytes(1, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat())
            };
            pairs.into_iter().flat_map(dimension).collect()
        };
        let used = events.iter().map(set).collect();
        let unused = bytes(1, &[bytes(1, b"unused"), bytes(2, b"")].concat());
        let (entries, ids) = self.dictionary(used, &[&[], &unused], true);
        let shuffled = entries.iter().map(|entry| bytes(5, &self.shuffled(entry)));
        fields.push(shuffled.collect());
        fields.push(self.ids(12, &ids));
        let words = |words: Vec<[u8; 8]>| words.into_iter().map(|word| word.to_vec()).collect::<Vec<_>>();
        let times = events.iter().map(|event| time_of(event).unwrap_or_default().to_le_bytes());
        let times = words(times.collect());
        fields.push(self.array(6, 1, &times));
        let values = words(events.iter().map(|event| event.metric_value.to_le_bytes()).collect());
        fields.push(self.array(7, 1, &values));
        if self.one_in(4) {
            fields.push(vec![number(1_000, 7)]);
        }
        self.weave(fields)
    }

    /// A dictionary with each used entry up to three times, and unused ones, in any order; and the id of each event. No
    /// ids where they may be left out, no entries where those may.
    fn dictionary(&mut self, used: Vec<Vec<u8>>, unused: &[&[u8]], may_be_empty: bool) -> (Vec<Vec<u8>>, Vec<u32>) {
        let plain = self.one_in(3);
        let mut entries: Vec<Vec<u8>> = Vec::new();
        for entry in &used {
            if !entries.contains(entry) {
                let copies = if plain { 1 } else { 1 + self.below(3) };
                entries.extend(std::iter::repeat_n(entry.clone(), copies));
            }
        }
        if !plain {
            let more = self.below(unused.len() + 1);
            entries.extend(unused[..more].iter().map(|entry| entry.to_vec()));
        }
        self.shuffle(&mut entries);
        let mut places: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
        for (place, entry) in (0..).zip(&entries) {
            places.entry(entry).or_default().push(place);
        }
        let ids: Vec<u32> = used
            .iter()
            .map(|entry| {
                let places = &places[entry.as_slice()];
                places[self.below(places.len())]
            })
            .collect();
        let single = entries.len() == 1;
        let ids = if single && self.one_in(2) { Vec::new() } else { ids };
        let entries =
            if single && may_be_empty && entries[0].is_empty() && self.one_in(2) { Vec::new() } else { entries };
        (entries, ids)
    }

    fn ids(&mut self, field: u32, ids: &[u32]) -> Vec<Vec<u8>> {
        let elements: Vec<Vec<u8>> = ids.iter().map(|id| self.varint(u64::from(*id))).collect();
        self.array(field, 0, &elements)
    }

    /// A number, now and then longer than it needs to be.
    fn varint(&mut self, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, number);
        if self.one_in(16)
            && let Some(last) = out.last_mut()
        {
            *last |= 0x80;
            out.push(0);
        }
        out
    }

    /// An array: packed in one piece, in several (empty ones too), or element by element.
    fn array(&mut self, field: u32, wire_type: u32, elements: &[Vec<u8>]) -> Vec<Vec<u8>> {
        if elements.is_empty() {
            return Vec::new();
        }
        match self.below(4) {
            0 | 1 => vec![bytes(field, &elements.concat())],
            2 => elements.iter().map(|element| [key(field, wire_type), element.clone()].concat()).collect(),
            _ => {
                let middle = self.below(elements.len() + 1);
                vec![bytes(field, &elements[..middle].concat()), bytes(field, &elements[middle..].concat())]
            }
        }
    }

    fn pair(&mut self, key: &str, value: &str) -> Vec<u8> {
        let mut parts = [bytes(1, key.as_bytes()), bytes(2, value.as_bytes())];
        self.shuffle(&mut parts);
        parts.concat()
    }

    /// A dimension set with its dimensions in another order.
    fn shuffled(&mut self, set: &[u8]) -> Vec<u8> {
        let mut dimensions = Vec::new();
        let mut rest = set;
        // Our own encoding: a tag of one byte, and a length of one or two.
        while let [_, low, high, ..] = *rest {
            let (length, head) =
                if low < 0x80 { (usize::from(low), 2) } else { (usize::from(low & 0x7F) | usize::from(high) << 7, 3) };
            let (dimension, more) = rest.split_at(head + length);
            dimensions.push(dimension);
            rest = more;
        }
        self.shuffle(&mut dimensions);
        dimensions.concat()
    }

    /// Fields in any order, but the occurrences of each in theirs.
    fn weave(&mut self, fields: Vec<Vec<Vec<u8>>>) -> Vec<Vec<u8>> {
        let mut order: Vec<usize> =
            fields.iter().enumerate().flat_map(|(field, parts)| std::iter::repeat_n(field, parts.len())).collect();
        if self.one_in(2) {
            self.shuffle(&mut order);
        }
        let mut fields: Vec<_> = fields.into_iter().map(Vec::into_iter).collect();
        order.into_iter().filter_map(|field| fields[field].next()).collect()
    }
}

fn time_of(event: &Event) -> Option<i64> {
    event.timestamp.as_ref().and_then(timestamp_ns)
}

fn key(field: u32, wire_type: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, u64::from(field << 3 | wire_type));
    out
}

fn number(field: u32, number: u64) -> Vec<u8> {
    let mut out = key(field, 0);
    put_varint(&mut out, number);
    out
}

fn bytes(field: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = key(field, 2);
    put_varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}
