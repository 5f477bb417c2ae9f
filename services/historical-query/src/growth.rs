//! Bounds on what one call of a function makes and on how long it works.
//!
//! The engine's memory limit counts what operators keep, not what one function call allocates, and a few functions make
//! much out of little: forty nested `concat(s, s)` ask for a terabyte. Others work for hours on one batch, and nothing
//! can end a call from outside. They are wrapped here: a call that would make too much is refused before it is made, and
//! a call that could work long is made for a few rows at a time, with a look at whether the query is still wanted
//! between.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, StringArray};
use arrow::compute::kernels::concat_elements::concat_elements_utf8_many;
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExprSchemable as _, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit, not,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::watch::Watch;
use crate::width::{bytes_of, widest};

/// Bytes of a text or list that a function may make, on average over the rows of a batch; four times the longest name.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 10;
/// What a batch of few rows may have beyond that.
const BATCH_BYTES_FREE: usize = 64 << 10;
/// Bytes that one call may make for a batch before it is measured.
const CALL_BYTES_MAX: usize = 128 << 20;
/// Bytes of a text or list that a function may work on whose work grows faster than its arguments.
const COSTLY_BYTES_MAX: usize = 16 << 10;
/// Steps between two looks at whether the query is still wanted: some hundredths of a second, and more for the worst
/// regular expressions.
const STEPS_UNWATCHED: usize = 4 << 20;

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

/// How the steps of a call follow from its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Work {
    /// With their sum.
    Plain,
    /// With the product of the two longest, so many times.
    Pairs(usize),
}

/// A regular expression has that many states for a byte of its text, and more: `{0,9}` in `{0,9}`.
const PATTERN: Work = Work::Pairs(64);

/// The functions that can make more than they are given or work long on it, and how.
const BOUNDED: [(&str, Growth, Work); 23] = [
    ("concat", Growth::Sum, Work::Plain),
    ("concat_ws", Growth::Separated, Work::Plain),
    ("replace", Growth::Product, Work::Plain),
    ("overlay", Growth::Sum, Work::Plain),
    ("to_char", Growth::Tenfold, Work::Plain),
    ("array_to_string", Growth::Product, Work::Plain),
    ("string_to_array", Growth::Tenfold, Work::Plain),
    ("make_array", Growth::Sum, Work::Plain),
    ("array_append", Growth::Sum, Work::Plain),
    ("array_prepend", Growth::Sum, Work::Plain),
    ("array_concat", Growth::Sum, Work::Plain),
    ("array_union", Growth::Sum, Work::Plain),
    ("array_replace", Growth::Product, Work::Plain),
    ("array_replace_n", Growth::Product, Work::Plain),
    ("array_replace_all", Growth::Product, Work::Plain),
    ("array_has_all", Growth::Sum, Work::Pairs(1)),
    ("array_has_any", Growth::Sum, Work::Pairs(1)),
    ("levenshtein", Growth::Sum, Work::Pairs(1)),
    ("regexp_count", Growth::Sum, PATTERN),
    ("regexp_instr", Growth::Sum, PATTERN),
    ("regexp_like", Growth::Sum, PATTERN),
    ("regexp_match", Growth::Tenfold, PATTERN),
    ("regexp_replace", Growth::Product, PATTERN),
];

/// The function, wrapped if it needs a bound.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match BOUNDED.iter().find(|(name, ..)| *name == function.name()) {
        Some((_, growth, work)) => {
            Arc::new(ScalarUDF::new_from_impl(Bounded { inner: function, growth: *growth, work: *work }))
        }
        None => function,
    }
}

/// `||` on texts, bounded.
fn text_concat() -> Arc<ScalarUDF> {
    let inner =
        Arc::new(ScalarUDF::new_from_impl(TextConcat { signature: Signature::variadic_any(Volatility::Immutable) }));
    Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth: Growth::Sum, work: Work::Plain }))
}

/// A function with a bound. The engine's rewriting of its calls is left out: it would work before the bound is checked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
    work: Work,
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
        let made = match self.work {
            Work::Plain => self.inner.invoke_with_args(args)?,
            Work::Pairs(factor) => self.in_steps(args, factor)?,
        };
        let fits = match &made {
            ColumnarValue::Array(array) => bytes_of(array) <= BATCH_BYTES_FREE + array.len() * VALUE_BYTES_MAX,
            // It may be repeated for every row of a batch.
            ColumnarValue::Scalar(value) => widest(&value.to_array()?) <= VALUE_BYTES_MAX,
        };
        if fits { Ok(made) } else { Err(too_large(self.name())) }
    }
}

