//! The rules of the house, for whoever changes it: floors, who may name which dependency, sizes.

use std::{collections::HashMap, fs, path::Path};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const LINES_OF_A_FILE: usize = 400;
const LINES_OF_A_FUNCTION: usize = 70;

/// A Rust file, by its path from the root.
struct Source {
    path: String,
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    sources_of(folder, "rs")
}

fn sources_of(folder: &str, kind: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == kind) {
                let text = fs::read_to_string(&path).expect("a text");
                let path = path.strip_prefix(ROOT).expect("below the root");
                let path = path.display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    assert!(!found.is_empty());
    found
}

impl Source {
    /// `src/worker/pool.rs` → `worker`.
    fn module(&self) -> &str {
        let path = self.path.strip_prefix("src/").expect("of the library");
        path.split(['/', '.']).next().expect("a name")
    }

    fn code(&self) -> String {
        let code = |line: &&str| !line.trim_start().starts_with("//");
        self.text
            .lines()
            .filter(code)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

fn ident(text: &str) -> &str {
    let end = text.find(|char: char| !char.is_alphanumeric() && char != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The first names of all paths that start with `crate::`, one or a group.
fn imported(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let path = &code[at + start.len()..];
        let Some(group) = path.strip_prefix('{') else {
            names.push(ident(path));
            continue;
        };
        let (mut depth, mut next) = (0, true);
        for (at, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => next = true,
                char if next && char.is_alphabetic() => {
                    names.push(ident(&group[at..]));
                    next = false;
                }
                _ => {}
            }
        }
    }
    names
}

/// Module → floor, as the `# Layout` of `lib.rs` has it.
fn floors(layout: &str) -> HashMap<&str, usize> {
    let (mut floors, mut floor) = (HashMap::new(), 0);
    for line in layout.lines().filter_map(|line| line.strip_prefix("//! ")) {
        if line.starts_with("Floor ") || line.starts_with("Roof") {
            floor += 1;
        } else if let Some(item) = line.strip_prefix("- [`") {
            floors.insert(ident(item), floor);
        }
    }
    floors
}

#[test]
fn a_file_imports_only_from_its_own_floor_or_below() {
    let sources = sources("src");
    let lib = sources.iter().find(|source| source.module() == "lib");
    let lib = lib.expect("src/lib.rs");
    let floors = floors(&lib.text);
    let modules: Vec<&str> = lib
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "))
        .map(ident)
        .collect();
    assert_eq!(modules.len(), floors.len(), "the Layout lists every module");
    for source in &sources {
        let Some(floor) = floors.get(source.module()) else {
            continue;
        };
        for name in imported(&source.code()) {
            let imported = floors.get(name);
            let imported = imported.unwrap_or_else(|| panic!("{}: crate::{name}?", source.path));
            assert!(imported <= floor, "{} imports {name}", source.path);
        }
    }
}

#[test]
fn imports_are_found_alone_and_in_groups() {
    let code = "use crate::{\n    a::{self, b},\n    c_d,\n};\nuse crate::e::F; crate::g::h();";
    assert_eq!(imported(code), ["a", "c_d", "e", "g"]);
}

#[test]
fn each_service_is_named_in_one_place() {
    for (name, place) in [
        ("sqlx", "src/storage/"),
        ("lapin", "src/broker/"),
        ("backoff", "src/reconnect.rs"),
    ] {
        for source in sources("src") {
            let named = source.code().contains(&format!("{name}::"));
            assert!(!named || source.path.starts_with(place), "{}", source.path);
        }
    }
}

#[test]
fn files_and_functions_stay_short() {
    for source in sources("src").into_iter().chain(sources("tests")) {
        let lines: Vec<&str> = source.text.lines().collect();
        assert!(lines.len() <= LINES_OF_A_FILE, "{}", source.path);
        for (start, line) in lines.iter().enumerate() {
            let indent = &line[..line.len() - line.trim_start().len()];
            let is_function = line.split_whitespace().take(4).any(|word| word == "fn");
            if !is_function || line.ends_with(['}', ';']) {
                continue;
            }
            let ends = |line: &&str| line.strip_prefix(indent) == Some("}");
            let length = lines[start..].iter().position(ends);
            assert!(
                length.is_none_or(|length| length < LINES_OF_A_FUNCTION),
                "{}:{} has over {LINES_OF_A_FUNCTION} lines",
                source.path,
                start + 1
            );
        }
    }
}

#[test]
fn every_time_of_a_row_is_read_within_bounds() {
    for source in sources("src/storage") {
        let (mut of_a_row, mut last) = (false, "");
        for line in source.text.lines() {
            if line.contains("derive(") {
                of_a_row = line.contains("FromRow");
            }
            let is_time =
                line.ends_with(": OffsetDateTime,") || line.ends_with(": Option<OffsetDateTime>,");
            let bounded = last.contains("Bounded<");
            assert!(!(of_a_row && is_time) || bounded, "{}: {line}", source.path);
            (of_a_row, last) = (of_a_row && line != "}", line);
        }
    }
}

#[test]
fn no_test_sleeps() {
    for source in sources("tests") {
        for module in ["thread", "time"] {
            let sleeps = source.text.contains(&format!("{module}::sleep"));
            assert!(!sleeps, "{} sleeps instead of waiting", source.path);
        }
    }
}

#[test]
fn the_readme_names_the_two_commands() {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("a README");
    for command in ["\ndeploy/local.sh demo", "\ndeploy/local.sh test"] {
        assert!(readme.contains(command), "{command}");
    }
}

#[test]
fn one_word_stands_for_one_thing() {
    // What is said no more: pending, a duplicate, to fix, a dry run, in flight, a dead letter.
    let replaced = [
        "owed",
        "twin",
        "twins",
        "mend",
        "mends",
        "mended",
        "rehearsal",
        "prospect",
    ];
    let files = [("src", "rs"), ("src", "sql"), ("migrations", "sql")];
    for file in files
        .into_iter()
        .flat_map(|(folder, kind)| sources_of(folder, kind))
    {
        for line in file.text.lines() {
            let said = line
                .to_lowercase()
                .replace("dead letter", "")
                .replace("dead-letter", "")
                .replace("dead_letter", "");
            let mut words = said.split(|char: char| !char.is_alphabetic());
            // A letter of the alphabet is one only where glyphs are drawn.
            let is_short = |word: &str| word == "letter" || word == "letters";
            let is_short = |word: &str| is_short(word) && !file.path.ends_with("printable.rs");
            let found = words.find(|word| replaced.contains(word) || is_short(word));
            assert!(
                found.is_none() && !said.contains("in hand"),
                "{}: {line}",
                file.path
            );
        }
    }
}
