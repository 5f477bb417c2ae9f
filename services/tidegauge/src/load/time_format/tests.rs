use chrono::format::{Item as ChronoItem, StrftimeItems};
use chrono::{DateTime, FixedOffset, Offset as _, TimeZone as _};
use chrono_tz::Tz;
use proptest::prelude::*;
use tidegauge_core::time::{DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, parse_rfc3339};

use super::*;

fn reader(format: &str) -> TimeReader {
    TimeReader::new(format.parse().unwrap(), None, None).unwrap()
}

fn local(format: &str, zone: &str, fold: Option<Fold>) -> TimeReader {
    TimeReader::new(format.parse().unwrap(), Some(zone.parse().unwrap()), fold).unwrap()
}

fn moment(text: &str) -> Result<i64, Problem> {
    Ok(parse_rfc3339(text).unwrap())
}

/// Every format reads the same moment, and none guesses.
#[test]
fn all_formats_agree() {
    let moment = 1_772_435_289_500_000_000;
    for (format, text) in [
        ("iso", "2026-03-02T07:08:09.5Z"),
        ("iso", "2026-03-02 08:08:09.5+01:00"),
        ("unix", "1772435289.5"),
        ("unix_ms", "1772435289500"),
        ("unix_us", "1772435289500000.0"),
        ("unix_ns", "1772435289500000000"),
        ("%s.%f", "1772435289.5"),
        ("%s%.f", "1772435289.5"),
        ("%s%.f %z", "1772435289.5 +0200"),
        ("%d.%m.%Y %H:%M:%S%.f", "02.03.2026 07:08:09.5"),
        ("%d.%m.%Y %H:%M:%S.%f", "2.3.2026 7:8:9.500"),
        ("%d.%m.%Y %H:%M:%S,%f", "02.03.2026 07:08:09,5000000009"),
        ("%Y%m%d%H%M%S%f", "202603020708095"),
        ("%Y%m%d%H%M%S%3f", "20260302070809500"),
        ("%Y%m%dT%H%M%S%.f%z", "20260302T070809.5Z"),
        ("%Y-%m-%dT%H:%M:%S%.f%z", "2026-03-02T09:08:09.5+0200"),
        ("%Y-%m-%dT%H:%M:%S%.f%:z", "2026-03-02T02:08:09.5-05"),
        ("%+", "2026-03-02T07:08:09.5+00:00"),
        ("%a, %d %b %Y %T%.f %Z", "Mon, 02 Mar 2026 07:08:09.5 GMT"),
        ("%A %B %e %Y %I:%M:%S.%f %p", "monday MARCH  2 2026 07:08:09.5 AM"),
        ("%F %T.%f %Z", "2026-03-02 02:08:09.5 America/New_York"),
        ("%F %T.%f %z (%Z)", "2026-03-02 08:08:09.5 +0100 (CET)"),
        ("%y%j %H:%M:%S.%f", "26061 07:08:09.5"),
        ("%G-W%V-%u %H:%M:%S.%f", "2026-W10-1 07:08:09.5"),
        ("%Y %U %w %H:%M:%S.%f", "2026 09 1 07:08:09.5"),
        ("%Y %W %a %H:%M:%S.%f", "2026 09 Mon 07:08:09.5"),
        ("%C%y-%m-%d %H:%M:%S.%f", "2026-03-02 07:08:09.5"),
    ] {
        assert_eq!(reader(format).parse(text), Ok(moment), "{format} {text}");
    }
    assert_eq!(reader("%Y/%m/%d").parse("1970/01/02"), Ok(DAY_NS));
    assert_eq!(reader("unix").parse("-1.25"), Ok(-1_250_000_000));
    assert_eq!(reader("%s").parse("-1"), Ok(-SECOND_NS));
    for (format, text) in
        [("iso", "1772435289"), ("unix", "1e9"), ("unix", ""), ("unix", "."), ("%s", "-"), ("%s", "1.5")]
    {
        assert_eq!(reader(format).parse(text), Err(Problem::Form), "{format} {text}");
    }
}

