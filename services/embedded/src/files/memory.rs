//! Files in memory that misbehave on demand: for tests.
//!
//! Content and names have two states, what a running process sees and what is durable. [`MemoryFiles::power_cut`] gives
//! the disk as it might look after a power cut: every 512-byte sector, length and name that was not synced is kept or
//! lost by the throw of a coin, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{DirHandle, FileHandle, Files, Space};

const SECTOR: usize = 512;

/// What goes wrong. All off by default.
#[derive(Clone, Default, Debug)]
pub struct Faults {
    /// Bytes the disk holds; a write that does not fit is short, the next one finds no space.
    pub capacity: Option<u64>,
    /// Free bytes that [`Files::space`] reports, whatever there really is.
    pub available: Option<u64>,
    /// Most bytes that one write takes.
    pub write_bytes_max: Option<usize>,
    /// Every write fails with this kind.
    pub write_error: Option<io::ErrorKind>,
    /// Every read of this file fails with this kind.
    pub read_error: Option<(PathBuf, io::ErrorKind)>,
    /// Reads that have failed so.
    pub reads_failed: u64,
    /// Reads of this file, that are begun from now on, wait until it is another one.
    pub reads_held: Option<PathBuf>,
    /// Removing this file fails with this kind.
    pub remove_error: Option<(PathBuf, io::ErrorKind)>,
    /// Files and directories that can still be opened; then the process has no descriptor left (EMFILE).
    pub opens_left: Option<usize>,
    /// Every sync of a file fails with this kind.
    pub sync_error: Option<io::ErrorKind>,
    /// Syncs of files wait until this is false again.
    pub syncs_held: bool,
}

#[derive(Clone, Default, Debug)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty_sectors: BTreeSet<usize>,
}

impl Inode {
    fn touch(&mut self, from: usize, to: usize) {
        if from < to {
            self.dirty_sectors.extend(from / SECTOR..=(to - 1) / SECTOR);
        }
    }

    fn resize(&mut self, bytes: usize) {
        let before = self.now.len();
        self.now.resize(bytes, 0);
        self.touch(before.min(bytes), before.max(bytes));
    }

    fn sync(&mut self) {
        self.durable.resize(self.now.len(), 0);
        for sector in std::mem::take(&mut self.dirty_sectors) {
            copy_sector(&self.now, &mut self.durable, sector);
        }
    }

    fn after_power_cut(&self, coin: &mut Coin) -> Self {
        let mut kept = self.durable.clone();
        let longest = self.now.len().max(self.durable.len());
        kept.resize(longest, 0);
        for sector in self.dirty_sectors.iter().filter(|_| coin.toss()) {
            copy_sector(&self.now, &mut kept, *sector);
        }
        kept.truncate(if coin.toss() { self.now.len() } else { self.durable.len() });
        Self { now: kept.clone(), durable: kept, dirty_sectors: BTreeSet::new() }
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = (sector * SECTOR).min(to.len());
    let end = (start + SECTOR).min(to.len());
    for (at, byte) in to[start..end].iter_mut().enumerate() {
        *byte = from.get(start + at).copied().unwrap_or(0);
    }
}

/// A stream of coin throws that depends on its seed alone (splitmix64).
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) & 1 == 1
    }
}

#[derive(Clone, Default, Debug)]
struct Disk {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    faults: Faults,
    syncs_waiting: usize,
    reads_waiting: usize,
}

impl Disk {
    fn used(&self) -> u64 {
        self.names.values().map(|id| self.inodes[id].now.len() as u64).sum()
    }

