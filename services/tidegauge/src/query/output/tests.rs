use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, Float64Array, Int64Array, ListArray, StringArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};

use super::*;

fn lines(form: &TextRows, batch: &RecordBatch) -> Vec<String> {
    let mut lines = vec![form.header(&batch.schema())];
    form.rows(batch, |line| {
        lines.push(line.to_owned());
        Ok(())
    })
    .unwrap();
    lines.iter().map(|line| line.strip_suffix('\n').unwrap_or(line).to_owned()).collect()
}

fn in_all_forms(batch: &RecordBatch) -> [Vec<String>; 3] {
    let mut text = table(&batch.schema());
    assert!(fill(&mut text, batch).unwrap());
    let csv = lines(&TextRows::Csv { shown: false }, batch);
    let json = lines(&TextRows::json(&batch.schema()), batch);
    [text.lines(), csv, json[1..].to_vec()]
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    let (fields, columns): (Vec<_>, Vec<_>) =
        columns.into_iter().map(|(name, column)| (Field::new(name, column.data_type().clone(), true), column)).unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Every form has the same values. No number is rounded, none is lost, and no value is taken for no value.
#[test]
fn forms_agree() {
    let batch = batch([
        ("metric", Arc::new(StringArray::from(vec![Some("cpu"), Some(""), None, Some("a,\"b\"\nc")]))),
        ("value", Arc::new(Float64Array::from(vec![Some(1.0 / 3.0), Some(f64::INFINITY), Some(f64::NAN), Some(-0.0)]))),
        ("count", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(9_007_199_254_740_993), None, Some(0)]))),
        ("time", Arc::new(TimestampMillisecondArray::from(vec![Some(1_772_435_289_125), Some(0), None, Some(-1)]))),
    ]);
    let [table, csv, json] = in_all_forms(&batch);
    let expected = [
        "metric               value                 count  time",
        "cpu     0.3333333333333333  -9223372036854775808  2026-03-02T07:08:09.125Z",
        "                  Infinity      9007199254740993  1970-01-01T00:00:00Z",
        "                       NaN",
        "a,\"b\"                 -0.0                     0  1969-12-31T23:59:59.999Z",
        "c",
    ];
    assert_eq!(table, expected);
    let expected = [
        "metric,value,count,time",
        "cpu,0.3333333333333333,-9223372036854775808,2026-03-02T07:08:09.125Z",
        "\"\",Infinity,9007199254740993,1970-01-01T00:00:00Z",
        ",NaN,,",
        "\"a,\"\"b\"\"\nc\",-0.0,0,1969-12-31T23:59:59.999Z",
    ];
    assert_eq!(csv, expected);
    let expected = [
        r#"{"metric":"cpu","value":0.3333333333333333,"count":-9223372036854775808,"time":"2026-03-02T07:08:09.125Z"}"#,
        r#"{"metric":"","value":"Infinity","count":9007199254740993,"time":"1970-01-01T00:00:00Z"}"#,
        r#"{"metric":null,"value":"NaN","count":null,"time":null}"#,
        r#"{"metric":"a,\"b\"\nc","value":-0.0,"count":0,"time":"1969-12-31T23:59:59.999Z"}"#,
    ];
    assert_eq!(json, expected);
}

/// Programs get every time with its zone, also within a list; a fraction only where there is one.
#[test]
fn times_have_their_zone() {
    let (second, millisecond) = (1_772_435_289, 1_772_435_289_125);
    let lasts = TimestampNanosecondArray::from(vec![second * 1_000_000_000 + 1]);
    let item = Arc::new(Field::new("item", lasts.data_type().clone(), true));
    let zoned = |zone: &str| Arc::new(TimestampSecondArray::from(vec![second]).with_timezone(zone));
    let batch = batch([
        ("start", Arc::new(TimestampMillisecondArray::from(vec![millisecond]))),
        ("zero", zoned("+00:00")),
        ("india", zoned("+05:30")),
        ("berlin", zoned("Europe/Berlin")),
        ("unknown", zoned("Mars/Olympus")),
        ("beyond", Arc::new(TimestampSecondArray::from(vec![i64::MAX]).with_timezone("+05:30"))),
        ("lasts", Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::new(lasts), None))),
        ("none", Arc::new(TimestampSecondArray::from(vec![None]))),
    ]);
    let [_, csv, json] = in_all_forms(&batch);
    let expected = r#"{"start":"2026-03-02T07:08:09.125Z","zero":"2026-03-02T07:08:09Z","india":"2026-03-02T12:38:09+05:30","berlin":"2026-03-02T08:08:09+01:00","unknown":"2026-03-02T07:08:09Z","beyond":"+292277026596-12-04T15:30:07Z","lasts":["2026-03-02T07:08:09.000000001Z"],"none":null}"#;
    assert_eq!(json, [expected]);
    let expected = "2026-03-02T07:08:09.125Z,2026-03-02T07:08:09Z,2026-03-02T12:38:09+05:30,2026-03-02T08:08:09+01:00,2026-03-02T07:08:09Z,+292277026596-12-04T15:30:07Z,\"[\"\"2026-03-02T07:08:09.000000001Z\"\"]\",";
    assert_eq!(csv[1], expected);
}

/// A reader of objects keeps the last of two members of one name: each column gets one of its own, and that is told.
#[test]
fn columns_of_one_name_are_all_there() {
    let one = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let batch = batch([("n", one(1)), ("n", one(2)), ("n_2", one(3)), ("n", one(4)), ("", one(5)), ("", one(6))]);
    let [table, csv, json] = in_all_forms(&batch);
    assert_eq!(json, [r#"{"n":1,"n_3":2,"n_2":3,"n_4":4,"":5,"_2":6}"#]);
    assert_eq!(csv, ["n,n,n_2,n,\"\",\"\"", "1,2,3,4,5,6"]);
    assert_eq!(table[1], "1  2    3  4  5  6");
    let told = TextRows::json(&batch.schema()).told(&batch.schema());
    assert_eq!(told.len(), 3);
    assert!(told[0].contains("\"n\" more than once; JSON calls a later one \"n_3\""), "{told:?}");
}

/// What data holds does not reach a terminal as it is, in no form and no heading; a file gets every byte.
#[test]
fn data_does_not_steer_a_terminal() {
    let hostile = "\u{1b}[2J\u{9b}31m\u{7}";
    let batch = batch([(hostile, Arc::new(StringArray::from(vec![hostile])))]);
    let [table, csv, json] = in_all_forms(&batch);
    let shown = lines(&TextRows::Csv { shown: true }, &batch);
    for text in [&table, &json, &shown].into_iter().flatten() {
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    assert_eq!(csv, [hostile, hostile]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json[0]).unwrap()[hostile], hostile);
}

/// A result without rows has its names.
#[test]
fn no_rows_have_a_header() {
    let batch = batch([
        ("a", Arc::new(Int64Array::from(Vec::<i64>::new()))),
        ("b,c", Arc::new(Int64Array::from(Vec::<i64>::new()))),
    ]);
    let [table, csv, json] = in_all_forms(&batch);
    assert_eq!((table, csv, json), (vec!["a  b,c".to_owned()], vec!["a,\"b,c\"".to_owned()], Vec::new()));
    assert_eq!(batch.schema().field(0).data_type(), &DataType::Int64);
}
