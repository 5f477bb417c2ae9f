//! The local lake store passes the conformance suite; a full disk, a kill at any step and a failed directory sync leave
//! whole objects only.
#![allow(clippy::disallowed_methods, reason = "tests run processes and threads of their own")]

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tidegauge_core::conformance::lake::{self, Backend};
use tidegauge_core::descriptors::DescriptorBudget;
use tidegauge_core::lake::{Expected, LakeStore, StoreError};
use tidegauge_embedded::lake_store::{LocalLakeStore, Probe, Step};

/// Stores in directories of one temporary folder.
struct Local {
    folder: tempfile::TempDir,
    made: Mutex<u32>,
}

impl Local {
    fn open(&self) -> Arc<dyn LakeStore> {
        let name = self.made.lock().expect("lock").to_string();
        Arc::new(LocalLakeStore::open(self.folder.path().join("lakes").join(name)).expect("opens"))
    }
}

#[async_trait]
impl Backend for Local {
    async fn empty(&self) -> Arc<dyn LakeStore> {
        *self.made.lock().expect("lock") += 1;
        self.open()
    }

    async fn reopen(&self, store: Arc<dyn LakeStore>) -> Arc<dyn LakeStore> {
        drop(store);
        self.open()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let folder = tempfile::tempdir().expect("folder");
    lake::all(&Local { folder, made: Mutex::new(0) }).await;
}

/// A probe that fails one step on paths that contain a text, or kills the process there.
#[derive(Debug, Default)]
struct Fault(Mutex<Option<(Step, &'static str, Failure)>>);

#[derive(Clone, Copy, Debug)]
enum Failure {
    /// ENOSPC.
    Full,
    /// EIO.
    Broken,
    /// The process ends at once, as with kill -9.
    Kill,
}

impl Probe for Fault {
    fn before(&self, step: Step, path: &Path) -> io::Result<()> {
        match *self.0.lock().expect("lock") {
            Some((at, text, failure)) if at == step && path.to_string_lossy().contains(text) => match failure {
                Failure::Full => Err(io::Error::from_raw_os_error(28)),
                Failure::Broken => Err(io::Error::from_raw_os_error(5)),
                Failure::Kill => kill_myself(),
            },
            _ => Ok(()),
        }
    }
}

fn kill_myself() -> ! {
    let _ = Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
    loop {
        std::thread::park();
    }
}

fn temporaries(root: &Path) -> usize {
    std::fs::read_dir(root.join(".tmp")).expect("the directory of temporary files").count()
}

/// A full disk is told as such at every step that takes room, the old object stays, and nothing is left behind.
#[tokio::test]
async fn a_full_disk_changes_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let fault = Arc::new(Fault::default());
    let store = LocalLakeStore::open_probed(folder.path(), fault.clone()).expect("opens");
    let version = store.replace("a/old", &Expected::Absent, Bytes::from_static(b"old")).await.expect("creates");
    for step in [Step::CreateDirectory, Step::CreateTemporary, Step::Write, Step::SyncFile, Step::Rename] {
        *fault.0.lock().expect("lock") = Some((step, "", Failure::Full));
        let new = store.replace("b/c/new", &Expected::Absent, Bytes::from_static(b"new")).await;
        assert!(matches!(new, Err(StoreError::Full(_))), "{step:?}: {new:?}");
        if step != Step::CreateDirectory {
            let expected = Expected::Version(version.clone());
            let replaced = store.replace("a/old", &expected, Bytes::from_static(b"new")).await;
            assert!(matches!(replaced, Err(StoreError::Full(_))), "{step:?}: {replaced:?}");
        }
        assert_eq!(temporaries(folder.path()), 0, "{step:?}");
    }
    *fault.0.lock().expect("lock") = None;
    let listed = store.list("").await.expect("list");
    assert_eq!(listed.iter().map(|object| object.path.as_str()).collect::<Vec<_>>(), ["a/old"]);
    assert_eq!(store.get("a/old").await.expect("get"), Some((Bytes::from_static(b"old"), version)));
    store.replace("b/c/new", &Expected::Absent, Bytes::from_static(b"new")).await.expect("room again");
}

/// A store that only reads sees what the writer does, refuses to write and leaves the writer's temporary files alone.
#[tokio::test]
async fn a_reader_disturbs_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let absent = LocalLakeStore::open_reader(folder.path().join("lake"));
    assert!(absent.list("").await.expect("list").is_empty());
    assert!(absent.get("a").await.expect("get").is_none());

    let writer = LocalLakeStore::open(folder.path().join("lake")).expect("opens");
    let version = writer.replace("a", &Expected::Absent, Bytes::from_static(b"x")).await.expect("creates");
    let left = folder.path().join("lake/.tmp/left");
    std::fs::write(&left, "of a replace under way").expect("write");
    let reader = LocalLakeStore::open_reader(folder.path().join("lake"));
    assert_eq!(reader.get("a").await.expect("get"), Some((Bytes::from_static(b"x"), version)));
    assert_eq!(reader.list("").await.expect("list").len(), 1);
    assert!(left.exists());
    let refused = reader.replace("b", &Expected::Absent, Bytes::new()).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    assert!(matches!(reader.delete("a").await, Err(StoreError::Invalid(_))));

    drop(writer);
    LocalLakeStore::open(folder.path().join("lake")).expect("opens again");
    assert!(!left.exists(), "the next writer removes what the last one left");
}

/// Contents of the killed process: the number of the replace, then a length that follows from it, all bytes alike.
fn content(number: u32) -> Bytes {
    let length = 5 + number as usize % 7 * 9_001;
    let mut content = vec![number as u8; length];
    content[..4].copy_from_slice(&number.to_le_bytes());
    content.into()
}

fn number_of(found: &[u8]) -> u32 {
    let number = u32::from_le_bytes(found[..4].try_into().expect("four bytes"));
    assert!(content(number) == found, "{} bytes of object {number}", found.len());
    number
}

/// After kill -9 during replaces every object is whole, none that was acknowledged is lost, and nothing else is listed.
#[tokio::test]
async fn a_kill_leaves_whole_objects() {
    let folder = tempfile::tempdir().expect("folder");
    let mut acknowledged = [0_u32; OBJECTS as usize];
    for round in 0..6_usize {
        let mut child = child(folder.path(), "replace", &[]);
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let enough = 25 + round * 11;
        for _ in 0..enough {
            let line = lines.next().expect("the child goes on").expect("a line");
            let Some((object, number)) = line.strip_prefix("done ").and_then(|rest| rest.split_once(' ')) else {
                continue;
            };
            let known = &mut acknowledged[object.parse::<usize>().expect("object")];
            *known = (*known).max(number.parse().expect("number"));
        }
        child.kill().expect("kill -9");
        child.wait().expect("ends");

        let store = LocalLakeStore::open(folder.path()).expect("opens");
        assert_eq!(temporaries(folder.path()), 0);
        for object in store.list("").await.expect("list") {
            assert!(object.path.starts_with("hour/"), "{}", object.path);
        }
        for (object, known) in acknowledged.iter().enumerate().filter(|(_, known)| **known > 0) {
            let (found, _) = store.get(&path_of(object as u32)).await.expect("get").expect("an object");
            assert!(number_of(&found) >= *known, "object {object} lost replace {known}");
        }
    }
    assert!(acknowledged.iter().any(|known| *known > 1), "{acknowledged:?}");
}

/// A kill before any step of a replace leaves the old object or the new one, and the next process goes on.
#[tokio::test]
async fn a_kill_at_every_step_leaves_the_old_or_the_new() {
    let steps = ["CreateDirectory", "CreateTemporary", "Write", "SyncFile", "Rename", "SyncDirectory"];
    for step in steps {
        let folder = tempfile::tempdir().expect("folder");
        let store = LocalLakeStore::open(folder.path()).expect("opens");
        let first = path_of(0);
        if step != "CreateDirectory" {
            store.replace(&first, &Expected::Absent, content(1)).await.expect("creates");
        }
        drop(store);
        let ended = child(folder.path(), "step", &[("LAKE_STEP", step)]).wait().expect("ends");
        assert_eq!(signal(ended), Some(9), "{step}: {ended}");
        let store = LocalLakeStore::open(folder.path()).expect("opens");
        assert_eq!(temporaries(folder.path()), 0);
        let found = store.get(&first).await.expect("get");
        let expected = match step {
            "CreateDirectory" => None,
            "SyncDirectory" => Some(2),
            _ => Some(1),
        };
        assert_eq!(found.as_ref().map(|(found, _)| number_of(found)), expected, "{step}");
        let expected = found.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
        store.replace(&first, &expected, content(3)).await.expect("the next process goes on");
    }
}

/// A directory that cannot be opened, as for want of a descriptor, refuses the write before anything has changed, and the
/// same write is taken later; nothing aborts.
#[tokio::test]
async fn a_directory_that_cannot_be_opened_refuses() {
    let folder = tempfile::tempdir().expect("folder");
    let fault = Arc::new(Fault::default());
    let store = LocalLakeStore::open_probed(folder.path(), fault.clone()).expect("opens");
    let refuse = |refuses: bool| {
        *fault.0.lock().expect("lock") = refuses.then_some((Step::OpenDirectory, "", Failure::Broken));
    };
    refuse(true);
    let refused = store.replace(&path_of(0), &Expected::Absent, content(1)).await;
    assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    refuse(false);
    let version = store.replace(&path_of(0), &Expected::Absent, content(1)).await.expect("creates");
    let expected = Expected::Version(version);
    refuse(true);
    let refused = store.replace(&path_of(0), &expected, content(2)).await;
    assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
    assert!(matches!(store.delete(&path_of(0)).await, Err(StoreError::Io { .. })));
    refuse(false);
    store.replace(&path_of(0), &expected, content(2)).await.expect("what was refused has changed nothing");
    store.delete(&path_of(0)).await.expect("deletes");
    assert_eq!(temporaries(folder.path()), 0);
}

/// Whatever queries hold open, a lake that is being written finds its descriptors; one object too many is refused by name.
#[tokio::test]
async fn open_objects_take_no_descriptor_from_writes() {
    let folder = tempfile::tempdir().expect("folder");
    let budget = DescriptorBudget::divide(256, 4).expect("enough");
    let store = LocalLakeStore::open_within(folder.path(), &budget).expect("opens");
    let version = store.replace("a", &Expected::Absent, content(1)).await.expect("creates");
    let mut held = Vec::new();
    for _ in 0..budget.lake_objects {
        held.push(store.open("a").await.expect("opens").expect("there"));
    }
    let refused = store.open("a").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    store.replace("a", &Expected::Version(version), content(2)).await.expect("replaces");
    drop(held.pop());
    assert!(store.open("a").await.expect("opens").is_some());
}

/// After a directory could not be synced nobody knows what is durable: the process aborts.
#[test]
fn a_failed_directory_sync_aborts() {
    let folder = tempfile::tempdir().expect("folder");
    let ended = child(folder.path(), "abort", &[]).wait().expect("ends");
    assert_eq!(signal(ended), Some(6), "{ended}");
}

const OBJECTS: u32 = 5;

fn path_of(object: u32) -> String {
    format!("hour/day={object}/object")
}

fn signal(ended: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    ended.signal()
}

/// Runs this test executable again, as the process that is killed.
fn child(root: &Path, role: &str, environment: &[(&str, &str)]) -> std::process::Child {
    Command::new(std::env::current_exe().expect("this executable"))
        .args(["--exact", "as_child", "--nocapture"])
        .env("LAKE_ROLE", role)
        .env("LAKE_ROOT", root)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts")
}

/// What the killed process does: [`child`] runs it alone, in a process of its own, and says by the environment what to do.
/// Among the other tests it has nothing to do.
#[tokio::test]
async fn as_child() {
    let (Ok(role), Ok(root)) = (std::env::var("LAKE_ROLE"), std::env::var("LAKE_ROOT")) else {
        return;
    };
    let fault = Arc::new(Fault::default());
    let store = LocalLakeStore::open_probed(&root, fault.clone()).expect("opens");
    match role.as_str() {
        "replace" => replace_for_ever(&store).await,
        "abort" => {
            *fault.0.lock().expect("lock") = Some((Step::SyncDirectory, "", Failure::Broken));
            let _ = store.replace("a", &Expected::Absent, Bytes::new()).await;
        }
        _ => {
            let step = match std::env::var("LAKE_STEP").expect("a step").as_str() {
                "CreateDirectory" => Step::CreateDirectory,
                "CreateTemporary" => Step::CreateTemporary,
                "Write" => Step::Write,
                "SyncFile" => Step::SyncFile,
                "Rename" => Step::Rename,
                _ => Step::SyncDirectory,
            };
            // The read syncs the directories, so that the step below is one of the replace.
            let current = store.get(&path_of(0)).await.expect("get");
            *fault.0.lock().expect("lock") = Some((step, "", Failure::Kill));
            let expected = current.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
            let _ = store.replace(&path_of(0), &expected, content(2)).await;
        }
    }
}

async fn replace_for_ever(store: &LocalLakeStore) {
    for number in 1_u32.. {
        for object in 0..OBJECTS {
            let current = store.get(&path_of(object)).await.expect("get");
            let next = current.as_ref().map_or(number, |(found, _)| number_of(found) + 1);
            let expected = current.map_or(Expected::Absent, |(_, version)| Expected::Version(version));
            store.replace(&path_of(object), &expected, content(next)).await.expect("replaces");
            println!("done {object} {next}");
            io::stdout().flush().expect("flush");
        }
    }
}