/// Hours, twelve-hour clocks and offsets are what they say; digits after the point are a fraction.
#[test]
fn nothing_falls_back_to_midnight() {
    for (format, text, expected) in [
        ("%Y-%m-%d %H", "2026-03-02 07", "2026-03-02T07:00:00Z"),
        ("%Y%m%d%H", "2026030223", "2026-03-02T23:00:00Z"),
        ("%Y%m%d%H%z", "2026030207-0500", "2026-03-02T12:00:00Z"),
        ("%m/%d/%Y %I %p", "03/02/2026 3 PM", "2026-03-02T15:00:00Z"),
        ("%m/%d/%Y %I %p", "03/02/2026 12 am", "2026-03-02T00:00:00Z"),
        ("%m/%d/%Y %r", "03/02/2026 12:00:01\u{202f}PM", "2026-03-02T12:00:01Z"),
        ("%Y-%m-%d%z", "2026-03-02+02:00", "2026-03-01T22:00:00Z"),
        ("%d.%m.%y", "31.12.68", "2068-12-31T00:00:00Z"),
        ("%d.%m.%y", "01.01.69", "1969-01-01T00:00:00Z"),
        ("%Y-%m-%d %H:%M:%S.%f", "2026-03-02 07:08:09.9", "2026-03-02T07:08:09.9Z"),
        ("%Y-%m-%d %H:%M:%S.%f", "2026-03-02 07:08:09.10", "2026-03-02T07:08:09.1Z"),
        ("%Y-%m-%d %H:%M:%S.%f", "2026-03-02 07:08:09.500000", "2026-03-02T07:08:09.5Z"),
        ("%Y-%m-%d %H:%M:%S", "2016-12-31 23:59:60", "2017-01-01T00:00:00Z"),
        ("%Y-%m-%d %H:%M:%S %z", "2017-01-01 08:59:60 +0900", "2017-01-01T00:00:00Z"),
    ] {
        assert_eq!(reader(format).parse(text), moment(expected), "{format} {text}");
    }
}

/// A pattern that leaves a part of the time open is refused, with what is missing.
#[test]
fn incomplete_patterns_are_refused() {
    for (format, told) in [
        ("%d/%m/%Y %I:%M:%S", "%I is an hour of a clock with twelve hours"),
        ("%Y-%m-%d %I", "(%p)"),
        ("%Y-%m-%d %p", "%p goes with an hour"),
        ("%Y-%m-%d %M:%S", "there is no hour"),
        ("%Y-%m-%d %H:%S", "there are no minutes"),
        ("%Y-%m-%d %S", "there are no minutes"),
        ("%Y-%m-%d %H:%M.%f", "goes with seconds"),
        ("%Y-%m-%d%.f", "goes with seconds"),
        ("%H:%M:%S", "the date is incomplete"),
        ("%m-%d %H:%M", "the year is missing"),
        ("%Y-%m", "the day is missing"),
        ("%Y %d", "the month is missing"),
        ("%C-%m-%d", "the year is missing"),
        ("%G-%m-%d", "the year is %Y"),
        ("%Y-%V-%u", "its year %G"),
        ("%G-W%V", "a weekday"),
        ("%Y-W%W", "a weekday"),
        ("%j", "the date is incomplete"),
        ("%s %H", "%s is a whole time"),
        ("%Q", "%Q is no field"),
        ("%F %T.%N", "%f"),
        ("%Y-%m-%d %Ey", "other languages"),
        ("%Y-%m-%d%", "at its end"),
        ("%f%S%M%H %F", "before digits"),
        ("%z%Y%m%d", "before digits"),
        ("yesterday", "no time format"),
    ] {
        let refused = format.parse::<TimeFormat>().expect_err(format);
        assert!(refused.contains(told), "{format}: {refused}");
    }
}

