//! Which SQL text is allowed: one read-only query within the limits, checked before anything is planned.

mod dialect;
mod shape;

use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use tidegauge_core::limits;

/// Levels that the parser may recurse: chains of unary operators nest without parentheses.
const PARSER_LEVELS: usize = 120;
/// Functions that make much out of little, and could fill the memory before any limit sees it; then those that tell about
/// files and the server.
pub const REFUSED_FUNCTIONS: [&str; 12] = [
    "repeat",
    "range",
    "generate_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "gen_series",
    "array_fill",
    "input_file_name",
    "file_row_index",
    "version",
];

/// Why a SQL text was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The text has no statement.
    #[error("the SQL text is empty")]
    Empty,
    /// A limit is passed.
    #[error("the SQL text has {actual} {what}, at most {max} are allowed")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        actual: usize,
        /// The limit.
        max: usize,
    },
    /// The text is no SQL.
    #[error("{0}")]
    Syntax(String),
    /// There is more than one statement.
    #[error("one statement is allowed, found {0}")]
    Several(usize),
    /// The statement does something else than read.
    #[error("only queries are allowed (SELECT, WITH, VALUES), found {0}")]
    NotReadOnly(String),
    /// A part of the query is not served here.
    #[error("{0}")]
    NotServed(String),
}

impl Refusal {
    /// UPPER_SNAKE reason for programs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "SQL_TOO_LARGE",
            Self::Several(_) | Self::NotReadOnly(_) => "SQL_NOT_READ_ONLY",
            Self::Empty | Self::Syntax(_) | Self::NotServed(_) => "SQL_INVALID",
        }
    }
}

/// Checks the length alone, before the text is given to a planning thread.
///
/// # Errors
/// [`Refusal::TooLarge`].
pub fn check_length(sql: &str) -> Result<(), Refusal> {
    within("bytes", sql.len(), limits::SQL_BYTES_MAX)
}

/// A text that may be planned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// A query, or a plain EXPLAIN of one.
    pub statement: Statement,
    /// Terms of the text.
    pub terms: usize,
}

/// Parses the text and checks that it is one read-only query within the limits. Runs on a planning thread.
///
/// # Errors
/// [`Refusal`].
pub fn parse(sql: &str) -> Result<Allowed, Refusal> {
    check_length(sql)?;
    let tokens = Tokenizer::new(&GenericDialect, sql).tokenize().map_err(|e| Refusal::Syntax(e.to_string()))?;
    let terms = tokens.iter().filter(|t| !matches!(t, Token::Whitespace(_))).count();
    within("terms", terms, limits::SQL_TOKENS_MAX)?;
    within("levels of nesting", depth(&tokens), limits::SQL_DEPTH_MAX)?;

    let statements = Parser::new(&GenericDialect)
        .with_recursion_limit(PARSER_LEVELS)
        .with_tokens(tokens)
        .parse_statements()
        .map_err(|e| Refusal::Syntax(syntax_message(&e.to_string())))?;
    let count = statements.len();
    let mut statements = statements.into_iter();
    let Some(mut statement) = statements.next() else { return Err(Refusal::Empty) };
    if count > 1 {
        return Err(Refusal::Several(count));
    }
    let query = explained(&statement)?.unwrap_or(&statement);
    if !matches!(query, Statement::Query(_)) {
        return Err(Refusal::NotReadOnly(first_words(sql)));
    }
    shape::check(query)?;
    dialect::rewrite(&mut statement)?;
    Ok(Allowed { statement, terms })
}

/// What a plain EXPLAIN explains: plans name columns, counts and the text's own literals, no paths.
fn explained(statement: &Statement) -> Result<Option<&Statement>, Refusal> {
    match statement {
        Statement::Explain {
            analyze: false,
            verbose: false,
            query_plan: false,
            estimate: false,
            statement,
            format: None,
            options: None,
            ..
        } => Ok(Some(statement)),
        Statement::Explain { .. } => {
            let message = "EXPLAIN is served for a query and without options such as ANALYZE or VERBOSE";
            Err(Refusal::NotServed(message.to_owned()))
        }
        _ => Ok(None),
    }
}

fn within(what: &'static str, actual: usize, max: usize) -> Result<(), Refusal> {
    if actual > max { Err(Refusal::TooLarge { what, actual, max }) } else { Ok(()) }
}

/// Deepest nesting of brackets and CASE, counted on tokens: the parser itself must not be the first to find out.
fn depth(tokens: &[Token]) -> usize {
    let (mut now, mut deepest) = (0_usize, 0_usize);
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => now += 1,
            Token::RParen | Token::RBracket | Token::RBrace => now = now.saturating_sub(1),
            Token::Word(word) if word.keyword == Keyword::CASE => now += 1,
            Token::Word(word) if word.keyword == Keyword::END => now = now.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(now);
    }
    deepest
}

fn syntax_message(text: &str) -> String {
    let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
    if text.contains("recursion limit") { "the SQL text is nested too deeply".to_owned() } else { text.to_owned() }
}

