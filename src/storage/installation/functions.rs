//! Our functions and triggers: each has its text in one file, which the catalog is compared with.
//!
//! What the file says is all that is known of a function: nobody keeps a list of fingerprints, and whatever somebody
//! replaced or altered by hand differs from the file.

use std::{fmt, sync::LazyLock};

use sqlx::PgConnection;

use super::Inspection;
use crate::storage::StorageError;

/// Name and text of each `migrations/functions/NAME.sql`, in order (`build.rs`).
pub(in crate::storage) const FILES: &[(&str, &str)] =
    include!(concat!(env!("OUT_DIR"), "/functions.rs"));

/// A function, as its file makes it.
#[derive(Debug)]
pub struct Function {
    /// Its name; no other one of ours has it.
    pub name: &'static str,
    /// With the types of its arguments.
    pub signature: String,
    /// `migrations/functions/FILE.sql`.
    pub(in crate::storage) file: &'static str,
    /// Text and attributes, as [`COMPARE`] reads them from the catalog.
    fingerprint: String,
}

/// A trigger, as its file makes it.
#[derive(Debug)]
pub(in crate::storage) struct Trigger {
    pub(in crate::storage) name: &'static str,
    pub(in crate::storage) table: &'static str,
    /// `migrations/functions/FILE.sql`.
    pub(in crate::storage) file: &'static str,
}

/// Every function of ours.
pub static FUNCTIONS: LazyLock<Vec<Function>> = LazyLock::new(|| {
    let functions = statements().filter(|(_, kind, _)| *kind != "trigger");
    functions
        .map(|(file, kind, text)| function(file, kind, text))
        .collect()
});

/// Every trigger of ours.
pub(in crate::storage) static TRIGGERS: LazyLock<Vec<Trigger>> = LazyLock::new(|| {
    let triggers = statements().filter(|(_, kind, _)| *kind == "trigger");
    triggers
        .filter_map(|(file, _, text)| {
            let mut words = text.split_whitespace();
            let name = words.next()?;
            let table = words.skip_while(|word| *word != "on").nth(1)?;
            Some(Trigger { name, table, file })
        })
        .collect()
});

/// File, kind, and what follows.
fn statements() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    FILES.iter().flat_map(|(file, text)| {
        let statements = text.split("create or replace ").skip(1);
        statements.filter_map(move |statement| {
            let (kind, rest) = statement.split_once(' ')?;
            Some((*file, kind, rest))
        })
    })
}

/// Reads `NAME(ARGUMENTS) … as $$BODY$$`. An argument is `NAME TYPE [default …]`, or begins with `out`; no
/// default has a parenthesis.
fn function(file: &'static str, kind: &str, text: &'static str) -> Function {
    let (head, body) = text.split_once("$$").unwrap_or((text, ""));
    let body = body.split("$$").next().unwrap_or_default();
    let (name, _) = head.split_once('(').unwrap_or((head, ""));
    let head: String = head
        .lines()
        .filter_map(|line| line.split("--").next())
        .fold(String::new(), |head, line| head + line + "\n");
    let (arguments, attributes) = head[name.len()..].split_once(')').unwrap_or_default();
    let types: Vec<&str> = arguments[1..]
        .split(',')
        .map(str::trim)
        .filter(|argument| !argument.starts_with("out "))
        .filter_map(|argument| argument.split_once(' ')?.1.split(" default ").next())
        .collect();
    Function {
        name,
        signature: format!("{name}({})", types.join(",")),
        file,
        fingerprint: if kind == "aggregate" {
            "aggregate_dummy|internal|f|i".to_owned()
        } else {
            fingerprint(body, attributes)
        },
    }
}

