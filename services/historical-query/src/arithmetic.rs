//! Arithmetic on integers and times that reports overflow.
//!
//! The engine's own `+`, `-`, `*` and unary minus wrap around silently, when a batch is computed and when constants are
//! folded; its checked variant can be chosen for single physical expressions only, not for a session. After type
//! coercion this rule replaces the operators by functions over Arrow's checked kernels. The engine folds a call of
//! constants like the operator, and an expression keeps its name, so that nothing else in a plan changes.

use std::any::Any;

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable as _, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

/// The rule; it stands after type coercion, when both sides of an operator have the types that are computed with.
#[derive(Debug)]
pub(crate) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(rewrite_node).data()
    }

    fn name(&self) -> &str {
        "checked_arithmetic"
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
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            // What cannot be typed here is left to the rules that report it.
            let checked = Checked::of(op).filter(|_| {
                let types = left.get_type(schema).and_then(|left| Ok((left, right.get_type(schema)?)));
                types.is_ok_and(|(left, right)| wraps(&left, &right))
            });
            Ok(match checked {
                Some(checked) => Transformed::yes(chained(*left, checked, *right)),
                None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            })
        }
        Expr::Negative(inner) if inner.get_type(schema).is_ok_and(|kind| kind.is_integer()) => {
            Ok(Transformed::yes(ScalarUDF::new_from_impl(CheckedNegate::default()).call(vec![*inner])))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Whether the engine's operators wrap around for these types. Floats do not, and decimals are checked by the engine.
fn wraps(left: &DataType, right: &DataType) -> bool {
    let is_time = |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Duration(_));
    (left.is_integer() && left == right) || (is_time(left) && is_time(right))
}

/// `left op right`; if the left side is a chain already, one that is longer. Calls in calls by the thousand would overflow
/// the stack wherever the engine copies an expression.
fn chained(left: Expr, op: Checked, right: Expr) -> Expr {
    if let Expr::ScalarFunction(ScalarFunction { func, mut args }) = left {
        let chain = (func.inner().as_ref() as &dyn Any).downcast_ref::<CheckedChain>();
        if let Some(chain) = chain {
            args.push(right);
            let ops = chain.ops.iter().copied().chain([op]).collect();
            return CheckedChain::function(ops).call(args);
        }
        let left = Expr::ScalarFunction(ScalarFunction { func, args });
        return CheckedChain::function(vec![op]).call(vec![left, right]);
    }
    CheckedChain::function(vec![op]).call(vec![left, right])
}

/// A checked operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Checked {
    Add,
    Subtract,
    Multiply,
}

impl Checked {
    fn of(op: Operator) -> Option<Self> {
        match op {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    fn operator(self) -> Operator {
        match self {
            Self::Add => Operator::Plus,
            Self::Subtract => Operator::Minus,
            Self::Multiply => Operator::Multiply,
        }
    }

    fn apply(self, left: &ColumnarValue, right: &ColumnarValue) -> Result<ColumnarValue> {
        let kernel: fn(&dyn Datum, &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> = match self {
            Self::Add => numeric::add,
            Self::Subtract => numeric::sub,
            Self::Multiply => numeric::mul,
        };
        apply(left, right, kernel)
    }
}

/// Checked operators one after the other, from the left: `((a op b) op c) …`.
#[derive(PartialEq, Eq, Hash, Debug)]
struct CheckedChain {
    ops: Vec<Checked>,
    signature: Signature,
}

impl CheckedChain {
    fn function(ops: Vec<Checked>) -> ScalarUDF {
        let signature = Signature::any(ops.len() + 1, Volatility::Immutable);
        ScalarUDF::new_from_impl(Self { ops, signature })
    }

    /// The operators between the texts of the operands.
    fn joined(&self, args: &[Expr], text: impl Fn(&Expr) -> String) -> Result<String> {
        let (first, rest) = args.split_first().ok_or_else(wrong_arguments)?;
        let mut joined = text(first);
        for (op, arg) in self.ops.iter().zip(rest) {
            joined.push_str(&format!(" {} {}", op.operator(), text(arg)));
        }
        Ok(joined)
    }
}

impl ScalarUDFImpl for CheckedChain {
    fn name(&self) -> &str {
        "checked"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        self.joined(args, |arg| match arg {
            Expr::Column(_) | Expr::Literal(..) => arg.to_string(),
            other => format!("({other})"),
        })
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.joined(args, |arg| arg.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let (first, rest) = types.split_first().ok_or_else(wrong_arguments)?;
        self.ops.iter().zip(rest).try_fold(first.clone(), |left, (op, right)| {
            BinaryTypeCoercer::new(&left, &op.operator(), right).get_result_type()
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut args = args.args.into_iter();
        let first = args.next().ok_or_else(wrong_arguments)?;
        self.ops.iter().zip(args).try_fold(first, |left, (op, right)| op.apply(&left, &right))
    }
}

/// Checked unary minus.
#[derive(PartialEq, Eq, Hash, Debug)]
struct CheckedNegate {
    signature: Signature,
}

impl Default for CheckedNegate {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for CheckedNegate {
    fn name(&self) -> &str {
        "checked_negate"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("(- {})", args.first().ok_or_else(wrong_arguments)?))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("(- {})", args.first().ok_or_else(wrong_arguments)?.schema_name()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(wrong_arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let inner = args.args.first().ok_or_else(wrong_arguments)?;
        apply(inner, inner, |value, _| numeric::neg(value.get().0))
    }
}

fn wrong_arguments() -> DataFusionError {
    DataFusionError::Internal("a checked operator has other arguments".to_owned())
}
