//! Conformance of a lake store.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;

use crate::lake::{Expected, LakeStore, ObjectVersion, StoreError};

/// Makes the stores that the suite tests.
#[async_trait]
pub trait Backend: Send + Sync {
    /// A store without objects, apart from all others.
    async fn empty(&self) -> Arc<dyn LakeStore>;
    /// The same content after a restart. The suite holds no other reference to the store.
    async fn reopen(&self, store: Arc<dyn LakeStore>) -> Arc<dyn LakeStore>;
}

/// Runs every test of the suite.
pub async fn all(backend: &dyn Backend) {
    conditions_decide(&*backend.empty().await).await;
    one_of_many_wins(&*backend.empty().await).await;
    no_update_is_lost(&*backend.empty().await).await;
    readers_see_whole_objects(&*backend.empty().await).await;
    a_pinned_object_stays(&*backend.empty().await).await;
    lists_go_by_prefix(&*backend.empty().await).await;
    deleting_is_idempotent(&*backend.empty().await).await;
    bad_paths_are_refused(&*backend.empty().await).await;
    a_restart_changes_nothing(backend).await;
}

async fn put(store: &dyn LakeStore, path: &str, content: impl Into<Bytes>) -> ObjectVersion {
    let expected = match store.get(path).await.expect("get") {
        Some((_, version)) => Expected::Version(version),
        None => Expected::Absent,
    };
    store.replace(path, &expected, content.into()).await.expect("replace")
}

async fn content_of(store: &dyn LakeStore, path: &str) -> Option<Bytes> {
    store.get(path).await.expect("get").map(|(content, _)| content)
}

async fn paths(store: &dyn LakeStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.expect("list").into_iter().map(|object| object.path).collect()
}

