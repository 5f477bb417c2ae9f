//! Batches of every type, written as CSV, as JSON and into a table, and read back by plain readers.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::text_table::{Align, TextTable, printable};

/// What a row is made from.
#[derive(Clone, Debug)]
struct Seed {
    number: i64,
    float: f64,
    text: String,
}

/// What is to be seen of a row.
enum Expected {
    /// This text, in JSON in quotes or not.
    Text(String, Shape),
    /// A text that passes.
    Passes(Box<dyn Fn(&str) -> bool>, Shape),
}

type Rows = Vec<Option<Seed>>;
type Expect = Box<dyn Fn(&Seed) -> Expected>;

fn of<A: Array + 'static>(array: A, expect: impl Fn(&Seed) -> Expected + 'static) -> (ArrayRef, Expect) {
    (Arc::new(array), Box::new(expect))
}

fn bare(text: impl ToString) -> Expected {
    Expected::Text(text.to_string(), Shape::Bare)
}

fn quoted(text: impl ToString) -> Expected {
    Expected::Text(text.to_string(), Shape::Quoted)
}

fn word(value: f64) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("NaN"),
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        _ => None,
    }
}

fn float_of(value: f64) -> Expected {
    match word(value) {
        Some(word) => quoted(word),
        None => Expected::Passes(
            Box::new(move |text| text.parse::<f64>().is_ok_and(|read| read.to_bits() == value.to_bits())),
            Shape::Bare,
        ),
    }
}

/// As text, because the JSON library rounds some numbers to the wrong side.
fn float_json(value: f64) -> String {
    word(value).map_or_else(|| Float(value).to_string(), |word| format!("\"{word}\""))
}

/// As chrono writes it; where its calendar ends, any text that ends with the zone.
fn time_of(seconds: i64, ns: u32) -> Expected {
    match chrono::DateTime::from_timestamp(seconds, ns) {
        Some(time) => quoted(time.format("%Y-%m-%dT%H:%M:%S%.fZ")),
        None => Expected::Passes(Box::new(|text| text.ends_with('Z') && text.contains('T')), Shape::Quoted),
    }
}

fn decimal_of(value: i128, scale: usize) -> Expected {
    let reads_back = move |text: &str| {
        let (_, decimals) = text.split_once('.').unwrap();
        decimals.len() == scale && text.replace('.', "").parse::<i128>() == Ok(value)
    };
    Expected::Passes(Box::new(reads_back), Shape::Bare)
}

