//! Arithmetic on integers and times that reports overflow.
//!
//! The engine's own `+`, `-`, `*` and unary minus wrap around silently, when a batch is computed and when constants are
//! folded; its checked variant can be chosen for single physical expressions only, not for a session. After type
//! coercion this rule replaces the operators by functions over Arrow's checked kernels. The engine folds a call of
//! constants like the operator, and an expression keeps its name, so that nothing else in a plan changes.

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::common::{DFSchema, DataFusionError, Result};
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
                Some(checked) => Transformed::yes(checked.function().call(vec![*left, *right])),
                None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            })
        }
        Expr::Negative(inner) if inner.get_type(schema).is_ok_and(|kind| kind.is_integer()) => {
            Ok(Transformed::yes(Checked::Negate.function().call(vec![*inner])))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Whether the engine's operators wrap around for these types. Floats do not, and decimals are checked by the engine.
fn wraps(left: &DataType, right: &DataType) -> bool {
    let is_time = |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Duration(_));
    (left.is_integer() && left == right) || (is_time(left) && is_time(right))
}

/// A checked operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Checked {
    Add,
    Subtract,
    Multiply,
    Negate,
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

    /// The operator; none for unary minus.
    fn operator(self) -> Option<Operator> {
        match self {
            Self::Add => Some(Operator::Plus),
            Self::Subtract => Some(Operator::Minus),
            Self::Multiply => Some(Operator::Multiply),
            Self::Negate => None,
        }
    }

    fn function(self) -> ScalarUDF {
        let arguments = if self == Self::Negate { 1 } else { 2 };
        ScalarUDF::new_from_impl(CheckedOperator {
            checked: self,
            signature: Signature::any(arguments, Volatility::Immutable),
        })
    }
}

/// A checked operator as a function.
#[derive(PartialEq, Eq, Hash, Debug)]
struct CheckedOperator {
    checked: Checked,
    signature: Signature,
}

impl CheckedOperator {
    /// The expression that the call stands for.
    fn expression(&self, args: &[Expr]) -> Result<Expr> {
        match (self.checked.operator(), args) {
            (Some(op), [left, right]) => {
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right.clone()))))
            }
            (None, [inner]) => Ok(Expr::Negative(Box::new(inner.clone()))),
            _ => Err(wrong_arguments()),
        }
    }
}

impl ScalarUDFImpl for CheckedOperator {
    fn name(&self) -> &str {
        match self.checked {
            Checked::Add => "checked_add",
            Checked::Subtract => "checked_subtract",
            Checked::Multiply => "checked_multiply",
            Checked::Negate => "checked_negate",
        }
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.expression(args)?.to_string())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.expression(args)?.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (self.checked.operator(), types) {
            (Some(op), [left, right]) => BinaryTypeCoercer::new(left, &op, right).get_result_type(),
            (None, [inner]) => Ok(inner.clone()),
            _ => Err(wrong_arguments()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let kernel: fn(&dyn Datum, &dyn Datum) -> std::result::Result<ArrayRef, ArrowError> = match self.checked {
            Checked::Add => numeric::add,
            Checked::Subtract => numeric::sub,
            Checked::Multiply => numeric::mul,
            Checked::Negate => |value, _| numeric::neg(value.get().0),
        };
        match args.args.as_slice() {
            [left, right] => apply(left, right, kernel),
            [inner] => apply(inner, inner, kernel),
            _ => Err(wrong_arguments()),
        }
    }
}

fn wrong_arguments() -> DataFusionError {
    DataFusionError::Internal("a checked operator has other arguments".to_owned())
}
