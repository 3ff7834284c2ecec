//! The floors: a module uses only modules on floors below its own. And the bounds that keep rooms
//! readable: files, functions, what may not panic, what stays in one room.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up. A room may use itself and every room in a line above its own.
/// Within floors 0 and 5 the lines are an order of their own.
const FLOORS: &[(&str, &[&str])] = &[
    ("0", &["fault"]),
    ("0", &["mutex"]),
    ("0", &["progress"]),
    ("0", &["memory"]),
    ("0", &["context"]),
    ("0", &["pool"]),
    ("0", &["id"]),
    ("0", &["lifeline"]),
    ("0", &["secret"]),
    ("1", &["format", "sorter", "etcd", "selection"]),
    ("2", &["storage", "etcd_file", "collection", "directory"]),
    ("3", &["store"]),
    ("4", &["tree", "source", "target"]),
    ("5", &["repository"]),
    ("5", &["proof", "milvus"]),
    ("6", &["backup", "restore", "check", "browse", "prune"]),
    ("6", &["forget"]),
    ("7", &["guard"]),
    ("8", &["cli"]),
    ("9", &["main"]),
];

/// Only declares the rooms.
const ROOF: &str = "lib";

/// Crates that only these rooms may name.
const CONFINED: &[(&str, &[&str])] = &[
    ("anyhow", &["cli", "main"]),
    ("bincode", &["format"]),
    ("clap", &["cli", "main"]),
    ("console", &["cli"]),
    ("indicatif", &["cli"]),
    ("rocksdb", &["store"]),
    ("rpassword", &["cli"]),
];

const MOST_FILE_LINES: usize = 600;
const MOST_FUNCTION_LINES: usize = 70;

/// What code that handles bytes from outside does not say.
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "unreachable!"];

/// This room and those on floors below it answer with an error.
const TOP_WITHOUT_PANIC: &str = "milvus";

/// (file, a part of the line, why it cannot happen)
const MAY_PANIC: &[(&str, &str, &str)] = &[
    ("context.rs", "getrandom::fill", "nothing safe can follow without randomness"),
    ("secret.rs", "UnboundKey::new", "fails only for a wrong length, which the type rules out"),
    ("secret.rs", "sealed.expect", "fails only above 64 GiB"),
    ("format/mod.rs", "encoded.expect", "fails only for types that the format does not use"),
    ("tree/nodes.rs", "NonZeroUsize::new(512)", "a constant, judged by the compiler"),
];

/// A file of the program, without its tests.
struct Source {
    /// Below `src/`.
    path: String,
    /// Comments and what is in quotes are blanks.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.into(), code: blank(without_tests(text)) }
    }

    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules deep the file is: 1 for `x.rs` and `x/mod.rs`, 2 for `x/y.rs`.
    fn depth(&self) -> usize {
        self.path.split('/').filter(|part| *part != "mod.rs").count()
    }
}

/// Rooms keep their tests at the end.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

/// The same lines with blanks for comments, strings and characters, so that only code is judged.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    while code.len() < bytes.len() {
        let rest = &bytes[code.len()..];
        let after_word = code.last().is_some_and(|b: &u8| b.is_ascii_alphanumeric() || *b == b'_');
        let length = quiet_length(rest, after_word);
        let quiet = rest[..length].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' });
        code.extend(quiet);
        if length == 0 {
            code.push(rest[0]);
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// How many bytes at the begin of `rest` are a comment, a string or a character; 0 for code.
fn quiet_length(rest: &[u8], after_word: bool) -> usize {
    let until = |end: &[u8], from: usize| {
        let found = rest[from..].windows(end.len()).position(|w| w == end);
        found.map_or(rest.len(), |at| from + at + end.len())
    };
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'r', more @ ..] if !after_word => {
            let hashes = more.iter().take_while(|b| **b == b'#').count();
            let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
            if more.get(hashes) == Some(&b'"') { until(&end, hashes + 2) } else { 0 }
        }
        [b'b', b'r', b'"' | b'#', ..] if !after_word => 1,
        [b'"', ..] => 1 + end_of_string(&rest[1..]),
        [b'\'', b'\\', _, ..] => until(b"'", 3),
        // A lifetime has no second quote near.
        [b'\'', first, ..] => {
            // UTF-8 says its width in its first byte.
            let width = first.leading_ones().max(1) as usize;
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn end_of_string(rest: &[u8]) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    rest.len().min(at + 1)
}

/// Words, `::`, and every other visible character by itself, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            tokens.push((number + 1, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// The first names of the path or group of paths that begins at `at`.
fn first_names<'a>(tokens: &[(usize, &'a str)], at: usize) -> Vec<(usize, &'a str)> {
    let Some(&(line, first)) = tokens.get(at) else { return Vec::new() };
    if first != "{" {
        return vec![(line, first)];
    }
    let (mut names, mut depth, mut expected) = (Vec::new(), 0, true);
    for &(line, token) in &tokens[at..] {
        match token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => expected = true,
            name if expected => {
                names.push((line, name));
                expected = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// Every room that `source` names, with the line. A way out of the room by `super` is told as
/// `super`: rooms are named from the crate's root, where they are seen.
fn rooms_named(source: &Source) -> Vec<(usize, String)> {
    let tokens = tokens(&source.code);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token| token.1 == text);
    let mut named = Vec::new();
    for at in 0..tokens.len() {
        let begins = at == 0 || !is(at - 1, "::");
        if (is(at, "crate") || is(at, "icecore")) && is(at + 1, "::") {
            named.extend(first_names(&tokens, at + 2));
        } else if is(at, "super") && begins {
            let supers = (0..).take_while(|n| is(at + 2 * n, "super") && is(at + 2 * n + 1, "::")).count();
            if supers >= source.depth() {
                named.push(tokens[at]);
            }
        }
    }
    named.into_iter().map(|(line, name)| (line, name.to_owned())).collect()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, rooms)| rooms.contains(&room))
}