fn columns(rows: &Rows) -> Vec<(ArrayRef, Expect)> {
    macro_rules! of_numbers {
        ($array:ty, $of:expr, $expect:expr) => {
            of(rows.iter().map(|row| row.as_ref().map($of)).collect::<$array>(), move |seed: &Seed| $expect($of(seed)))
        };
    }
    let texts = || rows.iter().map(|row| row.as_ref().map(|seed| seed.text.as_str()));
    let bytes = || rows.iter().map(|row| row.as_ref().map(|seed| seed.text.as_bytes()));
    let hex = |seed: &Seed| quoted(seed.text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>());
    let text = |seed: &Seed| quoted(&seed.text);
    let three = |seed: &Seed| seed.number.to_le_bytes()[..3].to_vec();
    let per_second = |per_second: i64| {
        move |value: i64| {
            let ns = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
            time_of(value.div_euclid(per_second), ns as u32)
        }
    };
    let of_day = |seed: &Seed| seed.number.rem_euclid(86_400_000_000_000);
    let clock = |ns: i64| {
        let time = chrono::NaiveTime::from_num_seconds_from_midnight_opt(
            (ns / 1_000_000_000) as u32,
            (ns % 1_000_000_000) as u32,
        );
        quoted(time.unwrap().format("%H:%M:%S%.f"))
    };
    let duration = |value: i64| {
        let reads_back = move |text: &str| {
            let digits = text.replace("PT", "").replace('S', "");
            let (whole, rest) = digits.split_once('.').unwrap_or((&digits, ""));
            format!("{whole}{rest:0<9}").parse::<i128>() == Ok(i128::from(value))
        };
        Expected::Passes(Box::new(reads_back), Shape::Quoted)
    };
    let any = |_: &Seed| Expected::Passes(Box::new(|text| !text.is_empty()), Shape::Quoted);
    let dates = |days: i64| match chrono::NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(days)) {
        Some(date) => quoted(date.format("%Y-%m-%d")),
        None => Expected::Passes(Box::new(|text| text.contains('-')), Shape::Quoted),
    };

    let mut columns = vec![
        of(NullArray::new(rows.len()), |_| bare("")),
        of(rows.iter().map(|row| row.as_ref().map(|seed| seed.number > 0)).collect::<BooleanArray>(), |seed| {
            bare(seed.number > 0)
        }),
        of_numbers!(Int8Array, |seed: &Seed| seed.number as i8, bare),
        of_numbers!(Int16Array, |seed: &Seed| seed.number as i16, bare),
        of_numbers!(Int32Array, |seed: &Seed| seed.number as i32, bare),
        of_numbers!(Int64Array, |seed: &Seed| seed.number, bare),
        of_numbers!(UInt8Array, |seed: &Seed| seed.number as u8, bare),
        of_numbers!(UInt16Array, |seed: &Seed| seed.number as u16, bare),
        of_numbers!(UInt32Array, |seed: &Seed| seed.number as u32, bare),
        of_numbers!(UInt64Array, |seed: &Seed| seed.number as u64, bare),
        of_numbers!(Float64Array, |seed: &Seed| seed.float, float_of),
        of_numbers!(Float32Array, |seed: &Seed| seed.float as f32, |value: f32| match word(f64::from(value)) {
            Some(word) => quoted(word),
            None => Expected::Passes(
                Box::new(move |text| text.parse::<f32>().is_ok_and(|read| read.to_bits() == value.to_bits())),
                Shape::Bare
            ),
        }),
        of(texts().collect::<StringArray>(), text),
        of(texts().collect::<LargeStringArray>(), text),
        of(texts().collect::<StringViewArray>(), text),
        of(bytes().collect::<BinaryArray>(), hex),
        of(bytes().collect::<LargeBinaryArray>(), hex),
        of(bytes().collect::<BinaryViewArray>(), hex),
        of(
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.iter().map(|row| row.as_ref().map(three)), 3)
                .unwrap(),
            move |seed| quoted(three(seed).iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        ),
        of_numbers!(TimestampSecondArray, |seed: &Seed| seed.number, per_second(1)),
        of_numbers!(TimestampMillisecondArray, |seed: &Seed| seed.number, per_second(1_000)),
        of_numbers!(TimestampMicrosecondArray, |seed: &Seed| seed.number, per_second(1_000_000)),
        of_numbers!(TimestampNanosecondArray, |seed: &Seed| seed.number, per_second(1_000_000_000)),
        of_numbers!(Date32Array, |seed: &Seed| seed.number as i32, |days: i32| dates(i64::from(days))),
        of_numbers!(Date64Array, |seed: &Seed| seed.number / 86_400_000 * 86_400_000, |ms: i64| dates(ms / 86_400_000)),
        of_numbers!(Time32SecondArray, |seed: &Seed| (of_day(seed) / 1_000_000_000) as i32, |second: i32| clock(
            i64::from(second) * 1_000_000_000
        )),
        of_numbers!(Time32MillisecondArray, |seed: &Seed| (of_day(seed) / 1_000_000) as i32, |ms: i32| clock(
            i64::from(ms) * 1_000_000
        )),
        of_numbers!(Time64MicrosecondArray, |seed: &Seed| of_day(seed) / 1_000, |us: i64| clock(us * 1_000)),
        of_numbers!(Time64NanosecondArray, of_day, clock),
        of_numbers!(DurationNanosecondArray, |seed: &Seed| seed.number, duration),
        of_numbers!(DurationSecondArray, |seed: &Seed| seed.number, |seconds: i64| quoted(format!(
            "{}PT{}S",
            if seconds < 0 { "-" } else { "" },
            seconds.unsigned_abs()
        ))),
        of_numbers!(IntervalYearMonthArray, |seed: &Seed| seed.number as i32, |months: i32| quoted(format!(
            "{months} mons"
        ))),
        of(
            rows.iter()
                .map(|row| {
                    row.as_ref()
                        .map(|seed| IntervalDayTimeType::make_value(seed.number as i32, (seed.number >> 32) as i32))
                })
                .collect::<IntervalDayTimeArray>(),
            any,
        ),
        of(
            rows.iter()
                .map(|row| {
                    row.as_ref().map(|seed| {
                        IntervalMonthDayNanoType::make_value(
                            seed.number as i32,
                            (seed.number >> 32) as i32,
                            seed.number,
                        )
                    })
                })
                .collect::<IntervalMonthDayNanoArray>(),
            any,
        ),
        of(
            rows.iter()
                .map(|row| row.as_ref().map(|seed| i128::from(seed.number)))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(38, 5)
                .unwrap(),
            |seed| decimal_of(i128::from(seed.number), 5),
        ),
        of(
            rows.iter()
                .map(|row| row.as_ref().map(|seed| arrow::datatypes::i256::from_i128(i128::from(seed.number))))
                .collect::<Decimal256Array>()
                .with_precision_and_scale(76, 18)
                .unwrap(),
            |seed| decimal_of(i128::from(seed.number), 18),
        ),
        of(texts().collect::<DictionaryArray<Int32Type>>(), text),
    ];
    columns.extend(nested(rows));
    columns
}

