//! How large values are.

use arrow::array::{Array, ArrayRef, AsArray as _, GenericByteArray};
use arrow::datatypes::{BinaryType, ByteArrayType, DataType, LargeBinaryType, LargeUtf8Type, Utf8Type};

/// Bytes of the rows of an array, however large the buffers are that it is a part of.
pub(crate) fn bytes_of(array: &ArrayRef) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())
}

/// Bytes of the longest value of an array, about; 0 for numbers, times and the like.
pub(crate) fn widest(array: &ArrayRef) -> usize {
    fn longest<T: ByteArrayType>(array: &GenericByteArray<T>) -> usize {
        array.offsets().lengths().max().unwrap_or_default()
    }
    // Elements are taken to be of one size.
    let elements = |most: Option<usize>, values: &ArrayRef| {
        most.unwrap_or_default().saturating_mul(bytes_of(values).div_ceil(values.len().max(1)))
    };
    match array.data_type() {
        DataType::Utf8 => longest::<Utf8Type>(array.as_string()),
        DataType::LargeUtf8 => longest::<LargeUtf8Type>(array.as_string()),
        DataType::Binary => longest::<BinaryType>(array.as_binary()),
        DataType::LargeBinary => longest::<LargeBinaryType>(array.as_binary()),
        DataType::Utf8View => array.as_string_view().lengths().max().unwrap_or_default() as usize,
        DataType::BinaryView => array.as_binary_view().lengths().max().unwrap_or_default() as usize,
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            elements(lists.offsets().lengths().max(), lists.values())
        }
        DataType::LargeList(_) => {
            let lists = array.as_list::<i64>();
            elements(lists.offsets().lengths().max(), lists.values())
        }
        DataType::Struct(_) => array.as_struct().columns().iter().map(widest).fold(0, usize::saturating_add),
        kind if kind.is_nested() => bytes_of(array),
        _ => 0,
    }
}