/// What a row says wrongly is told for what it is.
#[test]
fn rows_are_refused_by_what_is_wrong() {
    use Problem::*;
    for (format, text, problem) in [
        ("%Y-%m-%dT%H:%M:%S%z", "2026-03-02T07:08:09+2400", Offset),
        ("%Y-%m-%dT%H:%M:%S%z", "2026-03-02T07:08:09+9959", Offset),
        ("%Y-%m-%dT%H:%M:%S%z", "2026-03-02T07:08:09-0160", Offset),
        ("%Y-%m-%dT%H:%M:%S%z", "2026-03-02T07:08:09+1", Form),
        ("%Y-%m-%dT%H:%M:%S%z", "2026-03-02T07:08:09", Form),
        ("%F %T %Z", "2026-03-02 07:08:09 EST", ZoneName),
        ("%F %T %Z", "2026-03-02 07:08:09 CET", ZoneName),
        ("%F %T %Z", "2026-03-02 07:08:09 Europe/Nowhere", ZoneName),
        ("%F %T %Z", "2026-03-02 07:08:09 +01", Form),
        ("%F %T", "2026-02-30 07:08:09", NoSuchTime),
        ("%F %T", "2026-03-02 24:00:00", NoSuchTime),
        ("%F %T", "2026-03-02 07:60:00", NoSuchTime),
        ("%F %T", "2026-03-02 07:08:60", LeapSecond),
        ("%F %T", "2026-03-02 07:08:61", NoSuchTime),
        ("%F %T", "2026-03-0207:08:09", Form),
        ("%F %T", "2026-03-02 07:08:09Z", Form),
        ("%F %T.%f", "2026-03-02 07:08:09", Form),
        ("%F %T.%f", "2026-03-02 07:08:09.", Form),
        ("%Y%m%d%H", "202603027", Form),
        ("%Y%m%d%H%M", "20260302708", NoSuchTime),
        ("%d%m%Y", "2032026", NoSuchTime),
        ("%d.%m.%Y", "2.3.26", Form),
        ("%y%j", "26000", NoSuchTime),
        ("%y%j", "26366", NoSuchTime),
        ("%G-W%V-%u", "2025-W53-1", NoSuchTime),
        ("%Y %W %u", "2026 53 1", NoSuchTime),
        ("%G-W%V-%u", "2026-W10-0", Form),
        ("%a %F", "Tue 2026-03-02", Contradiction),
        ("%F %j", "2026-03-02 062", Contradiction),
        ("%F %y", "2026-03-02 25", Contradiction),
        ("%F %H %p", "2026-03-02 03 PM", Contradiction),
        ("%F %H %I", "2026-03-02 15 04", Contradiction),
        ("%F %r", "2026-03-02 13:00:00 PM", NoSuchTime),
        ("%F %r", "2026-03-02 00:00:00 AM", NoSuchTime),
        ("%F %r", "2026-03-02 01:00:00 XM", Form),
        ("%F %b", "2026-03-02 März", Form),
        ("%s%.f", "-1.5", NoSuchTime),
        ("%s", "99999999999", Range),
        ("%F", "1500-01-01", Range),
        ("iso", "2026-03-02T07:08:60Z", LeapSecond),
        ("iso", "2026-03-02T07:08:61Z", Form),
    ] {
        let reader = reader(format);
        assert_eq!(reader.parse(text), Err(problem), "{format} {text}");
        assert!(!reader.explain(problem).is_empty());
    }
}

