//! What the documents show works as it stands there: SQL runs, commands can be parsed, and what is named exists.

use std::{fs, path::Path};

use clap::{Parser as _, error::ErrorKind};
use serde_json::Value;
use sqlx::{AssertSqlSafe, types::Json};
use token_billing::cli::Cli;

use crate::support::ledger::Ledger;

const DOCUMENTS: [&str; 6] = [
    "README.md",
    "CHANGELOG.md",
    "deploy/RUNBOOK.md",
    "deploy/REFERENCE.md",
    "deploy/ARCHITECTURE.md",
    ".github/CONTRIBUTING.md",
];
const LINES_OF_THE_README: usize = 160;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn exists(path: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()
}

/// What stands between `start` and the next `end`, each time.
fn between<'t>(text: &'t str, start: &str, end: &str) -> Vec<&'t str> {
    let pieces = text.split(start).skip(1);
    pieces
        .map(|piece| piece.split(end).next().expect("at least one"))
        .collect()
}

/// All of the code in the lines of a document, without its fenced blocks.
fn inline_code(text: &str) -> Vec<String> {
    let mut fenced = false;
    let prose = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    let prose: Vec<&str> = prose.collect();
    let code = prose.join("\n");
    let pieces = code.split('`').skip(1).step_by(2);
    pieces.map(|piece| piece.replace('\n', " ")).collect()
}

/// The words of each `token-billing …` that a document shows, up to whatever the shell does with it.
fn commands(text: &str) -> Vec<Vec<String>> {
    let shown = between(text, "```sh\n", "```").join("\n");
    let shown = shown.replace("\\\n", " ");
    let lines = shown.lines().map(str::to_owned).chain(inline_code(text));
    let commands = lines.filter(|line| line.starts_with("token-billing ") && !line.contains('…'));
    commands.map(|line| words(&line)).collect()
}

fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for char in format!("{line} ").chars() {
        match (quote, char) {
            (Some(open), _) if open == char => quote = None,
            (None, '\'' | '"') => quote = Some(char),
            (None, ' ') if word.is_empty() => {}
            (None, ' ') if ["#", "|", ">", "&&"].contains(&word.as_str()) => break,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            _ => word.push(char),
        }
    }
    let filled = words.into_iter().map(|word| match word.as_str() {
        "COMPANY" | "JOB_ID" => "3f2b8c1e-0a4d-4d7e-9b0a-2f6c1d5e7a90".to_owned(),
        "ID" => "17".to_owned(),
        _ => word,
    });
    filled.collect()
}

/// A heading as links name it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().chars();
    let kept = kept.filter(|char| char.is_alphanumeric() || [' ', '-', '_'].contains(char));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[tokio::test]
async fn the_sql_of_the_reference_runs_as_pasted() {
    let ledger = Ledger::open().await;
    let (readme, reference) = (read("README.md"), read("deploy/REFERENCE.md"));
    // The company that the README makes.
    let companies = between(&readme, "deploy/local.sh psql -c \"", "\"\n");
    assert!(!companies.is_empty());
    for insert in companies {
        ledger.execute(insert).await;
    }
    let examples = between(&reference, "```sql\n", "```");
    assert_eq!(examples.len(), 3, "charge, credit, refund");
    for example in examples {
        // Pasted twice it does it once.
        for idempotent in [false, true] {
            let answer = sqlx::query_scalar(AssertSqlSafe(example.trim().trim_end_matches(';')))
                .fetch_one(ledger.pool())
                .await;
            let Json(answer): Json<Value> =
                answer.unwrap_or_else(|error| panic!("{example}: {error}"));
            assert_eq!(answer["success"], true, "{answer:#}");
            assert_eq!(answer["idempotent"], idempotent, "{answer:#}");
        }
    }
}

