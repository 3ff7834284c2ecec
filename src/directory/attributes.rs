//! What belongs to a file beside its content: names of owners, extended attributes.

use std::collections::HashMap;
use std::io;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr, lremovexattr,
    lsetxattr,
};
use rustix::io::Errno;

use super::Dir;
use crate::format::Xattr;

/// The names of users and groups that this machine has in its own files.
#[derive(Debug, Default)]
pub struct Owners {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Owners {
    /// From `/etc/passwd` and `/etc/group`.
    pub fn of_this_machine() -> Owners {
        let read = |path| std::fs::read(path).map(|bytes| names(&bytes)).unwrap_or_default();
        Owners { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    /// A user's name.
    pub fn user(&self, uid: u32) -> Option<String> {
        self.users.get(&uid).cloned()
    }

    /// A group's name.
    pub fn group(&self, gid: u32) -> Option<String> {
        self.groups.get(&gid).cloned()
    }
}

/// Lines of `name:password:id…`.
fn names(file: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(file).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) {
            // Of several names the first is the one that is shown everywhere.
            names.entry(id).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// A file whose extended attributes are meant.
#[derive(Clone, Copy)]
enum Of<'a> {
    Open(BorrowedFd<'a>),
    /// One that cannot be opened, by a path that follows no link in its last part.
    Path(&'a str, &'a [u8]),
}

impl Of<'_> {
    fn path(&self, name: &[u8], directory: &str) -> Vec<u8> {
        [directory.as_bytes(), b"/", name].concat()
    }

    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Of::Open(file) => flistxattr(file, buffer),
            Of::Path(directory, name) => llistxattr(self.path(name, directory), buffer),
        }
    }

    fn get(&self, xattr: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Of::Open(file) => fgetxattr(file, xattr, buffer),
            Of::Path(directory, name) => lgetxattr(self.path(name, directory), xattr, buffer),
        }
    }
}

/// Reads into a buffer that is large enough: `read` says how many bytes there are.
fn whole(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match read(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    // The kernel's bound for a list and for a value.
    let mut large = vec![0; 64 << 10];
    let length = read(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// All that may be read; sorted by name.
fn read_all(of: Of<'_>) -> io::Result<Vec<Xattr>> {
    let list = match whole(|buffer| of.list(buffer)) {
        Ok(list) => list,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut xattrs = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match whole(|buffer| of.get(name, buffer)) {
            Ok(value) => xattrs.push(Xattr { name: name.to_vec(), value }),
            // Removed meanwhile, or not for us.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    xattrs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(xattrs)
}

/// The extended attributes of an open file, as far as they may be read.
pub fn xattrs_of(file: impl AsFd) -> io::Result<Vec<Xattr>> {
    read_all(Of::Open(file.as_fd()))
}

/// Gives an open file these extended attributes and no others; the names of those that were refused.
pub fn set_xattrs(file: impl AsFd, wanted: &[Xattr]) -> io::Result<Vec<Vec<u8>>> {
    let file = file.as_fd();
    let there = xattrs_of(file)?;
    let set = |xattr: &Xattr| fsetxattr(file, &xattr.name[..], &xattr.value, XattrFlags::empty());
    Ok(exchange(&there, wanted, set, |name| fremovexattr(file, name)))
}

/// Makes `wanted` of what is there; the names of those that were refused.
fn exchange(
    there: &[Xattr],
    wanted: &[Xattr],
    set: impl Fn(&Xattr) -> Result<(), Errno>,
    remove: impl Fn(&[u8]) -> Result<(), Errno>,
) -> Vec<Vec<u8>> {
    let mut refused = Vec::new();
    for xattr in wanted.iter().filter(|xattr| !there.contains(xattr)) {
        if set(xattr).is_err() {
            refused.push(xattr.name.clone());
        }
    }
    for extra in there.iter().filter(|extra| !wanted.iter().any(|xattr| xattr.name == extra.name)) {
        // What the system itself puts on every file is not the user's.
        if !extra.name.starts_with(b"security.") && remove(&extra.name).is_err() {
            refused.push(extra.name.clone());
        }
    }
    refused
}

impl Dir {
    /// A path to this directory that is short however deep it is.
    pub(super) fn short_path(&self) -> String {
        format!("/proc/self/fd/{}", self.as_fd().as_raw_fd())
    }

    /// The extended attributes of what cannot be opened to be read: links, special files, directories.
    pub fn xattrs(&self, name: &[u8]) -> io::Result<Vec<Xattr>> {
        read_all(Of::Path(&self.short_path(), name))
    }

    /// Gives what cannot be opened these extended attributes; the names of those that were refused.
    pub fn set_xattrs(&self, name: &[u8], wanted: &[Xattr]) -> io::Result<Vec<Vec<u8>>> {
        let there = self.xattrs(name)?;
        let path = [self.short_path().as_bytes(), b"/", name].concat();
        let set = |xattr: &Xattr| lsetxattr(&path[..], &xattr.name[..], &xattr.value, XattrFlags::empty());
        Ok(exchange(&there, wanted, set, |xattr| lremovexattr(&path[..], xattr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_the_first_name_of_their_id() {
        let users =
            names(b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbad\nmilvus:x:1000:1000::\n");
        assert_eq!(users.get(&0).map(String::as_str), Some("root"));
        assert_eq!(users.get(&1000).map(String::as_str), Some("milvus"));
        assert_eq!(users.len(), 2);
    }
}
