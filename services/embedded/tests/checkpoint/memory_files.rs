//! Files in memory that know what is durable, and that crash after the n-th operation.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tidegauge_embedded::checkpoint::files::{StateFiles, SyncNames, WriteFile};

/// What a crash leaves of that which was not synced.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Leftovers {
    /// Nothing: neither bytes nor names.
    Nothing,
    /// All of it.
    Everything,
    /// All names, but of the bytes only the first half of those not synced.
    HalfTheBytes,
}

#[derive(Clone, Default, Debug)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Default, Debug)]
struct Disk {
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    operations: usize,
    crash_at: Option<usize>,
    opens_left: Option<usize>,
}

impl Disk {
    /// Counts a changing operation; after the crash none works.
    fn operate(&mut self) -> io::Result<()> {
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("crashed"));
        }
        self.operations += 1;
        Ok(())
    }

    /// Takes a descriptor, if there is one.
    fn descriptor(&mut self) -> io::Result<()> {
        match &mut self.opens_left {
            Some(0) => Err(io::Error::from_raw_os_error(24)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// A disk in memory; clones share it.
#[derive(Clone, Default, Debug)]
pub(crate) struct MemoryFiles(Arc<Mutex<Disk>>);

impl MemoryFiles {
    /// Changing operations so far.
    pub(crate) fn operations(&self) -> usize {
        self.disk(|disk| disk.operations)
    }

    /// Lets every operation after this many fail.
    pub(crate) fn crash_at(&self, operations: usize) {
        self.disk(|disk| disk.crash_at = Some(operations));
    }

    /// Lets so many files and directories be opened; then there is no descriptor (EMFILE). None: as many as one likes.
    pub(crate) fn opens_left(&self, opens: Option<usize>) {
        self.disk(|disk| disk.opens_left = opens);
    }

    /// The disk as a restart finds it.
    pub(crate) fn after_crash(&self, leftovers: Leftovers) -> Self {
        let mut disk = self.disk(|disk| disk.clone());
        disk.crash_at = None;
        if leftovers == Leftovers::Nothing {
            disk.live = disk.durable.clone();
        }
        for Inode { live, durable } in &mut disk.inodes {
            match leftovers {
                Leftovers::Nothing => *live = durable.clone(),
                Leftovers::Everything => {}
                Leftovers::HalfTheBytes if live.starts_with(durable) => {
                    live.truncate(durable.len() + (live.len() - durable.len()) / 2);
                }
                Leftovers::HalfTheBytes => *live = durable.clone(),
            }
            *durable = live.clone();
        }
        disk.durable = disk.live.clone();
        Self(Arc::new(Mutex::new(disk)))
    }

    /// Another disk with the same content.
    pub(crate) fn copy(&self) -> Self {
        self.after_crash(Leftovers::Everything)
    }

    /// Every file with its content.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.disk(|disk| {
            disk.live.iter().map(|(path, &inode)| (path.clone(), disk.inodes[inode].live.clone())).collect()
        })
    }

    /// Overwrites a file, for damage.
    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        self.disk(|disk| {
            let inode = disk.live[path];
            disk.inodes[inode] = Inode { durable: bytes.clone(), live: bytes };
        });
    }

    fn disk<T>(&self, work: impl FnOnce(&mut Disk) -> T) -> T {
        work(&mut self.0.lock().expect("lock"))
    }
}

struct MemoryFile {
    files: MemoryFiles,
    inode: usize,
}

impl WriteFile for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.disk(|disk| {
            disk.operate()?;
            disk.inodes[self.inode].live.extend(bytes);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.files.disk(|disk| {
            disk.operate()?;
            let inode = &mut disk.inodes[self.inode];
            inode.durable = inode.live.clone();
            Ok(())
        })
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl StateFiles for MemoryFiles {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.disk(Disk::operate)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |path: &PathBuf| path.file_name().expect("named").to_str().expect("text").to_owned();
        Ok(self.disk(|disk| disk.live.keys().filter(|path| path.parent() == Some(dir)).map(name).collect()))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        self.disk(|disk| {
            disk.descriptor()?;
            disk.operate()?;
            let inode = disk.inodes.len();
            disk.inodes.push(Inode::default());
            disk.live.insert(path.to_owned(), inode);
            Ok(Box::new(MemoryFile { files: self.clone(), inode }) as Box<dyn WriteFile>)
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        self.disk(|disk| {
            disk.descriptor()?;
            let inode = disk.live.get(path).ok_or_else(not_found)?;
            Ok(Box::new(Cursor::new(disk.inodes[*inode].live.clone())) as Box<dyn Read + Send>)
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk(|disk| {
            disk.operate()?;
            let inode = disk.live.remove(from).ok_or_else(not_found)?;
            disk.live.insert(to.to_owned(), inode);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk(|disk| {
            disk.operate()?;
            disk.live.remove(path).map(|_| ()).ok_or_else(not_found)
        })
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn SyncNames>> {
        self.disk(Disk::descriptor)?;
        Ok(Box::new(MemoryNames { files: self.clone(), dir: dir.to_owned() }))
    }
}

struct MemoryNames {
    files: MemoryFiles,
    dir: PathBuf,
}

impl SyncNames for MemoryNames {
    fn sync(&self) -> io::Result<()> {
        self.files.disk(|disk| {
            disk.operate()?;
            let dir = Some(self.dir.as_path());
            disk.durable.retain(|path, _| path.parent() != dir);
            let now = disk.live.iter().filter(|(path, _)| path.parent() == dir);
            disk.durable.extend(now.map(|(path, inode)| (path.clone(), *inode)));
            Ok(())
        })
    }
}
