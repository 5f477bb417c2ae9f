//! Which SQL text is allowed: one read-only query within the limits, checked before anything is planned.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectName, Query, SetExpr, Statement, TableFactor, Value,
    ValueWithSpan, Visit as _, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use tidegauge_core::limits;

/// Levels that the parser may recurse: chains of unary operators nest without parentheses.
const PARSER_LEVELS: usize = 120;
/// Longest text that `lpad` and `rpad` may make.
const PAD_MAX: u64 = 1_024;

/// Bytes of a text literal: it is repeated for every row of a batch.
const LITERAL_BYTES_MAX: usize = 16 << 10;

/// Functions that make much out of little: they could fill the memory before any limit sees it.
pub const REFUSED_FUNCTIONS: [&str; 9] = [
    "repeat",
    "range",
    "generate_series",
    "array_repeat",
    "list_repeat",
    "array_resize",
    "list_resize",
    "gen_series",
    "array_fill",
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

/// Parses the text and checks that it is one read-only query within the limits. Runs on a planning thread.
///
/// # Errors
/// [`Refusal`].
pub fn parse(sql: &str) -> Result<Statement, Refusal> {
    check_length(sql)?;
    let tokens = Tokenizer::new(&GenericDialect, sql).tokenize().map_err(|e| Refusal::Syntax(e.to_string()))?;
    within("terms", tokens.iter().filter(|t| !matches!(t, Token::Whitespace(_))).count(), limits::SQL_TOKENS_MAX)?;
    within("levels of nesting", depth(&tokens), limits::SQL_DEPTH_MAX)?;

    let statements = Parser::new(&GenericDialect)
        .with_recursion_limit(PARSER_LEVELS)
        .with_tokens(tokens)
        .parse_statements()
        .map_err(|e| Refusal::Syntax(syntax_message(&e.to_string())))?;
    let count = statements.len();
    let mut statements = statements.into_iter();
    let Some(statement) = statements.next() else { return Err(Refusal::Empty) };
    if count > 1 {
        return Err(Refusal::Several(count));
    }
    if !matches!(statement, Statement::Query(_)) {
        return Err(Refusal::NotReadOnly(first_words(sql)));
    }
    match statement.visit(&mut Shape { statements: 0 }) {
        ControlFlow::Break(refusal) => Err(refusal),
        ControlFlow::Continue(()) => Ok(statement),
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

/// Walks the syntax tree and stops at what is not served.
struct Shape {
    statements: usize,
}

impl Visitor for Shape {
    type Break = Refusal;

    fn pre_visit_statement(&mut self, _: &Statement) -> ControlFlow<Refusal> {
        self.statements += 1;
        // The text itself is one; a second one stands inside (WITH … AS (INSERT …)).
        if self.statements > 1 {
            return ControlFlow::Break(Refusal::NotReadOnly("a statement inside the query".to_owned()));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Refusal> {
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return ControlFlow::Break(Refusal::NotServed("WITH RECURSIVE is not allowed".to_owned()));
        }
        if !query.locks.is_empty() {
            return ControlFlow::Break(Refusal::NotReadOnly("FOR UPDATE or FOR SHARE".to_owned()));
        }
        match query.body.as_ref() {
            SetExpr::Select(select) if select.into.is_some() => {
                ControlFlow::Break(Refusal::NotReadOnly("SELECT INTO".to_owned()))
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                ControlFlow::Break(Refusal::NotReadOnly("a statement that writes".to_owned()))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Refusal> {
        let function = match table {
            TableFactor::Table { name, args: Some(_), .. } => Some(name.to_string()),
            TableFactor::Function { name, .. } => Some(name.to_string()),
            TableFactor::TableFunction { expr, .. } => Some(expr.to_string().chars().take(60).collect()),
            _ => None,
        };
        match function {
            Some(name) => ControlFlow::Break(Refusal::NotServed(format!("table function {name} is not allowed"))),
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Refusal> {
        let actual = match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.len(),
            Value::EscapedStringLiteral(text) | Value::NationalStringLiteral(text) => text.len(),
            _ => 0,
        };
        match within("bytes in one literal", actual, LITERAL_BYTES_MAX) {
            Err(refusal) => ControlFlow::Break(refusal),
            Ok(()) => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Refusal> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = plain_name(&function.name);
        if REFUSED_FUNCTIONS.contains(&name.as_str()) {
            return ControlFlow::Break(Refusal::NotServed(format!("function {name} is not allowed")));
        }
        if matches!(name.as_str(), "lpad" | "rpad") && !pads_to_a_small_number(&function.args) {
            let message = format!("{name} needs a literal length of at most {PAD_MAX}");
            return ControlFlow::Break(Refusal::NotServed(message));
        }
        ControlFlow::Continue(())
    }
}

fn plain_name(name: &ObjectName) -> String {
    name.0.last().map(|part| part.to_string().trim_matches(['"', '`']).to_lowercase()).unwrap_or_default()
}

fn pads_to_a_small_number(arguments: &FunctionArguments) -> bool {
    let FunctionArguments::List(list) = arguments else { return false };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))) = list.args.get(1) else { return false };
    match &value.value {
        Value::Number(text, _) => text.parse::<u64>().is_ok_and(|n| n <= PAD_MAX),
        _ => false,
    }
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
            ("EXPLAIN ANALYZE SELECT 1", "SQL_NOT_READ_ONLY"),
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