/// Lists, objects and maps of each row's own text and number; a row of another row's length, so that offsets matter.
fn nested(rows: &Rows) -> Vec<(ArrayRef, Expect)> {
    let seeds: Vec<Seed> =
        rows.iter().map(|row| row.clone().unwrap_or(Seed { number: 0, float: 0.0, text: String::new() })).collect();
    let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    let count = |seed: &Seed| seed.number.rem_euclid(3) as usize;
    let repeated = |make: &dyn Fn(&Seed) -> Option<f64>| -> Float64Array {
        seeds.iter().flat_map(|seed| vec![make(seed); count(seed)]).collect()
    };
    let offsets = OffsetBuffer::<i32>::from_lengths(seeds.iter().map(count));
    let large = OffsetBuffer::<i64>::from_lengths(seeds.iter().map(count));
    let field = |name: &str, kind: DataType| Arc::new(Field::new(name, kind, true));
    let floats: ArrayRef = Arc::new(repeated(&|seed| Some(seed.float)));
    let holes: ArrayRef = Arc::new(repeated(&|_| None));
    let texts: ArrayRef = Arc::new(seeds.iter().map(|seed| Some(seed.text.as_str())).collect::<StringArray>());
    let numbers: ArrayRef = Arc::new(seeds.iter().map(|seed| Some(seed.float)).collect::<Float64Array>());
    let item = field("item", DataType::Float64);
    let pair = || {
        let fields = Fields::from(vec![field("a", DataType::Utf8), field("a", DataType::Float64)]);
        (fields, vec![Arc::clone(&texts), Arc::clone(&numbers)])
    };
    let (pair_fields, pair_columns) = pair();
    let starts: ScalarBuffer<i32> = offsets[..seeds.len()].to_vec().into();
    let sizes: ScalarBuffer<i32> = seeds.iter().map(|seed| count(seed) as i32).collect::<Vec<_>>().into();
    let twice: Float64Array = seeds.iter().flat_map(|seed| [Some(seed.float), None]).collect();
    let keys = seeds.iter().map(|seed| Some(seed.text.as_str())).collect::<StringArray>();
    let one = OffsetBuffer::<i32>::from_lengths(seeds.iter().map(|_| 1));
    let map = |keys: ArrayRef| {
        let fields = Fields::from(vec![
            Arc::new(Field::new("key", keys.data_type().clone(), false)),
            field("value", DataType::Float64),
        ]);
        let entries = StructArray::new(fields.clone(), vec![keys, Arc::clone(&numbers)], None);
        let entry = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        MapArray::new(entry, one.clone(), entries, Some(nulls.clone()), false)
    };
    let (text_map, number_map) = (map(Arc::new(keys)), map(Arc::clone(&numbers)));
    let ends: Int32Array = (1..=seeds.len() as i32).collect();
    let runs: StringArray = rows.iter().map(|row| row.as_ref().map(|seed| seed.text.as_str())).collect();
    let list = move |seed: &Seed| bare(format!("[{}]", vec![float_json(seed.float); count(seed)].join(",")));
    // One text, and behind it the number.
    let object = |name: String, text: String, ends: String| {
        let is_it =
            move |json: &str| json.ends_with(&ends) && serde_json::from_str::<Value>(json).unwrap()[&name] == text;
        Expected::Passes(Box::new(is_it), Shape::Bare)
    };
    vec![
        of(ListArray::new(Arc::clone(&item), offsets.clone(), Arc::clone(&floats), Some(nulls.clone())), list),
        of(LargeListArray::new(Arc::clone(&item), large, Arc::clone(&floats), Some(nulls.clone())), list),
        of(ListViewArray::new(Arc::clone(&item), starts, sizes, floats, Some(nulls.clone())), list),
        of(ListArray::new(Arc::clone(&item), offsets, holes, Some(nulls.clone())), move |seed| {
            bare(format!("[{}]", vec!["null"; count(seed)].join(",")))
        }),
        of(FixedSizeListArray::new(item, 2, Arc::new(twice), Some(nulls.clone())), |seed| {
            bare(format!("[{},null]", float_json(seed.float)))
        }),
        of(StructArray::new(pair_fields, pair_columns, Some(nulls)), move |seed| {
            object("a".to_owned(), seed.text.clone(), format!(",\"a_2\":{}}}", float_json(seed.float)))
        }),
        of(text_map, |seed| {
            let (key, ends) = (seed.text.clone(), format!("\":{}}}", float_json(seed.float)));
            let is_it = move |text: &str| {
                let read: Value = serde_json::from_str(text).unwrap();
                text.ends_with(&ends) && read.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(&key))
            };
            Expected::Passes(Box::new(is_it), Shape::Bare)
        }),
        of(number_map, |seed| {
            let number = float_json(seed.float);
            bare(format!("[{{\"key\":{number},\"value\":{number}}}]"))
        }),
        of(RunArray::<Int32Type>::try_new(&ends, &runs).unwrap(), |seed| quoted(&seed.text)),
    ]
}

