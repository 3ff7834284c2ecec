//! Which beginnings of keys weigh most.

/// Levels of `/` looked at.
const DEPTH: usize = 2;
/// Prefixes that are kept.
const MOST: usize = 10;

/// Keys that share a beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// The beginning, up to and with a `/`.
    pub prefix: Vec<u8>,
    /// How many keys.
    pub count: u64,
    /// Bytes behind them.
    pub bytes: u64,
}

/// Finds the largest prefixes among keys that come in order; holds those alone.
pub struct Prefixes {
    /// What "large" means.
    by: fn(&Prefix) -> u64,
    /// The prefixes of the last key, by their depth.
    open: [Option<Prefix>; DEPTH],
    largest: Vec<Prefix>,
}

/// The beginning of `key` with `depth` components; a slash at the very beginning ends none.
fn beginning(key: &[u8], depth: usize) -> Option<&[u8]> {
    let slashes = key.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &key[..=at]).nth(depth - 1)
}

impl Prefixes {
    /// Of none yet; `by` is what they are compared by.
    pub fn new(by: fn(&Prefix) -> u64) -> Prefixes {
        Prefixes { by, open: [const { None }; DEPTH], largest: Vec::new() }
    }

    /// The next key.
    pub fn add(&mut self, key: &[u8], bytes: u64) {
        for depth in 0..DEPTH {
            let prefix = beginning(key, depth + 1);
            if self.open[depth].as_ref().map(|open| &open.prefix[..]) != prefix {
                self.close(depth);
                self.open[depth] =
                    prefix.map(|prefix| Prefix { prefix: prefix.to_vec(), count: 0, bytes: 0 });
            }
            if let Some(open) = &mut self.open[depth] {
                open.count += 1;
                open.bytes += bytes;
            }
        }
    }

    fn close(&mut self, depth: usize) {
        self.largest.extend(self.open[depth].take());
        if self.largest.len() >= 100 * MOST {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        let by = self.by;
        self.largest.sort_by(|a, b| by(b).cmp(&by(a)).then_with(|| a.prefix.cmp(&b.prefix)));
        self.largest.truncate(MOST);
    }

    /// The largest, largest first.
    pub fn finish(mut self) -> Vec<Prefix> {
        (0..DEPTH).for_each(|depth| self.close(depth));
        self.shrink();
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_prefixes_of_both_depths_come_first() {
        let mut prefixes = Prefixes::new(|prefix| prefix.bytes);
        for (key, bytes) in [("/r/pods/a", 5), ("/r/pods/b", 6), ("/r/x", 1), ("a/b/c/d", 3), ("top", 99)] {
            prefixes.add(key.as_bytes(), bytes);
        }
        let found: Vec<(String, u64, u64)> = prefixes
            .finish()
            .into_iter()
            .map(|p| (String::from_utf8(p.prefix).unwrap(), p.count, p.bytes))
            .collect();
        let expected = [("/r/", 3, 12), ("/r/pods/", 2, 11), ("a/", 1, 3), ("a/b/", 1, 3)];
        assert_eq!(found, expected.map(|(prefix, count, bytes)| (prefix.to_owned(), count, bytes)));
    }

    #[test]
    fn many_prefixes_leave_the_ten_largest() {
        let mut prefixes = Prefixes::new(|prefix| prefix.bytes);
        for n in 0..5000u64 {
            prefixes.add(format!("{n:04}/x").as_bytes(), n * 7919 % 5000);
        }
        let found = prefixes.finish();
        assert_eq!(found.iter().map(|p| p.bytes).collect::<Vec<_>>(), (4990..5000).rev().collect::<Vec<_>>());
    }
}