fn fingerprint(body: &str, attributes: &str) -> String {
    let words: Vec<&str> = attributes.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    let language = words.iter().skip_while(|word| **word != "language").nth(1);
    let is_definer = if has("definer") { "t" } else { "f" };
    let volatility = match (has("immutable"), has("stable")) {
        (true, _) => "i",
        (_, true) => "s",
        _ => "v",
    };
    let mut settings: Vec<String> = words
        .windows(4)
        .filter_map(|four| match four {
            ["set", "search_path", "from", "current"] => Some("search_path pinned".to_owned()),
            ["set", name, "=", value] => Some(format!("{name}={value}")),
            _ => None,
        })
        .collect();
    settings.sort_unstable();
    let language = language.unwrap_or(&"");
    let mut fingerprint = format!("{body}|{language}|{is_definer}|{volatility}");
    if !settings.is_empty() {
        fingerprint += &format!("|{}", settings.join(","));
    }
    fingerprint
}

/// $1 signatures, $2 fingerprints; of each in order whether there is such a function, and as its file makes it: also
/// owned by whom the tables belong to, as whom it may run. A search_path is right if it is pinned to the function's own
/// schema, whatever that is called.
const COMPARE: &str = include_str!("functions.sql");

/// A function that isn't as this version makes it.
#[derive(Debug, Clone, Copy)]
pub struct StrangeFunction {
    pub function: &'static Function,
    /// There is none; else it has been altered.
    pub missing: bool,
}

impl fmt::Display for StrangeFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.missing { "missing" } else { "altered" };
        write!(f, "{} is {what}", self.function.signature)
    }
}

/// The functions that are missing or are not those of this version.
pub(in crate::storage) async fn strange_functions(
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<StrangeFunction>> {
    let fingerprints: Vec<&str> = FUNCTIONS
        .iter()
        .map(|one| one.fingerprint.as_str())
        .collect();
    let found: Vec<(bool, bool)> = sqlx::query_as(COMPARE)
        .bind(signatures())
        .bind(fingerprints)
        .fetch_all(connection)
        .await?;
    let found = FUNCTIONS.iter().zip(found);
    Ok(found
        .filter(|(_, (_, is_ours))| !is_ours)
        .map(|(function, (is_there, _))| StrangeFunction {
            function,
            missing: !is_there,
        })
        .collect())
}

/// Of each trigger whether it is enabled; `None`: there is none.
pub(in crate::storage) async fn enabled_triggers(
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<Option<bool>>> {
    let (tables, names): (Vec<&str>, Vec<&str>) =
        TRIGGERS.iter().map(|one| (one.table, one.name)).unzip();
    sqlx::query_scalar(
        "select t.tgenabled in ('O', 'A')
         from unnest($1::text[], $2::text[]) with ordinality u (relation, name, place)
         left join pg_trigger t on t.tgrelid = to_regclass(u.relation) and t.tgname = u.name
         order by u.place",
    )
    .bind(tables)
    .bind(names)
    .fetch_all(connection)
    .await
}

/// Of every function.
pub(super) fn signatures() -> Vec<&'static str> {
    FUNCTIONS.iter().map(|one| one.signature.as_str()).collect()
}

/// The signature of the function of that name.
pub(super) fn signature(name: &'static str) -> &'static str {
    let function = FUNCTIONS.iter().find(|one| one.name == name);
    function.map_or(name, |one| one.signature.as_str())
}

impl Inspection {
    /// The functions that are missing or have been altered.
    pub async fn strange_functions(&mut self) -> Result<Vec<StrangeFunction>, StorageError> {
        self.ask(strange_functions).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_the_function_of_its_name() {
        for (name, _) in FILES {
            assert!(signature(name).contains('('), "{name}");
        }
    }

    #[test]
    fn what_a_file_says_is_read() {
        let text = "f(p_a text[], p_b jsonb default '{}', -- a, b\n out c int) returns int\nlanguage sql stable \
                    security definer\nset search_path from current\nset jit = off as $$ 1 $$;";
        let function = function("f", "function", text);
        assert_eq!(function.signature, "f(text[],jsonb)");
        assert_eq!(
            function.fingerprint,
            " 1 |sql|t|s|jit=off,search_path pinned"
        );
    }
}
