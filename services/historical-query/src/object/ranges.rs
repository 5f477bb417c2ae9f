//! Large objects, read by ranges: only the wanted columns, one row group after the other.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::StreamExt as _;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use tidegauge_core::lake::PinnedObject;

use super::decode::{BATCH_ROWS, Shape};
use super::{Rows, Wanted};
use crate::error::Abort;

#[derive(Debug)]
struct Ranges {
    object: Arc<dyn PinnedObject>,
}

impl AsyncFileReader for Ranges {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move { self.object.read(range).await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let external = |error| ParquetError::External(error);
            let read = tidegauge_lake::object::read_metadata(self.object.as_ref()).await;
            let metadata = read.map_err(|error| external(Box::new(error)))?;
            metadata.map(Arc::new).map_err(|error| external(Box::new(error)))
        }
        .boxed()
    }
}

/// The rows of a large object.
pub(super) async fn rows(
    object: Arc<dyn PinnedObject>,
    wanted: Wanted,
    shape: Shape,
) -> std::result::Result<Rows, Abort> {
    let opened = ParquetRecordBatchStreamBuilder::new(Ranges { object }).await;
    let builder = opened.map_err(|error| wanted.unreadable(&error))?.with_batch_size(BATCH_ROWS);
    let metadata = parquet::arrow::arrow_reader::ArrowReaderMetadata::try_new(
        Arc::clone(builder.metadata()),
        ArrowReaderOptions::new(),
    );
    let mask = shape.mask(&metadata.map_err(|error| wanted.unreadable(&error))?);
    let stream = builder.with_projection(mask).build().map_err(|error| wanted.unreadable(&error))?;
    let batches = stream.map(move |batch| {
        let shaped = batch.and_then(|batch| shape.of_file(batch).map_err(ParquetError::from));
        shaped.map_err(|error| wanted.unreadable(&error))
    });
    Ok(batches.boxed())
}
