//! Compiles the contracts with protox, so that no protoc is needed, and writes the descriptor set for reflection.

use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut files = Vec::new();
    for package in ["tidegauge", "arrow"] {
        collect(&root.join(package), &mut files)?;
        println!("cargo:rerun-if-changed={package}");
    }
    files.sort();

    let set = protox::compile(&files, [&root])?;
    std::fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;

    // The types of Arrow Flight come from the crate arrow-flight; only its description is ours.
    let mut own = set;
    own.file.retain(|file| !file.package().starts_with("arrow."));
    tonic_prost_build::configure().bytes(".").compile_fds(own.clone())?;

    // Ingest's hot path takes and sends requests as bytes: the same service once more, its requests of raw types.
    let raw = out.join("raw");
    std::fs::create_dir_all(&raw)?;
    own.file.retain(|file| !file.service.iter().any(|s| s.name() != "IngestService"));
    tonic_prost_build::configure()
        .out_dir(raw)
        .extern_path(".tidegauge.stream.v1", "crate::stream::v1")
        .extern_path(".tidegauge.freshness.v1", "crate::freshness::v1")
        .extern_path(".tidegauge.ingest.v1", "crate::ingest::v1")
        .extern_path(".tidegauge.ingest.v1.PublishRequest", "crate::raw::RawPublishRequest")
        .extern_path(".tidegauge.ingest.v1.PublishStreamRequest", "crate::raw::RawPublishStreamRequest")
        .compile_fds(own)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