    fn id(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes a descriptor.
    fn descriptor(&mut self) -> io::Result<()> {
        const EMFILE: i32 = 24;
        match &mut self.faults.opens_left {
            Some(0) => Err(io::Error::from_raw_os_error(EMFILE)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inode(&mut self, id: u64) -> &mut Inode {
        self.inodes.entry(id).or_default()
    }
}

#[derive(Default, Debug)]
struct Shared {
    disk: Mutex<Disk>,
    changed: Condvar,
}

impl Shared {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file system in memory. Clones share it.
#[derive(Clone, Default, Debug)]
pub struct MemoryFiles {
    shared: Arc<Shared>,
}

impl MemoryFiles {
    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.disk().faults);
        self.shared.changed.notify_all();
    }

    /// An independent copy of everything as a running process sees it, without faults.
    pub fn copy(&self) -> Self {
        let disk = Disk { faults: Faults::default(), ..self.shared.disk().clone() };
        Self { shared: Arc::new(Shared { disk: Mutex::new(disk), changed: Condvar::new() }) }
    }

    /// An independent copy as it might be found after a power cut now; the seed decides what of the unsynced is lost.
    pub fn power_cut(&self, seed: u64) -> Self {
        let mut coin = Coin(seed);
        let mut disk = self.shared.disk().clone();
        let mut names = disk.durable_names.clone();
        let changed: BTreeSet<_> = disk.names.keys().chain(disk.durable_names.keys()).cloned().collect();
        for path in changed {
            if disk.names.get(&path) != disk.durable_names.get(&path) && coin.toss() {
                match disk.names.get(&path) {
                    Some(id) => names.insert(path, *id),
                    None => names.remove(&path),
                };
            }
        }
        disk.inodes = disk.inodes.iter().map(|(id, inode)| (*id, inode.after_power_cut(&mut coin))).collect();
        disk.names.clone_from(&names);
        disk.durable_names = names;
        disk.faults = Faults::default();
        Self { shared: Arc::new(Shared { disk: Mutex::new(disk), changed: Condvar::new() }) }
    }

    /// Waits until a sync of a file waits for [`Faults::syncs_held`].
    pub fn await_held_sync(&self) {
        let mut disk = self.shared.disk();
        while disk.syncs_waiting == 0 || !disk.faults.syncs_held {
            disk = self.shared.changed.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until a read waits for [`Faults::reads_held`].
    pub fn await_held_read(&self) {
        let mut disk = self.shared.disk();
        while disk.reads_waiting == 0 {
            disk = self.shared.changed.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Paths of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.shared.disk().names.keys().cloned().collect()
    }

    /// Content of a file, if it exists.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let disk = self.shared.disk();
        disk.names.get(path).map(|id| disk.inodes[id].now.clone())
    }

    /// Replaces the content of a file, durably, behind the back of whoever has it open.
    pub fn replace(&self, path: &Path, content: Vec<u8>) {
        let mut disk = self.shared.disk();
        if let Some(id) = disk.names.get(path).copied() {
            let inode = Inode { now: content.clone(), durable: content, dirty_sectors: BTreeSet::new() };
            disk.inodes.insert(id, inode);
        }
    }
}

impl Files for MemoryFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut disk = self.shared.disk();
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_some_and(|dir| !disk.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.descriptor()?;
        let id = disk.next;
        disk.next += 1;
        disk.names.insert(path.to_owned(), id);
        disk.inode(id);
        Ok(Arc::new(MemoryFile { id, shared: Arc::clone(&self.shared) }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut disk = self.shared.disk();
        let id = disk.id(path)?;
        disk.descriptor()?;
        Ok(Arc::new(MemoryFile { id, shared: Arc::clone(&self.shared) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.shared.disk().dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.shared.disk();
        if !disk.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = disk.names.keys().chain(&disk.dirs).filter(|path| path.parent() == Some(dir));
        let names: BTreeSet<_> =
            here.filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.shared.disk();
        let id = disk.id(from)?;
        disk.names.remove(from);
        disk.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.shared.disk();
        disk.id(path)?;
        if let Some((_, kind)) = disk.faults.remove_error.as_ref().filter(|(failing, _)| failing == path) {
            return Err((*kind).into());
        }
        disk.names.remove(path);
        Ok(())
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn DirHandle>> {
        self.shared.disk().descriptor()?;
        Ok(Box::new(MemoryDir { path: dir.to_owned(), shared: Arc::clone(&self.shared) }))
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let disk = self.shared.disk();
        let total = disk.faults.capacity.unwrap_or(1 << 40);
        let available = disk.faults.available.unwrap_or_else(|| total.saturating_sub(disk.used()));
        Ok(Space { available, total })
    }
}

#[derive(Debug)]
struct MemoryDir {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl DirHandle for MemoryDir {
    fn sync(&self) -> io::Result<()> {
        let mut disk = self.shared.disk();
        let dir = Some(self.path.as_path());
        disk.durable_names.retain(|path, _| path.parent() != dir);
        let here: Vec<_> =
            disk.names.iter().filter(|(path, _)| path.parent() == dir).map(|(p, id)| (p.clone(), *id)).collect();
        disk.durable_names.extend(here);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    id: u64,
    shared: Arc<Shared>,
}

impl MemoryFile {
    fn write(&self, pieces: &[&[u8]], offset: u64) -> io::Result<usize> {
        let mut disk = self.shared.disk();
        if let Some(kind) = disk.faults.write_error {
            return Err(kind.into());
        }
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = pieces.concat();
        bytes.truncate(disk.faults.write_bytes_max.unwrap_or(usize::MAX));
        if let Some(capacity) = disk.faults.capacity {
            let free = usize::try_from(capacity.saturating_sub(disk.used())).unwrap_or(usize::MAX);
            let fits = (disk.inode(self.id).now.len().saturating_add(free)).saturating_sub(offset);
            if fits == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            bytes.truncate(fits);
        }
        let inode = disk.inode(self.id);
        let end = offset + bytes.len();
        if end > inode.now.len() {
            inode.resize(end);
        }
        inode.now[offset..end].copy_from_slice(&bytes);
        inode.touch(offset, end);
        Ok(bytes.len())
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.shared.disk();
        disk.syncs_waiting += 1;
        self.shared.changed.notify_all();
        while disk.faults.syncs_held {
            disk = self.shared.changed.wait(disk).unwrap_or_else(PoisonError::into_inner);
        }
        disk.syncs_waiting -= 1;
        match disk.faults.sync_error {
            Some(kind) => Err(kind.into()),
            None => {
                disk.inode(self.id).sync();
                Ok(())
            }
        }
    }
}

impl FileHandle for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.shared.disk().inode(self.id).now.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.shared.disk();
        let held = disk.faults.reads_held.clone().filter(|path| disk.names.get(path) == Some(&self.id));
        if held.is_some() {
            disk.reads_waiting += 1;
            self.shared.changed.notify_all();
            while disk.faults.reads_held == held {
                disk = self.shared.changed.wait(disk).unwrap_or_else(PoisonError::into_inner);
            }
            disk.reads_waiting -= 1;
        }
        if let Some((path, kind)) = &disk.faults.read_error
            && disk.names.get(path) == Some(&self.id)
        {
            let kind = *kind;
            disk.faults.reads_failed += 1;
            return Err(kind.into());
        }
        let content = &disk.inode(self.id).now;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let read = buffer.len().min(content.len() - start);
        buffer[..read].copy_from_slice(&content[start..start + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.write(&[bytes], offset)
    }

    fn write_vectored_at(&self, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.write(&pieces.iter().map(|piece| &**piece).collect::<Vec<_>>(), offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.shared.disk().inode(self.id).resize(bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }
}
