//! Tests of the workspace itself: import directions, bans, and words that must not stay in committed code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies below the root").to_owned()
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names under `[dependencies]` (not dev-dependencies: tests may look further) of a member.
fn dependencies(folder: &str) -> BTreeSet<String> {
    match manifest(folder).get("dependencies").and_then(toml::Value::as_table) {
        Some(table) => table.keys().cloned().collect(),
        None => BTreeSet::new(),
    }
}

/// Who may import whom (ARCHITECTURE.md, "Crates"): the whole list, so that a new arrow is a decision.
#[test]
fn crates_import_only_in_the_allowed_directions() {
    let backends_free = ["tidegauge-core", "tidegauge-auth", "tidegauge-proto", "tidegauge-rpc"];
    let mut allowed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    allowed.insert("services/core", vec![]);
    allowed.insert("proto", vec!["tidegauge-core"]);
    allowed.insert("services/auth", vec!["tidegauge-core"]);
    allowed.insert("services/lake", vec!["tidegauge-core"]);
    allowed.insert("services/embedded", vec!["tidegauge-core", "tidegauge-lake"]);
    allowed.insert("services/rpc", vec!["tidegauge-core", "tidegauge-auth", "tidegauge-proto"]);
    allowed.insert("services/ingest", backends_free.to_vec());
    allowed.insert("services/hot-metric", backends_free.to_vec());
    for lake_user in ["services/aggregation", "services/historical-query"] {
        allowed.insert(lake_user, [&backends_free[..], &["tidegauge-lake"]].concat());
    }
    allowed.insert("clients/rust", vec!["tidegauge-proto"]);

    for (folder, allowed) in &allowed {
        for dependency in dependencies(folder).iter().filter(|d| d.starts_with("tidegauge")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{folder} must not import {dependency}; it may: {allowed:?}"
            );
        }
    }

    let everything =
        ["tidegauge".to_owned(), "xtask".to_owned(), "tidegauge-harness".to_owned(), "tidegauge-tests".to_owned()];
    let members = manifest(".")["workspace"]["members"].as_array().expect("members is a list").clone();
    for member in members {
        let folder = member.as_str().expect("members are texts").to_owned();
        let name = manifest(&folder)["package"]["name"].as_str().expect("a package has a name").to_owned();
        assert!(
            allowed.contains_key(folder.as_str()) || everything.contains(&name),
            "{folder} is a new crate: say in this test what it may import"
        );
    }
}

/// Heavy or far-reaching libraries stay where they belong.
#[test]
fn libraries_stay_in_their_crates() {
    let rules: [(&str, &[&str]); 6] = [
        ("datafusion", &["services/historical-query"]),
        ("fjall", &["services/embedded"]),
        ("jsonwebtoken", &["services/auth"]),
        ("tonic-reflection", &["services/rpc"]),
        ("sysinfo", &["services/tidegauge"]),
        ("arrow-flight", &["services/historical-query", "clients/rust"]),
    ];
    let members = manifest(".")["workspace"]["members"].as_array().expect("members is a list").clone();
    for member in &members {
        let folder = member.as_str().expect("members are texts");
        let dependencies = dependencies(folder);
        for (library, homes) in rules {
            assert!(
                !dependencies.contains(library) || homes.contains(&folder),
                "{library} does not belong into {folder}"
            );
        }
        assert!(
            !dependencies.iter().any(|d| d.starts_with("aws-")) || folder == "services/aws",
            "aws-* crates belong into services/aws"
        );
    }
    let core = dependencies("services/core");
    for banned in ["tokio", "tonic", "arrow", "datafusion"] {
        assert!(!core.contains(banned), "core stays free of {banned}");
    }
}

/// Every crate takes the workspace's lints and versions.
#[test]
fn members_inherit_lints_and_versions() {
    let members = manifest(".")["workspace"]["members"].as_array().expect("members is a list").clone();
    for member in &members {
        let folder = member.as_str().expect("members are texts");
        let manifest = manifest(folder);
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{folder} must inherit the lints");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for (name, value) in table {
                let inherited = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                assert!(
                    inherited,
                    "{folder}: {name} must be `workspace = true`, so that one version and feature set is built"
                );
            }
        }
    }
}

/// Decision cores know no runtime, clock or I/O.
#[test]
fn decision_cores_are_pure() {
    let banned = [
        "tokio",
        "async_trait",
        "async fn",
        "std::fs",
        "std::net",
        "std::thread",
        "std::time::Instant",
        "SystemTime",
        "tonic::",
        ".await",
    ];
    let mut seen = 0;
    for crate_folder in ["services/ingest", "services/aggregation", "services/hot-metric", "services/historical-query"]
    {
        let source = root().join(crate_folder).join("src");
        let mut files = Vec::new();
        rust_files(&source, &mut files);
        // Below the crate: a clone may lie in a folder of any name.
        let below = |file: &Path| file.strip_prefix(&source).expect("found in it").to_owned();
        let within = |file: &Path, folder: &str| below(file).components().any(|c| c.as_os_str() == folder);
        for file in files.iter().filter(|file| within(file, "decide") && !within(file, "tests")) {
            seen += 1;
            let text = std::fs::read_to_string(file).expect("a source file is readable");
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                for word in banned {
                    assert!(!line.contains(word), "{}:{}: {word} in a decision core", file.display(), number + 1);
                }
            }
        }
    }
    assert!(seen > 3, "only {seen} files of decision cores were found: the test looks in the wrong place");
}

/// Whoever reads `/metrics` is told what each figure is, also those that appear only when something goes wrong.
#[test]
fn every_metric_is_described() {
    let (mut named, mut described) = (BTreeSet::new(), BTreeSet::new());
    let mut files = Vec::new();
    for service in std::fs::read_dir(root().join("services")).expect("there are services") {
        let folder = service.expect("a folder can be read").path();
        // The binary only reads them.
        if !folder.ends_with("tidegauge") {
            rust_files(&folder.join("src"), &mut files);
        }
    }
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for (at, _) in text.match_indices("\"tidegauge_") {
            let name = text[at + 1..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
            let before = text[..at].trim_end();
            let describes = ["counter", "gauge", "histogram"].map(|kind| format!("describe_{kind}!("));
            let is_described = describes.iter().any(|call| before.ends_with(call));
            if is_described { &mut described } else { &mut named }.insert(name);
        }
    }
    assert!(named.len() > 40, "only {} metrics were found: the test looks in the wrong place", named.len());
    let mute: Vec<&String> = named.difference(&described).collect();
    assert!(mute.is_empty(), "say in their crate's meters.rs what they are: {mute:?}");
    let unknown: Vec<&String> = described.difference(&named).collect();
    assert!(unknown.is_empty(), "described and not measured: {unknown:?}");
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}
