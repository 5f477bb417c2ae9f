//! The decisions know no clock, no I/O and no runtime.

use std::path::Path;

#[test]
fn decisions_are_pure() {
    const BANNED: [&str; 15] = [
        "async",
        "await",
        "tokio",
        "futures",
        "tonic::",
        "std::fs",
        "std::io",
        "std::net",
        "std::thread",
        "Instant",
        "SystemTime",
        "core::clock",
        "getrandom",
        "rand::",
        "tracing",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![root.join("decide.rs")];
    let mut folders = vec![root.join("decide")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 10);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for banned in BANNED {
                assert!(!line.contains(banned), "{}: {line}", file.display());
            }
        }
    }
}