/// Local times are those of the zone; where its clock goes back or forward, nothing is guessed.
#[test]
fn local_times() {
    let berlin = "Europe/Berlin";
    let plain = "%d.%m.%Y %H:%M";
    for (format, text, expected) in [
        (plain, "02.03.2026 07:08", "2026-03-02T06:08:00Z"),
        (plain, "02.07.2026 07:08", "2026-07-02T05:08:00Z"),
        ("iso", "2026-07-02T07:08:00", "2026-07-02T05:08:00Z"),
        ("iso", "2026-07-02", "2026-07-01T22:00:00Z"),
        ("iso", "2026-07-02T07:08:00Z", "2026-07-02T07:08:00Z"),
        ("iso", "2017-01-01T00:59:60", "2017-01-01T00:00:00Z"),
    ] {
        assert_eq!(local(format, berlin, None).parse(text), moment(expected), "{format} {text}");
    }
    let (twice, never) = ("25.10.2026 02:30", "29.03.2026 02:30");
    let strict = local(plain, berlin, None);
    assert_eq!((strict.parse(twice), strict.parse(never)), (Err(Problem::Twice), Err(Problem::Never)));
    assert!(strict.explain(Problem::Twice).contains("twice in Europe/Berlin"));
    let (earlier, later) = (local(plain, berlin, Some(Fold::Earlier)), local(plain, berlin, Some(Fold::Later)));
    assert_eq!(earlier.parse(twice), moment("2026-10-25T00:30:00Z"));
    assert_eq!(later.parse(twice), moment("2026-10-25T01:30:00Z"));
    assert_eq!(earlier.parse(never), moment("2026-03-29T00:30:00Z"));
    assert_eq!(later.parse(never), moment("2026-03-29T01:30:00Z"));
    // A whole day was left out.
    let samoa = local(plain, "Pacific/Apia", Some(Fold::Later));
    assert_eq!(samoa.parse("30.12.2011 12:00"), moment("2011-12-30T22:00:00Z"));

    let new = |format: &str, zone: Option<&str>, fold| {
        TimeReader::new(format.parse().unwrap(), zone.map(|zone| zone.parse().unwrap()), fold)
    };
    for format in ["unix", "unix_ms", "%s", "%F %T%z", "%F %T %Z"] {
        assert!(new(format, Some(berlin), None).is_err_and(|e| e.contains("--time-zone")), "{format}");
    }
    for (format, zone) in [("unix", None), ("iso", None), ("%F", None), ("%F%z", None)] {
        assert!(new(format, zone, Some(Fold::Later)).is_err_and(|e| e.contains("--time-fold")), "{format}");
    }
    let named = new("%F %R %Z", None, Some(Fold::Later)).unwrap();
    assert_eq!(named.parse("2026-10-25 02:30 Europe/Berlin"), moment("2026-10-25T01:30:00Z"));
    assert!("Europe/Nowhere".parse::<Zone>().is_err() && "CEST".parse::<Zone>().is_err());
}

/// Names a day, with how fine its times of day are told: the pieces of patterns that chrono writes and we read.
const DATES: [&str; 14] = [
    "%Y-%m-%d",
    "%F",
    "%d.%m.%Y",
    "%Y%m%d",
    "%e %b %Y",
    "%B %d, %Y",
    "%a %d %h %Y",
    "%Y/%j",
    "%G-W%V-%u",
    "%G %V %A",
    "%Y %U %w",
    "%Y %W %a",
    "%C%y-%m-%d",
    "%v",
];
const TIMES: [(&str, i64); 13] = [
    ("", DAY_NS),
    (" %H", HOUR_NS),
    (" %I %p", HOUR_NS),
    ("T%H%M", MINUTE_NS),
    (" %R", MINUTE_NS),
    (" %l:%M %P", MINUTE_NS),
    (" %T", SECOND_NS),
    (" %r", SECOND_NS),
    (" %k:%M:%S", SECOND_NS),
    (" %H:%M:%S%.f", 1),
    (" %H:%M:%S%.3f", 1_000_000),
    (" %H:%M:%S.%6f", 1_000),
    (" %H:%M:%S.%f", 1),
];
const OFFSETS: [&str; 4] = ["", "%z", " %:z", "%#z"];