/// The words that open the text, for a message: `CREATE TABLE`.
fn first_words(sql: &str) -> String {
    let words: Vec<&str> =
        sql.split_whitespace().take(2).map(|w| w.trim_matches(|c: char| !c.is_alphanumeric())).collect();
    words.join(" ").chars().take(40).collect::<String>().to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that queries pass, whatever their form, and that everything else is refused by name.
    #[test]
    fn one_query_and_nothing_else() {
        for good in [
            "SELECT 1",
            "select 1;",
            "WITH a AS (SELECT 1 AS x) SELECT x FROM a",
            "VALUES (1), (2)",
            "SELECT 1 UNION ALL SELECT 2",
            "(SELECT 1)",
            "SELECT lpad('3', 2, '0')",
            "SELECT month FROM dashboard_metrics -- ; DROP TABLE x",
            "SELECT SUM(event_count) OVER (PARTITION BY metric_name ORDER BY window_start) FROM dashboard_metrics",
            "EXPLAIN SELECT 1",
            "SELECT metric_name, hour, COUNT(*) FROM dashboard_metrics GROUP BY ROLLUP (metric_name, hour)",
        ] {
            assert!(parse(good).is_ok(), "{good}: {:?}", parse(good));
        }
        for (bad, reason) in [
            ("", "SQL_INVALID"),
            (";", "SQL_INVALID"),
            ("SELECT 1; SELECT 2", "SQL_NOT_READ_ONLY"),
            ("CREATE TABLE x (a INT)", "SQL_NOT_READ_ONLY"),
            ("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/etc'", "SQL_NOT_READ_ONLY"),
            ("INSERT INTO dashboard_metrics VALUES (1)", "SQL_NOT_READ_ONLY"),
            ("WITH a AS (INSERT INTO x VALUES (1) RETURNING *) SELECT * FROM a", "SQL_NOT_READ_ONLY"),
            ("DELETE FROM dashboard_metrics", "SQL_NOT_READ_ONLY"),
            ("COPY dashboard_metrics TO '/tmp/x'", "SQL_NOT_READ_ONLY"),
            ("SET datafusion.execution.batch_size = 1", "SQL_NOT_READ_ONLY"),
            ("SHOW TABLES", "SQL_NOT_READ_ONLY"),
            ("EXPLAIN ANALYZE SELECT 1", "SQL_INVALID"),
            ("EXPLAIN VERBOSE SELECT 1", "SQL_INVALID"),
            ("EXPLAIN FORMAT JSON SELECT 1", "SQL_INVALID"),
            ("EXPLAIN SELECT range(1, 1000000000000)", "SQL_INVALID"),
            ("EXPLAIN EXPLAIN SELECT 1", "SQL_INVALID"),
            ("EXPLAIN INSERT INTO dashboard_metrics VALUES (1)", "SQL_NOT_READ_ONLY"),
            ("SELECT array_agg(metric_name) OVER () FROM dashboard_metrics", "SQL_INVALID"),
            ("SELECT 'a' SIMILAR TO 'b'", "SQL_INVALID"),
            ("SELECT 1 GROUP BY CUBE (1, 2, 3, 4, 5, 6, 7, 8, 9)", "SQL_INVALID"),
            ("SELECT 1 GROUP BY CUBE (1, 2, 3, 4, 5), CUBE (6, 7, 8, 9)", "SQL_INVALID"),
            ("SELECT 1 UNION SELECT 2 INTO x", "SQL_NOT_READ_ONLY"),
            ("SELECT input_file_name() FROM dashboard_metrics", "SQL_INVALID"),
            ("SELECT version()", "SQL_INVALID"),
            ("SELECT * INTO x FROM dashboard_metrics", "SQL_NOT_READ_ONLY"),
            ("SELECT * FROM dashboard_metrics FOR UPDATE", "SQL_NOT_READ_ONLY"),
            ("SELECT * FROM read_parquet('/etc/passwd')", "SQL_INVALID"),
            ("SELECT * FROM generate_series(1, 1000000000000)", "SQL_INVALID"),
            ("SELECT range(1, 1000000000000)", "SQL_INVALID"),
            ("SELECT \"repeat\"('x', 1000000000)", "SQL_INVALID"),
            ("SELECT lpad('x', 1000000000)", "SQL_INVALID"),
            ("WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 1 FROM a) SELECT * FROM a", "SQL_INVALID"),
            ("SELEC 1", "SQL_INVALID"),
        ] {
            let refusal = parse(bad).expect_err(bad);
            assert!(refusal.reason() == reason || bad.starts_with("SELEC 1"), "{bad}: {refusal:?}");
        }
    }

    /// Proves that length, terms and nesting are limited before the parser sees them.
    #[test]
    fn texts_are_limited_before_they_are_parsed() {
        let long = format!("SELECT '{}'", "x".repeat(limits::SQL_BYTES_MAX));
        assert!(matches!(parse(&long), Err(Refusal::TooLarge { what: "bytes", .. })));
        let many = format!("SELECT 1 WHERE {}", vec!["1=1"; 3_000].join(" OR "));
        assert!(matches!(parse(&many), Err(Refusal::TooLarge { what: "terms", .. })));
        let deep = format!("SELECT {}1{}", "(".repeat(51), ")".repeat(51));
        assert!(matches!(parse(&deep), Err(Refusal::TooLarge { what: "levels of nesting", .. })));
        let cases = format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(51), " END".repeat(51));
        assert!(matches!(parse(&cases), Err(Refusal::TooLarge { what: "levels of nesting", .. })));
    }
}
