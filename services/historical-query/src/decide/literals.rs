//! Comparisons of integers with text literals: `month = 3`, `month = '3'` and `month = '03'` mean the same.
//!
//! Partition columns are integers in the table and zero-padded text in the paths of the lake, and tools quote them both
//! ways. Without this rule the engine would compare them as text, and `'03'` would find nothing. The rule holds for
//! every integer expression that is compared with a text literal, as in PostgreSQL.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::{Between, Case, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable as _, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

/// The rule; it stands before type coercion.
#[derive(Debug)]
pub struct IntegerLiterals;

impl AnalyzerRule for IntegerLiterals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite_node).data()
    }

    fn name(&self) -> &str {
        "integer_literals"
    }
}

fn rewrite_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        expr.transform_up(|e| rewrite(e, &schema)).map(|done| done.update_data(|e| name.restore(e)))
    })
}

fn rewrite(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { mut left, op, mut right }) if compares(op) => {
            let changed = as_integer(&left, &mut right, schema)? | as_integer(&right, &mut left, schema)?;
            Ok(Transformed::new_transformed(Expr::BinaryExpr(BinaryExpr { left, op, right }), changed))
        }
        Expr::InList(InList { expr, mut list, negated }) => {
            let mut changed = false;
            for item in &mut list {
                changed |= as_integer(&expr, item, schema)?;
            }
            Ok(Transformed::new_transformed(Expr::InList(InList { expr, list, negated }), changed))
        }
        Expr::Between(Between { expr, negated, mut low, mut high }) => {
            let changed = as_integer(&expr, &mut low, schema)? | as_integer(&expr, &mut high, schema)?;
            Ok(Transformed::new_transformed(Expr::Between(Between { expr, negated, low, high }), changed))
        }
        Expr::Case(Case { expr: Some(base), mut when_then_expr, else_expr }) => {
            let mut changed = false;
            for (when, _) in &mut when_then_expr {
                changed |= as_integer(&base, when, schema)?;
            }
            let case = Case { expr: Some(base), when_then_expr, else_expr };
            Ok(Transformed::new_transformed(Expr::Case(case), changed))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Replaces a text literal that stands against an integer by the integer it spells.
fn as_integer(integer: &Expr, literal: &mut Expr, schema: &DFSchema) -> Result<bool> {
    let Expr::Literal(
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
        _,
    ) = &*literal
    else {
        return Ok(false);
    };
    // Expressions that cannot be typed here are left to the rules that report them.
    let Ok(kind) = integer.get_type(schema) else { return Ok(false) };
    if !kind.is_integer() {
        return Ok(false);
    }
    let value = parse_integer(text, &kind).ok_or_else(|| {
        DataFusionError::Plan(format!("{integer} is an integer and cannot be compared with '{}'", shortened(text)))
    })?;
    *literal = Expr::Literal(value, None);
    Ok(true)
}

/// The integer that a text spells, as the given type where it fits.
fn parse_integer(text: &str, kind: &DataType) -> Option<ScalarValue> {
    let text = text.trim();
    if let Ok(value) = text.parse::<i64>() {
        let wide = ScalarValue::Int64(Some(value));
        return Some(wide.cast_to(kind).ok().filter(|narrow| !narrow.is_null()).unwrap_or(wide));
    }
    text.parse::<u64>().ok().map(|value| ScalarValue::UInt64(Some(value)))
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
