//! What may stand in a query.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, ObjectName, Query, Select, SetExpr, Statement,
    TableFactor, Value, ValueWithSpan, Visit as _, Visitor,
};

use super::{REFUSED_FUNCTIONS, Refusal, within};

/// Longest text that `lpad` and `rpad` may make.
const PAD_MAX: u64 = 1_024;

/// Bytes of a text literal: it is repeated for every row of a batch.
const LITERAL_BYTES_MAX: usize = 1 << 10;

/// What may be computed over a window. Other aggregates make a new list or sort anew for every row.
const WINDOW_FUNCTIONS: [&str; 22] = [
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
    "count",
    "sum",
    "avg",
    "mean",
    "min",
    "max",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var_pop",
    "var_samp",
];

/// Grouping sets of one GROUP BY: each is a copy of the rows.
const GROUPING_SETS_MAX: usize = 256;

/// Checks a query.
pub(super) fn check(query: &Statement) -> Result<(), Refusal> {
    match query.visit(&mut Shape { statements: 0 }) {
        ControlFlow::Break(refusal) => Err(refusal),
        ControlFlow::Continue(()) => Ok(()),
    }
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

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Refusal> {
        if select.into.is_some() {
            return ControlFlow::Break(Refusal::NotReadOnly("SELECT INTO".to_owned()));
        }
        match grouping_sets(&select.group_by) {
            Some(sets) if sets <= GROUPING_SETS_MAX => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(Refusal::NotServed(format!(
                "GROUP BY makes more than {GROUPING_SETS_MAX} grouping sets"
            ))),
            None => {
                let message = "GROUP BY … WITH is not allowed, write ROLLUP (…) or CUBE (…)";
                ControlFlow::Break(Refusal::NotServed(message.to_owned()))
            }
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Refusal> {
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return ControlFlow::Break(Refusal::NotServed("WITH RECURSIVE is not allowed".to_owned()));
        }
        if !query.locks.is_empty() {
            return ControlFlow::Break(Refusal::NotReadOnly("FOR UPDATE or FOR SHARE".to_owned()));
        }
        match query.body.as_ref() {
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
        if matches!(expr, Expr::SimilarTo { .. } | Expr::RLike { .. }) {
            let message = "SIMILAR TO and RLIKE are not allowed, use LIKE or ~".to_owned();
            return ControlFlow::Break(Refusal::NotServed(message));
        }
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = plain_name(&function.name);
        if function.over.is_some() && !WINDOW_FUNCTIONS.contains(&name.as_str()) {
            return ControlFlow::Break(Refusal::NotServed(format!("{name} is not allowed over a window")));
        }
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

/// Sets that a GROUP BY makes; `None` for a form that is not served.
fn grouping_sets(group_by: &GroupByExpr) -> Option<usize> {
    let (exprs, modifiers): (&[Expr], _) = match group_by {
        GroupByExpr::All(modifiers) => (&[], modifiers),
        GroupByExpr::Expressions(exprs, modifiers) => (exprs, modifiers),
    };
    let sets = |expr: &Expr| match expr {
        Expr::GroupingSets(sets) => sets.len(),
        Expr::Rollup(sets) => sets.len() + 1,
        Expr::Cube(sets) => 1_usize.checked_shl(sets.len() as u32).filter(|n| *n > 0).unwrap_or(usize::MAX),
        _ => 1,
    };
    modifiers.is_empty().then(|| exprs.iter().map(sets).fold(1, usize::saturating_mul))
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
