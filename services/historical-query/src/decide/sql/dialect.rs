//! Parts of SQL that the engine lacks or reads otherwise than PostgreSQL, rewritten in the syntax tree.
//!
//! * `LIKE … ESCAPE`: the engine knows the backslash alone (apache/datafusion issue 13291); the pattern becomes one that
//!   is escaped by backslashes.
//! * `AT TIME ZONE`: the engine casts, and a local time that a change of clocks skips or repeats fails the whole query;
//!   it becomes a call that gives every local time one instant.
//! * `ORDER BY` with an expression: its names mean columns of the input, and a name that stands alone means a column of
//!   the result first. Where a result column has the name of another input column the engine confuses the two.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, OrderBy,
    OrderByKind, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Value, ValueWithSpan, VisitMut as _,
    VisitorMut, visit_expressions,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidegauge_lake::schema;

use super::Refusal;
use crate::functions::{AT_TIME_ZONE, LIKE_ESCAPE};

/// Rewrites a statement.
///
/// # Errors
/// [`Refusal::NotServed`] for an escape that is not one character.
pub(super) fn rewrite(statement: &mut Statement) -> Result<(), Refusal> {
    match statement.visit(&mut Rewriter) {
        ControlFlow::Break(refusal) => Err(refusal),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Refusal;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        match expr {
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                let Some(escape) = escape_char.take() else { return ControlFlow::Continue(()) };
                if let Err(refusal) = check_escape(&escape) {
                    return ControlFlow::Break(refusal);
                }
                replace(pattern, |pattern| call(LIKE_ESCAPE, vec![pattern, Expr::Value(escape)]));
            }
            Expr::AtTimeZone { timestamp, .. } if zones(timestamp) >= ZONES_MAX => {
                let message = format!("AT TIME ZONE follows itself more than {ZONES_MAX} times");
                return ControlFlow::Break(Refusal::NotServed(message));
            }
            Expr::AtTimeZone { .. } => replace(expr, |expr| match expr {
                Expr::AtTimeZone { timestamp, time_zone } => call(AT_TIME_ZONE, vec![*timestamp, *time_zone]),
                other => other,
            }),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Refusal> {
        order_by_input(query);
        ControlFlow::Continue(())
    }
}

/// Calls of AT TIME ZONE in each other that an expression begins with: more of them are no question, and calls in calls by
/// the thousand would overflow the stack.
const ZONES_MAX: usize = 8;

fn zones(mut expr: &Expr) -> usize {
    let mut zones = 0;
    while let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr
        && name.0.len() == 1
        && name.to_string() == AT_TIME_ZONE
        && let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(inner))) = list.args.first()
    {
        zones += 1;
        expr = inner;
    }
    zones
}

fn check_escape(escape: &ValueWithSpan) -> Result<(), Refusal> {
    match &escape.value {
        Value::SingleQuotedString(text) if text.chars().count() <= 1 => Ok(()),
        other => Err(Refusal::NotServed(format!("the ESCAPE of LIKE must be one character or empty, found {other}"))),
    }
}

fn replace(expr: &mut Expr, with: impl FnOnce(Expr) -> Expr) {
    let old = std::mem::replace(expr, Expr::value(Value::Null));
    *expr = with(old);
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Gives expressions of ORDER BY the columns of the input, where a result column of the same name is another one.
///
/// One that the result has already becomes its number. Any other one becomes a hidden column of the query, which is then
/// sorted and shown without it; a query with DISTINCT cannot have one, as in PostgreSQL.
fn order_by_input(query: &mut Query) {
    let Query { body, order_by: Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }), .. } = query else {
        return;
    };
    let SetExpr::Select(select) = body.as_mut() else { return };
    let shadowed = shadowed_columns(select);
    if shadowed.is_empty() {
        return;
    }
    let mut hidden = Vec::new();
    for key in keys.iter_mut().filter(|key| is_expression_over(&key.expr, &shadowed)) {
        if let Some(number) = number_of(select, &key.expr) {
            key.expr = Expr::value(Value::Number(number.to_string(), false));
        } else if select.distinct.is_none() {
            let name = Ident::with_quote('"', format!("__order_by_{}", hidden.len() + 1));
            let expr = std::mem::replace(&mut key.expr, Expr::Identifier(name.clone()));
            select.projection.push(SelectItem::ExprWithAlias { expr, alias: name.clone() });
            hidden.push(name);
        }
    }
    if !hidden.is_empty() {
        wrap(query, &hidden);
    }
}

/// Names of columns of the table that mean something else in the result of a SELECT.
fn shadowed_columns(select: &Select) -> Vec<String> {
    let table = schema::dashboard_metrics();
    let shadows = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { expr, alias } => {
            let name = folded(alias);
            let is_itself = last_name(expr).is_some_and(|column| folded(column) == name);
            (!is_itself && table.field_with_name(&name).is_ok()).then_some(name)
        }
        _ => None,
    };
    select.projection.iter().filter_map(shadows).collect()
}

/// A name as the engine reads it: in small letters unless it is quoted.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// The column that an expression is, if it is nothing else.
fn last_name(expr: &Expr) -> Option<&Ident> {
    match expr {
        Expr::Identifier(name) => Some(name),
        Expr::CompoundIdentifier(names) => names.last(),
        _ => None,
    }
}

/// Whether it is more than a name or number, and names one of these columns.
fn is_expression_over(expr: &Expr, columns: &[String]) -> bool {
    if matches!(expr, Expr::Identifier(_) | Expr::Value(_)) {
        return false;
    }
    let found = visit_expressions(expr, |part| match last_name(part) {
        Some(name) if columns.contains(&folded(name)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// The number of the result column that is this expression.
fn number_of(select: &Select, wanted: &Expr) -> Option<usize> {
    for (at, item) in select.projection.iter().enumerate() {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                if expr == wanted {
                    return Some(at + 1);
                }
            }
            // It stands for any number of columns.
            _ => return None,
        }
    }
    None
}

/// Sorts the query from outside, by columns that it then leaves out.
fn wrap(query: &mut Query, hidden: &[Ident]) {
    let names: Vec<String> = hidden.iter().map(ToString::to_string).collect();
    let frame = format!("SELECT * EXCEPT ({}) FROM (SELECT 1) AS \"__ordered\"", names.join(", "));
    let outer = Parser::new(&GenericDialect).try_with_sql(&frame).and_then(|mut parser| parser.parse_query());
    let Ok(mut outer) = outer else { return };
    outer.order_by = query.order_by.take();
    outer.limit_clause = query.limit_clause.take();
    outer.fetch = query.fetch.take();
    let inner = std::mem::replace(query, *outer);
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(from) = select.from.first_mut()
        && let TableFactor::Derived { subquery, .. } = &mut from.relation
    {
        **subquery = inner;
    }
}