impl Bounded {
    /// Makes the call for so many rows at a time that the query can be ended between.
    fn in_steps(&self, args: ScalarFunctionArgs, factor: usize) -> Result<ColumnarValue> {
        let mut longest = args.args.iter().map(widest_of).collect::<Result<Vec<_>>>()?;
        longest.sort_unstable_by(|a, b| b.cmp(a));
        if longest.first().is_some_and(|bytes| *bytes > COSTLY_BYTES_MAX) {
            let message = format!("{} takes no text or list longer than {COSTLY_BYTES_MAX} bytes", self.name());
            return Err(DataFusionError::Execution(message));
        }
        let steps = longest.iter().take(2).fold(factor, |steps, bytes| steps.saturating_mul((*bytes).max(1)));
        let rows = (STEPS_UNWATCHED / steps.max(1)).max(1);
        let has_rows = args.args.iter().any(|arg| matches!(arg, ColumnarValue::Array(_)));
        if !has_rows || rows >= args.number_rows {
            return self.inner.invoke_with_args(args);
        }
        let mut made = Vec::with_capacity(args.number_rows.div_ceil(rows));
        for from in (0..args.number_rows).step_by(rows) {
            Watch::check(&args.config_options)?;
            let number_rows = rows.min(args.number_rows - from);
            let some = |arg: &ColumnarValue| match arg {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, number_rows)),
                scalar => scalar.clone(),
            };
            let part = ScalarFunctionArgs { args: args.args.iter().map(some).collect(), number_rows, ..args.clone() };
            made.push(self.inner.invoke_with_args(part)?.into_array(number_rows)?);
        }
        let parts: Vec<&dyn Array> = made.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }
}

fn too_large(name: &str) -> DataFusionError {
    DataFusionError::Execution(format!("{name} would make texts or lists longer than {VALUE_BYTES_MAX} bytes"))
}

/// Bytes of the longest text or list of an argument.
fn widest_of(value: &ColumnarValue) -> Result<usize> {
    match value {
        ColumnarValue::Array(array) => Ok(widest(array)),
        ColumnarValue::Scalar(value) => Ok(widest(&value.to_array()?)),
    }
}

/// An upper bound of what a call makes.
fn made_at_most(args: &[ColumnarValue], rows: usize, growth: Growth) -> usize {
    let bytes = |value: &ColumnarValue| match value {
        ColumnarValue::Array(array) => bytes_of(array),
        // Repeated for every row.
        ColumnarValue::Scalar(value) => value.size().saturating_mul(rows),
    };
    let sum = args.iter().map(bytes).fold(0, usize::saturating_add);
    let Some((first, others)) = args.split_first() else { return 0 };
    match growth {
        Growth::Sum => sum,
        Growth::Tenfold => sum.saturating_mul(10),
        Growth::Separated => sum.saturating_add(bytes(first).saturating_mul(others.len())),
        Growth::Product => {
            let factor = others.iter().map(|value| widest_of(value).unwrap_or(usize::MAX)).max().unwrap_or_default();
            sum.saturating_add(bytes(first).saturating_mul(factor))
        }
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
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(made)))
    }
}

/// Makes operators on texts calls that are bounded: `||`, and `~` with its kin.
#[derive(Debug)]
pub(crate) struct TextOperators {
    concat: Arc<ScalarUDF>,
    matches: Arc<ScalarUDF>,
}

impl TextOperators {
    /// `functions` are bounded already.
    pub(crate) fn new(functions: &[Arc<ScalarUDF>]) -> Result<Self> {
        let matches = functions.iter().find(|function| function.name() == "regexp_like");
        let missing = || DataFusionError::Internal("the engine has no regexp_like".to_owned());
        Ok(Self { concat: text_concat(), matches: Arc::clone(matches.ok_or_else(missing)?) })
    }

    fn concat(&self, left: Expr, right: Expr) -> Expr {
        match left {
            Expr::ScalarFunction(ScalarFunction { func, mut args }) if func.name() == self.concat.name() => {
                args.push(right);
                self.concat.call(args)
            }
            left => self.concat.call(vec![left, right]),
        }
    }
}

impl ExprPlanner for TextOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let is_list = |side: &Expr| side.get_type(schema).map_or(true, |kind| kind.is_list());
        let matches = |left, right| self.matches.call(vec![left, right]);
        let matches_any_case = |left, right| self.matches.call(vec![left, right, lit("i")]);
        Ok(PlannerResult::Planned(match expr.op {
            BinaryOperator::StringConcat if !is_list(&expr.left) && !is_list(&expr.right) => {
                self.concat(expr.left, expr.right)
            }
            BinaryOperator::PGRegexMatch => matches(expr.left, expr.right),
            BinaryOperator::PGRegexNotMatch => not(matches(expr.left, expr.right)),
            BinaryOperator::PGRegexIMatch => matches_any_case(expr.left, expr.right),
            BinaryOperator::PGRegexNotIMatch => not(matches_any_case(expr.left, expr.right)),
            _ => return Ok(PlannerResult::Original(expr)),
        }))
    }
}
