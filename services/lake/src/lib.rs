//! The lake: paths, schemas, objects, footers and the hour index