fn is_conflict(result: &Result<ObjectVersion, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

/// Drives futures side by side and returns their results in order.
async fn together<'a, T>(work: Vec<Pin<Box<dyn Future<Output = T> + Send + 'a>>>) -> Vec<T> {
    let mut work: Vec<_> = work.into_iter().map(|future| (future, None)).collect();
    poll_fn(|context| {
        for (future, done) in work.iter_mut().filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(result) = future.as_mut().poll(context) {
                *done = Some(result);
            }
        }
        if work.iter().all(|(_, done)| done.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    work.into_iter().filter_map(|(_, done)| done).collect()
}

/// A replace happens exactly when what it expects stands there; otherwise nothing changes. Versions tell contents apart.
async fn conditions_decide(store: &dyn LakeStore) {
    let path = "a/b/object";
    assert!(store.get(path).await.expect("get").is_none());
    assert!(store.open(path).await.expect("open").is_none());
    let made_up = Expected::Version(ObjectVersion("made up".to_owned()));
    assert!(is_conflict(&store.replace(path, &made_up, Bytes::from_static(b"x")).await), "nothing stands there");

    let first = store.replace(path, &Expected::Absent, Bytes::from_static(b"first")).await.expect("creates");
    assert_eq!(store.get(path).await.expect("get"), Some((Bytes::from_static(b"first"), first.clone())));
    assert!(is_conflict(&store.replace(path, &Expected::Absent, Bytes::from_static(b"x")).await), "something does");
    assert!(is_conflict(&store.replace(path, &made_up, Bytes::from_static(b"x")).await), "another version does");

    // The same length, so that length alone cannot tell.
    let now = Expected::Version(first.clone());
    let second = store.replace(path, &now, Bytes::from_static(b"other")).await.expect("replaces");
    assert_ne!(first, second);
    assert!(is_conflict(&store.replace(path, &now, Bytes::from_static(b"x")).await), "an earlier version");
    assert_eq!(store.get(path).await.expect("get"), Some((Bytes::from_static(b"other"), second.clone())));

    let empty = store.replace(path, &Expected::Version(second), Bytes::new()).await.expect("an empty object");
    assert_eq!(store.get(path).await.expect("get"), Some((Bytes::new(), empty)));
}

/// Of replaces that race with the same expectation exactly one wins, and its content is what stands there.
async fn one_of_many_wins(store: &dyn LakeStore) {
    let mut expected = Expected::Absent;
    for round in 0..20_u8 {
        let race = (0..8_u8).map(|racer| {
            let content = Bytes::from(vec![round, racer]);
            let expected = expected.clone();
            Box::pin(async move { store.replace("race/object", &expected, content).await }) as _
        });
        let results = together::<Result<ObjectVersion, StoreError>>(race.collect()).await;
        let winners: Vec<usize> = (0..results.len()).filter(|racer| results[*racer].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let losers = results.iter().filter(|result| is_conflict(result)).count();
        assert_eq!(losers, 7, "round {round}: {results:?}");
        let (content, version) = store.get("race/object").await.expect("get").expect("an object");
        assert_eq!(&content[..], [round, winners[0] as u8]);
        expected = Expected::Version(version);
    }
}

/// Writers that read, change and replace, and repeat on a conflict, lose no change.
async fn no_update_is_lost(store: &dyn LakeStore) {
    const WRITERS: u64 = 4;
    const CHANGES: u64 = 12;
    let writers = (0..WRITERS).map(|_| {
        Box::pin(async move {
            let mut done = 0;
            while done < CHANGES {
                let (count, expected) = match store.get("counter").await.expect("get") {
                    Some((content, version)) => {
                        let text = std::str::from_utf8(&content).expect("a whole text").to_owned();
                        (text.parse::<u64>().expect("a number"), Expected::Version(version))
                    }
                    None => (0, Expected::Absent),
                };
                match store.replace("counter", &expected, (count + 1).to_string().into()).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Conflict(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        }) as _
    });
    together::<()>(writers.collect()).await;
    let total = (WRITERS * CHANGES).to_string();
    assert_eq!(content_of(store, "counter").await.as_deref(), Some(total.as_bytes()));
}

/// Readers during replaces see one whole version, never a mixture and never nothing; lists show the object once.
async fn readers_see_whole_objects(store: &dyn LakeStore) {
    const PATH: &str = "whole/object";
    // Every content repeats its number, at a length that follows from it.
    let content = |number: u8| Bytes::from(vec![number; 1 + usize::from(number) * 3_001]);
    let check = move |found: &Bytes| {
        let number = *found.first().expect("not empty");
        assert!(*found == content(number), "{} bytes, the first is {number}", found.len());
    };
    put(store, PATH, content(0)).await;
    let mut work: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = vec![Box::pin(async move {
        for number in 1..=60 {
            put(store, PATH, content(number)).await;
        }
    })];
    for _ in 0..3 {
        work.push(Box::pin(async move {
            for _ in 0..60 {
                check(&content_of(store, PATH).await.expect("never nothing"));
                let pinned = store.open(PATH).await.expect("open").expect("never nothing");
                let half = pinned.bytes() / 2;
                let head = pinned.read(0..half).await.expect("read");
                let tail = pinned.read(half..pinned.bytes()).await.expect("read");
                check(&[head, tail].concat().into());
                assert_eq!(paths(store, "whole/").await, [PATH]);
            }
        }));
    }
    together(work).await;
}

/// An object that is open can be read to its end after it was replaced and deleted.
async fn a_pinned_object_stays(store: &dyn LakeStore) {
    put(store, "pin/object", "the first content").await;
    let pinned = store.open("pin/object").await.expect("open").expect("an object");
    assert_eq!(pinned.bytes(), 17);
    put(store, "pin/object", "the second").await;
    assert_eq!(pinned.read(4..9).await.expect("after a replace"), "first");
    store.delete("pin/object").await.expect("delete");
    assert_eq!(pinned.read(0..17).await.expect("after a delete"), "the first content");
    assert_eq!(pinned.read(17..17).await.expect("an empty range"), "");
    #[expect(clippy::reversed_empty_ranges, reason = "a range that is refused")]
    for outside in [0..18, 18..19, 9..4] {
        let read = pinned.read(outside.clone()).await;
        assert!(matches!(read, Err(StoreError::Invalid(_))), "{outside:?}: {read:?}");
    }
}

/// A prefix is a beginning of the text of paths, not a folder; results are sorted and carry sizes.
async fn lists_go_by_prefix(store: &dyn LakeStore) {
    assert!(paths(store, "").await.is_empty());
    let all = ["a", "ab/c", "b/1/x", "b/1/y", "b/10/x", "b/2/x", "b-/x"];
    for path in all.iter().rev() {
        put(store, path, *path).await;
    }
    let cases: [(&str, &[&str]); 9] = [
        ("", &["a", "ab/c", "b-/x", "b/1/x", "b/1/y", "b/10/x", "b/2/x"]),
        ("a", &["a", "ab/c"]),
        ("ab/", &["ab/c"]),
        ("b/", &["b/1/x", "b/1/y", "b/10/x", "b/2/x"]),
        ("b/1", &["b/1/x", "b/1/y", "b/10/x"]),
        ("b/1/", &["b/1/x", "b/1/y"]),
        ("b/1/x", &["b/1/x"]),
        ("b/1/x/", &[]),
        ("c/d/", &[]),
    ];
    for (prefix, expected) in cases {
        assert_eq!(paths(store, prefix).await, expected, "{prefix:?}");
    }
    let sizes = store.list("b/1/").await.expect("list").into_iter().map(|object| object.bytes);
    assert_eq!(sizes.collect::<Vec<_>>(), [5, 5]);
    let folders: [(&str, &[&str]); 4] = [("b/", &["1", "10", "2"]), ("b/1/", &[]), ("ab/", &[]), ("c/d/", &[])];
    for (prefix, expected) in folders {
        assert_eq!(store.folders(prefix).await.expect("folders"), expected, "{prefix:?}");
    }
}

/// A deleted object is gone for get, open and list, its path can be used again, and deleting nothing is no error.
async fn deleting_is_idempotent(store: &dyn LakeStore) {
    store.delete("d/none").await.expect("nothing to delete");
    let version = put(store, "d/object", "x").await;
    for _ in 0..2 {
        store.delete("d/object").await.expect("delete");
        assert!(content_of(store, "d/object").await.is_none());
        assert!(store.open("d/object").await.expect("open").is_none());
        assert!(paths(store, "d/").await.is_empty());
    }
    let expected = Expected::Version(version);
    assert!(is_conflict(&store.replace("d/object", &expected, Bytes::from_static(b"y")).await));
    put(store, "d/object", "z").await;
    assert_eq!(content_of(store, "d/object").await.as_deref(), Some(&b"z"[..]));
}

/// Paths that could leave the store, hide an object or mean two things are refused by every method.
async fn bad_paths_are_refused(store: &dyn LakeStore) {
    let too_long = "x/".repeat(600) + "x";
    let bad =
        ["", "/", "/a", "a/", "a//b", "..", "a/../b", ".", "./a", "a/.hidden", ".hidden/a", "a\nb", "a\0b", &too_long];
    for path in bad {
        let content = Bytes::from_static(b"x");
        let refused = [
            store.get(path).await.err(),
            store.open(path).await.err(),
            store.replace(path, &Expected::Absent, content).await.err(),
            store.delete(path).await.err(),
        ];
        for (method, refused) in refused.iter().enumerate() {
            assert!(matches!(refused, Some(StoreError::Invalid(_))), "{path:?}, method {method}: {refused:?}");
        }
    }
    for prefix in ["/", "/a", "..", "../", "a/../", "a//", ".hidden", "a/.h"] {
        let listed = store.list(prefix).await;
        assert!(matches!(listed, Err(StoreError::Invalid(_))), "{prefix:?}: {listed:?}");
    }
    assert!(paths(store, "").await.is_empty());
}

/// Contents and versions are the same after a restart.
async fn a_restart_changes_nothing(backend: &dyn Backend) {
    let store = backend.empty().await;
    let kept = put(&*store, "r/kept", vec![7; 200_000]).await;
    put(&*store, "r/gone", "x").await;
    store.delete("r/gone").await.expect("delete");
    let store = backend.reopen(store).await;
    assert_eq!(paths(&*store, "").await, ["r/kept"]);
    let (content, version) = store.get("r/kept").await.expect("get").expect("an object");
    assert!(content == vec![7; 200_000]);
    assert_eq!(version, kept);
    store.replace("r/kept", &Expected::Version(kept), Bytes::from_static(b"new")).await.expect("the version holds");
}
