//! Bounds on texts and lists that a query makes.
//!
//! The engine's memory limit counts what operators keep, not what one function call allocates, and a few functions make
//! much out of little: forty nested `concat(s, s)` ask for a terabyte. They are wrapped here: a call whose result could
//! be too large is refused before it is made, and no value that comes out is longer than a metric's name could need.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, GenericStringArray, OffsetSizeTrait, StringArray};
use arrow::compute::cast;
use arrow::compute::kernels::concat_elements::concat_elements_utf8_many;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExprSchemable as _, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Bytes of a text, and elements of a list, that a function may make.
pub(crate) const VALUE_MAX: usize = 16 << 10;
/// Bytes that one call may make for a batch.
const CALL_BYTES_MAX: usize = 128 << 20;

/// How the size of a result follows from those of the arguments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Growth {
    /// At most their sum.
    Sum,
    /// A short pattern becomes a longer text: at most ten times their sum.
    Tenfold,
    /// Their sum, with the first repeated between the others.
    Separated,
    /// The first, with a text as long as the longest of the others for each of its bytes.
    Product,
}

/// The functions that can make more than they are given, and how.
const GROWING: [(&str, Growth); 16] = [
    ("concat", Growth::Sum),
    ("concat_ws", Growth::Separated),
    ("replace", Growth::Product),
    ("regexp_replace", Growth::Product),
    ("overlay", Growth::Sum),
    ("to_char", Growth::Tenfold),
    ("array_to_string", Growth::Product),
    ("string_to_array", Growth::Tenfold),
    ("make_array", Growth::Sum),
    ("array_append", Growth::Sum),
    ("array_prepend", Growth::Sum),
    ("array_concat", Growth::Sum),
    ("array_union", Growth::Sum),
    ("array_replace", Growth::Product),
    ("array_replace_n", Growth::Product),
    ("array_replace_all", Growth::Product),
];

/// The function, wrapped if it can grow.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match GROWING.iter().find(|(name, _)| *name == function.name()) {
        Some((_, growth)) => Arc::new(ScalarUDF::new_from_impl(Bounded { inner: function, growth: *growth })),
        None => function,
    }
}

/// `||` on texts, bounded.
pub(crate) fn text_concat() -> Arc<ScalarUDF> {
    let inner =
        Arc::new(ScalarUDF::new_from_impl(TextConcat { signature: Signature::variadic_any(Volatility::Immutable) }));
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth: Growth::Sum }))
}

/// A function with a bound. The engine's rewriting of its calls is left out: it would work before the bound is checked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if made_at_most(&args.args, args.number_rows, self.growth) > CALL_BYTES_MAX {
            return Err(too_large(self.name()));
        }
        let made = self.inner.invoke_with_args(args)?;
        let longest = match &made {
            ColumnarValue::Array(array) => longest(array),
            ColumnarValue::Scalar(value) => longest(&value.to_array()?),
        };
        if longest > VALUE_MAX { Err(too_large(self.name())) } else { Ok(made) }
    }
}

fn too_large(name: &str) -> DataFusionError {
    DataFusionError::Execution(format!("{name} would make a text or list longer than {VALUE_MAX}"))
}

/// An upper bound of what a call makes.
fn made_at_most(args: &[ColumnarValue], rows: usize, growth: Growth) -> usize {
    let bytes = |value: &ColumnarValue| match value {
        ColumnarValue::Array(array) => {
            array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
        }
        // Repeated for every row.
        ColumnarValue::Scalar(value) => value.size().saturating_mul(rows),
    };
    let each = |value: &ColumnarValue| match value {
        ColumnarValue::Array(array) => longest(array),
        ColumnarValue::Scalar(value) => value.to_array().map_or(usize::MAX, |array| longest(&array)),
    };
    let sum = args.iter().map(bytes).fold(0, usize::saturating_add);
    let Some((first, others)) = args.split_first() else { return 0 };
    match growth {
        Growth::Sum => sum,
        Growth::Tenfold => sum.saturating_mul(10),
        Growth::Separated => sum.saturating_add(bytes(first).saturating_mul(others.len())),
        Growth::Product => {
            let factor = others.iter().map(each).max().unwrap_or_default();
            sum.saturating_add(bytes(first).saturating_mul(factor))
        }
    }
}

/// Length of the longest text or list of an array; 0 for anything else.
fn longest(array: &ArrayRef) -> usize {
    fn of_text<O: OffsetSizeTrait>(array: &GenericStringArray<O>) -> usize {
        array.offsets().lengths().max().unwrap_or_default()
    }
    match array.data_type() {
        DataType::Utf8 => of_text(array.as_string::<i32>()),
        DataType::LargeUtf8 => of_text(array.as_string::<i64>()),
        DataType::Utf8View => array.as_string_view().lengths().max().unwrap_or_default() as usize,
        DataType::List(_) => array.as_list::<i32>().offsets().lengths().max().unwrap_or_default(),
        DataType::LargeList(_) => array.as_list::<i64>().offsets().lengths().max().unwrap_or_default(),
        _ => 0,
    }
}

/// `a || b || …`: null if any is. One call for a chain: a thousand nested ones take minutes to plan.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct TextConcat {
    signature: Signature,
}

impl ScalarUDFImpl for TextConcat {
    fn name(&self) -> &str {
        "text_concat"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|arg| arg.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let alone = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let length = if alone { 1 } else { rows };
        let text = |value: &ColumnarValue| -> Result<ArrayRef> {
            Ok(cast(&value.clone().into_array(length)?, &DataType::Utf8)?)
        };
        let texts = args.args.iter().map(text).collect::<Result<Vec<_>>>()?;
        let texts: Vec<&StringArray> = texts.iter().map(|array| array.as_string::<i32>()).collect();
        let made = concat_elements_utf8_many(&texts)?;
        if alone {
            return Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&made, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(made)))
    }
}

/// Makes `||` on texts a call that is bounded.
#[derive(Debug)]
pub(crate) struct ConcatPlanner(pub(crate) Arc<ScalarUDF>);

impl ExprPlanner for ConcatPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_list = |side: &Expr| side.get_type(schema).map_or(true, |kind| kind.is_list());
        if expr.op != BinaryOperator::StringConcat || is_list(&expr.left) || is_list(&expr.right) {
            return Ok(PlannerResult::Original(expr));
        }
        let args = match expr.left {
            Expr::ScalarFunction(ScalarFunction { func, mut args }) if func.name() == self.0.name() => {
                args.push(expr.right);
                args
            }
            left => vec![left, expr.right],
        };
        Ok(PlannerResult::Planned(self.0.call(args)))
    }
}
