//! `SUM` over integers that is exact or reports overflow.
//!
//! The engine's `sum` keeps a `BIGINT` and wraps around silently. Here integers are summed as `DECIMAL(38, 0)`, which
//! 2^63 of the largest values do not fill, by the engine's own accumulators; the sum must fit the result's type only when
//! it is asked for, so that the order of the values does not matter.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

/// What integers are summed as.
const WIDE: DataType = DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0);

/// The function; `sum` with a wide state for integers.
pub(crate) fn checked(function: Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    if function.name() == "sum" {
        Arc::new(AggregateUDF::new_from_impl(CheckedSum { inner: function }))
    } else {
        function
    }
}

#[derive(PartialEq, Eq, Hash, Debug)]
struct CheckedSum {
    inner: Arc<AggregateUDF>,
}

fn widened(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(field.name(), WIDE, field.is_nullable()))
}

/// Calls `act` with arguments as for a sum of decimals.
fn with_wide<T>(args: &AccumulatorArgs<'_>, act: impl FnOnce(AccumulatorArgs<'_>) -> Result<T>) -> Result<T> {
    let fields: Vec<FieldRef> = args.expr_fields.iter().map(widened).collect();
    act(AccumulatorArgs {
        return_field: widened(&args.return_field),
        schema: args.schema,
        ignore_nulls: args.ignore_nulls,
        order_bys: args.order_bys,
        is_reversed: args.is_reversed,
        name: args.name,
        is_distinct: args.is_distinct,
        exprs: args.exprs,
        expr_fields: &fields,
    })
}

fn sums_integers(return_type: &DataType) -> bool {
    return_type.is_integer()
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let result = args.return_type().clone();
        if !sums_integers(&result) {
            return self.inner.accumulator(args);
        }
        if !args.is_distinct {
            return Ok(Box::new(IntegerSum::new(result)));
        }
        let inner = with_wide(&args, |args| self.inner.accumulator(args))?;
        Ok(Box::new(WideSum { inner, result }))
    }

    fn state_fields(&self, mut args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if sums_integers(args.return_type()) {
            args.return_field = widened(&args.return_field);
        }
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let result = args.return_type().clone();
        if !sums_integers(&result) {
            return self.inner.create_groups_accumulator(args);
        }
        let inner = with_wide(&args, |args| self.inner.create_groups_accumulator(args))?;
        Ok(Box::new(WideGroups { inner, result }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let result = args.return_type().clone();
        // Distinct values over a sliding frame are summed by the engine for BIGINT alone.
        if !sums_integers(&result) || args.is_distinct {
            return self.inner.create_sliding_accumulator(args);
        }
        Ok(Box::new(IntegerSum::new(result)))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

fn wide(values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    Ok(values.iter().map(|array| cast_with_options(array, &WIDE, &strict)).collect::<std::result::Result<_, _>>()?)
}

/// The sums as the result's type.
fn narrow(sums: &ArrayRef, result: &DataType) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(sums, result, &strict)
        .map_err(|error| DataFusionError::Execution(format!("overflow in SUM of integers: {error}")))
}

/// One sum, of all values; without a cast a row, because a window function asks for it row by row.
#[derive(Debug)]
struct IntegerSum {
    sum: i128,
    /// Values that are not null, or states that had any.
    count: u64,
    result: DataType,
}

impl IntegerSum {
    fn new(result: DataType) -> Self {
        Self { sum: 0, count: 0, result }
    }

    /// Sum and number of the values that are not null.
    fn of(values: &[ArrayRef]) -> Result<(i128, u64)> {
        let array = values.first().ok_or_else(|| DataFusionError::Internal("SUM without an argument".to_owned()))?;
        let sum: i128 = match array.data_type() {
            DataType::Int64 => array.as_primitive::<Int64Type>().iter().flatten().map(i128::from).sum(),
            DataType::UInt64 => array.as_primitive::<UInt64Type>().iter().flatten().map(i128::from).sum(),
            DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().iter().flatten().sum(),
            other => return Err(DataFusionError::Internal(format!("SUM of integers was given {other}"))),
        };
        Ok((sum, (array.len() - array.null_count()) as u64))
    }
}

impl Accumulator for IntegerSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = Self::of(values)?;
        self.sum += sum;
        self.count += count;
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return ScalarValue::try_from(&self.result);
        }
        let overflow =
            |_| DataFusionError::Execution(format!("overflow in SUM of integers: {} is too large", self.sum));
        match self.result {
            DataType::UInt64 => Ok(ScalarValue::UInt64(Some(u64::try_from(self.sum).map_err(overflow)?))),
            _ => Ok(ScalarValue::Int64(Some(i64::try_from(self.sum).map_err(overflow)?))),
        }
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = (self.count > 0).then_some(self.sum);
        Ok(vec![ScalarValue::Decimal128(sum, DECIMAL128_MAX_PRECISION, 0)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = Self::of(values)?;
        self.sum -= sum;
        self.count -= count;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }
}

/// One sum of distinct values.
#[derive(Debug)]
struct WideSum {
    inner: Box<dyn Accumulator>,
    result: DataType,
}

impl Accumulator for WideSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&wide(values)?)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.inner.evaluate()?.to_array()?;
        ScalarValue::try_from_array(&narrow(&sum, &self.result)?, 0)
    }

    fn size(&self) -> usize {
        self.inner.size() + size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }
}

/// The sums of all groups.
struct WideGroups {
    inner: Box<dyn GroupsAccumulator>,
    result: DataType,
}

impl GroupsAccumulator for WideGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        count: usize,
    ) -> Result<()> {
        self.inner.update_batch(&wide(values)?, groups, filter, count)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        narrow(&self.inner.evaluate(emit)?, &self.result)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], count: usize) -> Result<()> {
        self.inner.merge_batch(states, groups, count)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&wide(values)?, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
