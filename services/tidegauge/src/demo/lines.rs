//! Lines to copy: the same data from a shell and from Python.

use std::path::Path;

/// The lines, ready to be pasted into another terminal opened in the same folder.
pub(super) fn copyable(endpoint: &str, token_file: &Path) -> Vec<String> {
    let token_file = token_file.display().to_string();
    let program = program();
    let address = endpoint.trim_start_matches("http://");
    let mut lines = vec![
        "Tenant local is this machine; sample-shop and sample-factory are synthetic.".to_owned(),
        "In another terminal, in this folder:".to_owned(),
        String::new(),
    ];
    lines.push(format!("  export TIDEGAUGE_TOKEN=$(cat {})", for_shell(&token_file)));
    if endpoint != "http://127.0.0.1:7171" {
        lines.push(format!("  export TIDEGAUGE_ENDPOINT={endpoint}"));
    }
    lines.push(format!("  {program} watch --tenant local"));
    lines.push(format!(
        "  {program} query --tenant local \"SELECT metric_name, window_start, event_count, avg_value FROM dashboard_metrics ORDER BY window_start DESC LIMIT 20\""
    ));
    lines.push(format!(
        "  {program} query --tenant sample-shop \"SELECT hour, SUM(event_count) FROM dashboard_metrics GROUP BY hour ORDER BY hour\""
    ));
    lines.push(String::new());
    lines.push("From Python (pip install adbc-driver-flightsql pyarrow):".to_owned());
    lines.push(String::new());
    // At the margin: to Python a pasted line that is indented is an error.
    lines.extend([
        "import adbc_driver_flightsql.dbapi as flightsql".to_owned(),
        format!("token = open({token_file:?}).read()"),
        format!(
            "db = flightsql.connect('grpc://{address}', autocommit=True, db_kwargs={{'adbc.flight.sql.authorization_header': 'Bearer ' + token, 'adbc.flight.sql.rpc.call_header.x-tenant-id': 'local'}})"
        ),
        "cursor = db.cursor()".to_owned(),
        "cursor.execute('SELECT metric_name, SUM(event_count) FROM dashboard_metrics GROUP BY metric_name')".to_owned(),
        "print(cursor.fetch_arrow_table())".to_owned(),
    ]);
    lines
}

/// How this program is called again: through cargo if cargo runs it, otherwise by its own path.
fn program() -> String {
    if std::env::var_os("CARGO_MANIFEST_DIR").is_some() {
        return "cargo run -q --".to_owned();
    }
    std::env::current_exe().map_or_else(|_| "tidegauge".to_owned(), |path| for_shell(&path.display().to_string()))
}

/// A word that a shell takes as it stands.
fn for_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line works as it stands: the token's file, and the address where it is not the usual one; Python's lines begin at
    /// the margin.
    #[test]
    fn lines_name_token_and_address() {
        let usual = copyable("http://127.0.0.1:7171", Path::new("./d/demo-token"));
        let python = usual.iter().position(|line| line.starts_with("import ")).expect("Python's lines");
        assert!(usual[python..].iter().all(|line| !line.starts_with(' ')), "{usual:?}");
        let usual = usual.join("\n");
        assert!(usual.contains("$(cat ./d/demo-token)") && !usual.contains("TIDEGAUGE_ENDPOINT"), "{usual}");
        let moved = copyable("http://127.0.0.1:7173", Path::new("./d/demo-token")).join("\n");
        assert!(moved.contains("export TIDEGAUGE_ENDPOINT=http://127.0.0.1:7173"), "{moved}");
        assert!(moved.contains("grpc://127.0.0.1:7173"), "{moved}");
        let spaced = copyable("http://127.0.0.1:7171", Path::new("./my data/it's")).join("\n");
        assert!(spaced.contains(r"$(cat './my data/it'\''s')"), "{spaced}");
        assert!(spaced.contains(r#"open("./my data/it's")"#), "{spaced}");
    }
}