fn wrong_uses(source: &Source) -> Vec<String> {
    let own = source.room();
    let mut wrong = Vec::new();
    for (line, name) in rooms_named(source) {
        let says = |why: String| format!("src/{}:{line}: {own} {why}", source.path);
        match (floor(own), floor(&name)) {
            _ if name == own => {}
            (None, _) => wrong.push(says("is on no floor".into())),
            (_, None) => wrong.push(says(format!("names {name:?}, which is no room"))),
            (Some(here), Some(there)) if there >= here => {
                let way = if there == here { "sideways" } else { "upward" };
                let (here, there) = (FLOORS[here].0, FLOORS[there].0);
                wrong.push(says(format!("(floor {here}) uses {name} (floor {there}): {way}")));
            }
            _ => {}
        }
    }
    wrong
}

fn wrong_crates(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, token) in tokens(&source.code) {
        let confined = CONFINED.iter().find(|(name, _)| *name == token);
        if confined.is_some_and(|(_, rooms)| !rooms.contains(&source.room())) {
            wrong.push(format!("src/{}:{line}: {token} is not for {}", source.path, source.room()));
        }
    }
    wrong
}

/// (line, name, lines) of every function with a body.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let tokens = tokens(code);
    let mut functions = Vec::new();
    for at in 0..tokens.len() {
        let Some(&(_, name)) = tokens.get(at + 1) else { break };
        let named = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        if tokens[at].1 != "fn" || !named {
            continue;
        }
        let (mut round, mut braces) = (0, 0);
        for &(line, token) in &tokens[at..] {
            match token {
                "(" | "[" => round += 1,
                ")" | "]" => round -= 1,
                // A declaration in a trait.
                ";" if round == 0 && braces == 0 => break,
                "{" => braces += 1,
                "}" => braces -= 1,
                _ => {}
            }
            if token == "}" && braces == 0 {
                functions.push((tokens[at].0, name.to_owned(), line - tokens[at].0 + 1));
                break;
            }
        }
    }
    functions
}

/// (line, its code) of everything that can panic in an avoidable way.
fn panics(code: &str) -> Vec<(usize, &str)> {
    let avoidable = |line: &str| {
        // A progress display is told what to expect.
        let line = line.replace("progress.expect(", "");
        PANICS.iter().any(|word| line.contains(word))
    };
    code.lines().enumerate().filter(|(_, line)| avoidable(line)).map(|(n, line)| (n + 1, line)).collect()
}

fn rust_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// (path below `src/`, text) of every file.
fn texts() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    let text = |path: PathBuf| {
        let below = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        (below, fs::read_to_string(&path).unwrap())
    };
    files.into_iter().map(text).collect()
}

fn sources() -> Vec<Source> {
    texts().iter().map(|(path, text)| Source::new(path, text)).collect()
}

fn fail_on(wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn a_room_uses_only_floors_below_its_own() {
    fail_on(sources().iter().filter(|s| s.room() != ROOF).flat_map(wrong_uses));
}

#[test]
fn every_room_stands_on_a_floor() {
    let rooms = sources();
    let homeless = rooms.iter().filter(|s| s.room() != ROOF && floor(s.room()).is_none());
    fail_on(homeless.map(|s| format!("src/{}: {} is in no line of FLOORS", s.path, s.room())));
}

#[test]
fn the_command_line_is_out_of_the_librarys_reach() {
    let rooms = sources();
    let declares_cli = |path: &str| {
        let file = rooms.iter().find(|s| s.path == path).unwrap();
        tokens(&file.code).windows(2).any(|pair| pair[0].1 == "mod" && pair[1].1 == "cli")
    };
    assert!(!declares_cli("lib.rs"));
    let there = rooms.iter().any(|s| s.room() == "cli");
    assert_eq!(declares_cli("main.rs"), there);
}

#[test]
fn some_crates_are_confined_to_one_room() {
    fail_on(sources().iter().flat_map(wrong_crates));
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        let code = without_tests(&text);
        let lines = code.lines().count();
        if lines > MOST_FILE_LINES {
            wrong.push(format!("src/{path}: {lines} lines without its tests"));
        }
        let tests = &text[code.len()..];
        if tests.find("\n}\n").is_some_and(|end| !tests[end + 3..].trim().is_empty()) {
            wrong.push(format!("src/{path}: its tests are not at its end"));
        }
    }
    fail_on(wrong);
}