#[tokio::test]
async fn the_reference_names_every_table_and_view_that_there_is_to_read() {
    let ledger = Ledger::open().await;
    let reference = read("deploy/REFERENCE.md");
    let (_, section) = reference
        .split_once("### Tables and views")
        .expect("its section");
    let (section, _) = section.split_once("\n#").expect("one after it");
    let firsts = section.lines().filter_map(|row| row.strip_prefix("| `"));
    let firsts = firsts.map(|row| row.split(" |").next().expect("a column"));
    let named: Vec<&str> = firsts
        .flat_map(|first| first.split("`, `"))
        .map(|name| name.trim_end_matches('`'))
        .collect();
    let there: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relnamespace = current_schema()::regnamespace and relkind in ('r', 'v')",
    )
    .fetch_all(ledger.pool())
    .await
    .expect("the catalogue");
    for name in &named {
        assert!(there.iter().any(|there| there == name), "{name}");
    }
    let internal = [
        "_sqlx_migrations",
        "token_billing_locks",
        "token_billing_trial_ends",
        "token_billing_trials",
        "token_billing_version",
    ];
    let lacking: Vec<&String> = there
        .iter()
        .filter(|name| !named.contains(&name.as_str()) && !internal.contains(&name.as_str()))
        .collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}

#[test]
fn every_command_that_a_document_shows_can_be_typed() {
    let mut tried = 0;
    for document in DOCUMENTS {
        for command in commands(&read(document)) {
            let parsed = Cli::try_parse_from(&command);
            // A sentence may name a command alone.
            let alone = |error: &clap::Error| {
                error.kind() == ErrorKind::MissingRequiredArgument && command.len() <= 3
            };
            let problem = parsed.err().filter(|error| !alone(error));
            let problem = problem.map(|error| error.to_string());
            assert_eq!(problem, None, "{document}: {}", command.join(" "));
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    for document in DOCUMENTS {
        let text = read(document);
        for link in between(&text, "](", ")") {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(document).parent().expect("a folder");
            let target = match path {
                "" => document.to_owned(),
                path => folder.join(path).display().to_string(),
            };
            assert!(exists(&target), "{document}: {link}");
            let target = read(&target);
            let mut headings = target.lines().filter(|line| line.starts_with('#'));
            let found = heading.is_empty() || headings.any(|line| anchor(line) == heading);
            assert!(found, "{document}: {link}");
        }
    }
}

#[test]
fn every_file_verb_and_setting_that_a_document_names_exists() {
    let (settings, local) = (read("deploy/token-billing.toml"), read("deploy/local.sh"));
    let keys: Vec<String> = settings
        .split("\n[")
        .skip(1)
        .flat_map(|section| {
            let (name, keys) = section.split_once(']').expect("a section");
            let keys = keys.lines().filter_map(|line| line.strip_prefix("# "));
            let keys = keys.filter_map(|line| line.split_once(" = "));
            keys.map(move |(key, _)| format!("{name}.{key}"))
        })
        .collect();
    let is_section = |name: &str| settings.contains(&format!("\n[{name}]"));
    for document in DOCUMENTS {
        let text = read(document);
        let shown = between(&text, "```sh\n", "```").join("\n");
        let shown = shown.lines().map(str::to_owned);
        for code in inline_code(&text).into_iter().chain(shown) {
            let mut words = code.split([' ', ')']);
            let name = words.next().unwrap_or_default();
            let names_a_file = ["src/", "migrations/", "tests/", "deploy/", ".ci/"];
            if names_a_file.iter().any(|folder| name.starts_with(folder)) {
                let there = exists(name) || name.contains("NAME");
                assert!(there, "{document}: {name}");
            }
            if name == "deploy/local.sh" {
                let verb = words.next().unwrap_or("help");
                let named = local.contains(&format!("#   deploy/local.sh {verb} "))
                    || local.contains(&format!("#   deploy/local.sh {verb}\n"));
                assert!(named, "{document}: {code}");
            }
            if let Some((section, _)) = name.split_once('.')
                && is_section(section)
            {
                assert!(keys.iter().any(|key| key == name), "{document}: {name}");
            }
        }
    }
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= LINES_OF_THE_README, "{lines} lines");
}