/// What chrono makes of a text with a whole date, time and offset: the referee of the property below is what was written.
fn written(time_ns: i64, offset: FixedOffset, pattern: &str) -> String {
    DateTime::from_timestamp_nanos(time_ns).with_timezone(&offset).format(pattern).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// A moment that chrono writes by a pattern is read as the same moment, as far as the pattern tells it.
    #[test]
    fn what_chrono_writes_is_read(
        seconds in -9_000_000_000_i64..9_200_000_000,
        nanos in prop_oneof![Just(0), Just(500_000_000), 0..SECOND_NS],
        date in 0..DATES.len(),
        time in 0..TIMES.len(),
        offset in 0..OFFSETS.len(),
        offset_minutes in -1_439..=1_439_i32,
    ) {
        let (time_text, step) = TIMES[time];
        let offset_minutes = if offset == 0 { 0 } else if offset == 3 { offset_minutes / 60 * 60 } else { offset_minutes };
        let east = FixedOffset::east_opt(offset_minutes * 60).unwrap();
        let offset_ns = i64::from(offset_minutes) * MINUTE_NS;
        let whole = seconds * SECOND_NS + nanos;
        let time_ns = whole - (whole + offset_ns).rem_euclid(step);
        let pattern = format!("{}{time_text}{}", DATES[date], OFFSETS[offset]);
        // chrono does not write %#z.
        let text = written(time_ns, east, &pattern.replace("%#z", "%z"));
        let reader = TimeReader::new(pattern.parse().unwrap(), None, None).unwrap();
        prop_assert_eq!(reader.parse(&text), Ok(time_ns), "{} {:?}", pattern, text);
    }

    /// A pattern of any fields is refused, or reads back every time that it writes: no field of it is forgotten.
    #[test]
    fn any_fields_are_complete_or_refused(
        fields in proptest::collection::vec(proptest::sample::select(FIELDS.to_vec()), 1..7),
        first in 0_i64..2_000_000_000,
        step in prop_oneof![Just(1_i64), Just(60), Just(3_600), Just(43_200), Just(86_400), Just(604_800), 1..40_000_000_i64],
    ) {
        let pattern = fields.join(" ");
        let Ok(format) = pattern.parse::<TimeFormat>() else { return Ok(()) };
        prop_assert!(!StrftimeItems::new(&pattern).any(|item| item == ChronoItem::Error));
        let reader = TimeReader::new(format, None, None).unwrap();
        let utc = FixedOffset::east_opt(0).unwrap();
        let texts = [first, first + step].map(|seconds| written(seconds * SECOND_NS, utc, &pattern));
        let read = texts.clone().map(|text| reader.parse(&text));
        // Times that are written differently are different times, and the other way round.
        prop_assert!(read.iter().all(Result::is_ok), "{} {:?} {:?}", pattern, texts, read);
        prop_assert_eq!(texts[0] == texts[1], read[0] == read[1], "{} {:?} {:?}", pattern, texts, read);
        // What stands in the text is in the time: written once more, it is the same.
        for (text, time_ns) in texts.iter().zip(read) {
            let again = written(time_ns.unwrap(), utc, &pattern);
            prop_assert_eq!(&again, text, "{}", pattern);
        }
    }

    /// A wall time of a zone is what chrono-tz makes of the moment; going back gives it, or says that it cannot.
    #[test]
    fn wall_times_go_back(
        seconds in -2_000_000_000_i64..4_000_000_000,
        zone in proptest::sample::select(vec![Tz::Europe__Berlin, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::UTC,
            Tz::Africa__Casablanca, Tz::Asia__Kathmandu, Tz::Pacific__Apia]),
    ) {
        let utc = DateTime::from_timestamp(seconds, 0).unwrap();
        let wall = utc.with_timezone(&zone);
        let text = wall.format("%Y-%m-%d %H:%M:%S").to_string();
        let at = |fold| local("%Y-%m-%d %H:%M:%S", zone.name(), fold).parse(&text);
        let (earlier, later) = (at(Some(Fold::Earlier)), at(Some(Fold::Later)));
        let expected = Ok(seconds * SECOND_NS);
        prop_assert!(earlier == expected || later == expected, "{} {}", zone.name(), text);
        let is_one = zone.from_local_datetime(&wall.naive_local()).single().map(|one| one.offset().fix());
        prop_assert_eq!(at(None), if is_one.is_some() { expected } else { Err(Problem::Twice) });
    }
}

/// Fields of the second property.
const FIELDS: [&str; 31] = [
    "%Y", "%C", "%y", "%m", "%b", "%B", "%d", "%e", "%j", "%a", "%A", "%u", "%w", "%U", "%W", "%G", "%g", "%V", "%H",
    "%k", "%I", "%l", "%p", "%P", "%M", "%S", "%z", "%F", "%T", "%D", "%s",
];