#[test]
fn no_function_is_too_long_to_read() {
    let mut wrong = Vec::new();
    for source in sources() {
        let long = functions(&source.code).into_iter().filter(|(_, _, lines)| *lines > MOST_FUNCTION_LINES);
        let told =
            long.map(|(line, name, lines)| format!("src/{}:{line}: {name}, {lines} lines", source.path));
        wrong.extend(told);
    }
    fail_on(wrong);
}

#[test]
fn what_handles_bytes_from_outside_does_not_panic() {
    let mut wrong = Vec::new();
    let mut used = vec![0; MAY_PANIC.len()];
    for (path, text) in texts() {
        let source = Source::new(&path, &text);
        if source.room() == ROOF || floor(source.room()) > floor(TOP_WITHOUT_PANIC) {
            continue;
        }
        for (number, line) in panics(&source.code) {
            match MAY_PANIC.iter().position(|(file, part, _)| *file == path && line.contains(part)) {
                Some(allowed) => used[allowed] += 1,
                None => wrong.push(format!("src/{path}:{number}: {}", line.trim())),
            }
        }
    }
    let stale = MAY_PANIC.iter().zip(used).filter(|(_, used)| *used != 1);
    let told =
        stale.map(|((file, part, _), used)| format!("MAY_PANIC: {part:?} is {used} times in src/{file}"));
    wrong.extend(told);
    fail_on(wrong);
}

/// One line for each way to name a room.
const MADE_UP: &str = r####"//! crate::cli in a comment is none.
use crate::format::Root;
use crate::{tree, repository::{self, Repository}, backup::Report as Made};
use crate::storage::Storage;
pub(crate) fn made_up<'a>(x: &'a str) -> crate::restore::Report {
    let text = "crate::cli"; /* crate::cli */ let c = '"';
    let raw = r#"crate::cli " crate::cli"#; let b = b"crate::cli\"";
    $crate::check::run(crate ::
        forget::run(text, c, super::sibling(), super::super::store::get()))
}
use crate::nowhere;
use crate::*;
#[cfg(test)]
mod tests {
    use crate::cli;
}
"####;

#[test]
fn the_scanner_sees_every_way_to_name_a_room() {
    let wrong = wrong_uses(&Source::new("store/made_up.rs", MADE_UP));
    let expected = [
        "3: store (floor 3) uses tree (floor 4): upward",
        "3: store (floor 3) uses repository (floor 5): upward",
        "3: store (floor 3) uses backup (floor 6): upward",
        "5: store (floor 3) uses restore (floor 6): upward",
        "8: store (floor 3) uses check (floor 6): upward",
        "9: store (floor 3) uses forget (floor 6): upward",
        "9: store names \"super\", which is no room",
        "11: store names \"nowhere\", which is no room",
        "12: store names \"*\", which is no room",
    ];
    assert_eq!(wrong, expected.map(|line| format!("src/store/made_up.rs:{line}")));
    let sideways = wrong_uses(&Source::new("target/mod.rs", "use crate::source::Error;\nuse super::tree;\n"));
    assert_eq!(sideways[0], "src/target/mod.rs:1: target (floor 4) uses source (floor 4): sideways");
    assert_eq!(sideways[1], "src/target/mod.rs:2: target names \"super\", which is no room");
    let ground = wrong_uses(&Source::new("context.rs", "use crate::progress::Silent;\nuse crate::id::draw;"));
    assert_eq!(ground, ["src/context.rs:2: context (floor 0) uses id (floor 0): upward"]);
    let program =
        wrong_uses(&Source::new("cli/mod.rs", "use icecore::{backup, tree};\nuse crate::cli::text;"));
    assert!(program.is_empty());
    let homeless = wrong_uses(&Source::new("attic.rs", "use crate::id;"));
    assert_eq!(homeless, ["src/attic.rs:1: attic is on no floor"]);
}

#[test]
fn the_scanner_sees_confined_crates() {
    let source = Source::new("check/mod.rs", "fn f() -> anyhow::Result<()> { bincode() } // clap");
    assert_eq!(wrong_crates(&source).len(), 2);
}

#[test]
fn the_scanner_measures_functions() {
    let code = "trait T {\n    fn declared(&self) -> [u8; 3];\n}\nfn short<const N: usize>() { if a { b } }\n\
                fn long(\n    f: fn(u8) -> u8,\n) {\n    loop {\n    }\n}\n";
    assert_eq!(functions(code), [(4, "short".into(), 1), (5, "long".into(), 6)]);
}

#[test]
fn the_scanner_sees_what_can_panic() {
    let text = "a.unwrap();\nb.unwrap_or(1); // .unwrap()\nc.expect(\"todo!\");\nself.progress.expect(n);\n\
                todo!()\nlet s = \"panic!\";\npanic!(\"x\")\n";
    let code = blank(text);
    assert_eq!(panics(&code).iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3, 5, 7]);
}