/// One field of CSV from the front of the text: `None` for one without quotes and text.
fn field(text: &mut &str) -> Option<String> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find([',', '\n']).unwrap_or(text.len());
        let (field, rest) = text.split_at(end);
        *text = rest;
        return (!field.is_empty()).then(|| field.to_owned());
    };
    let mut field = String::new();
    loop {
        let end = rest.find('"').expect("a closing quote");
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => {
                *text = rest;
                return Some(field);
            }
        }
    }
}

fn seed() -> impl Strategy<Value = Seed> {
    let number = prop_oneof![
        any::<i64>(),
        -200_000..200_000_i64,
        1_700_000_000_000_000_000..1_800_000_000_000_000_000_i64,
        Just(i64::MIN),
        Just(i64::MAX),
        Just(0)
    ];
    let float = prop_oneof![
        any::<f64>(),
        any::<i32>().prop_map(|n| f64::from(n) / 100.0),
        Just(-0.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(5e-324),
        Just(f64::MAX),
    ];
    let text = prop_oneof![
        any::<String>(),
        "[a-z,\"\r\n\u{0}\u{1b}\u{7f}\u{9b} é]{0,8}",
        Just(String::new()),
        Just("Infinity".to_owned()),
        Just("null".to_owned()),
    ];
    (number, float, text).prop_map(|(number, float, text)| Seed { number, float, text })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_type_is_the_same_in_every_form(
        rows in proptest::collection::vec(proptest::option::weighted(0.8, seed()), 1..12),
        skip in any::<prop::sample::Index>(),
    ) {
        // A part of a batch is a batch.
        let skip = skip.index(rows.len());
        for (array, expect) in columns(&rows) {
            let array = array.slice(skip, rows.len() - skip);
            let kind = array.data_type().clone();
            let column = Column::new(array.as_ref()).unwrap();
            for (row, seed) in rows[skip..].iter().enumerate() {
                let (mut text, mut csv, mut written) = (String::new(), String::new(), String::new());
                let shape = column.text(row, &mut text);
                column.csv(row, &mut csv);
                column.json(row, &mut written);
                let read: Value = serde_json::from_str(&written).unwrap_or_else(|e| panic!("{kind} {written}: {e}"));
                let mut rest = csv.as_str();
                let from_csv = field(&mut rest);
                prop_assert_eq!(rest, "", "{} {}", kind, csv);
                prop_assert!(!written.contains(char::is_control), "{} {:?}", kind, written);

                // The same in all forms, and in the array.
                let seed = if kind == DataType::Null { &None } else { seed };
                let Some(seed) = seed else {
                    prop_assert_eq!((shape, text.as_str(), from_csv, &read), (Shape::Null, "", None, &Value::Null), "{}", kind);
                    continue;
                };
                prop_assert_eq!(from_csv.as_ref(), Some(&text), "{}", kind);
                match shape {
                    Shape::Null => prop_assert!(false, "{} is null", kind),
                    Shape::Bare => prop_assert_eq!(&written, &text, "{}", kind),
                    Shape::Quoted => prop_assert_eq!(read.as_str(), Some(text.as_str()), "{}", kind),
                }
                match expect(seed) {
                    Expected::Text(expected, as_json) => prop_assert_eq!((&text, shape), (&expected, as_json), "{}", kind),
                    Expected::Passes(passes, as_json) => {
                        prop_assert!(passes(&text) && shape == as_json, "{} {} of {:?}", kind, text, seed);
                    }
                }

                let mut table = TextTable::new(&[("", Align::Left)]);
                table.row_of_lines([text.clone()]);
                let shown: Vec<String> = table.lines()[1..].iter().map(|line| line.trim_end().to_owned()).collect();
                let lines = text.trim_end_matches(['\n', '\r']).lines().map(|line| printable(line).trim_end().to_owned());
                let lines: Vec<String> = lines.collect();
                prop_assert_eq!(shown, if lines.is_empty() { vec![String::new()] } else { lines }, "{}", kind);
            }
        }
    }
}
