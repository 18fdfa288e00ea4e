//! What a role needs. This list is all there is: what `migrate --print-grants` prints, and what `doctor`
//! holds a role to.

use std::fmt;

use clap::ValueEnum;

use super::functions::signature;

/// What a database role is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Running serve, all roles of it
    #[default]
    Serve,
    /// Running the commands that people use
    Operator,
    /// Running serve --role http, and nothing else
    Http,
}

impl Purpose {
    /// As it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Operator => "operator",
            Self::Http => "http",
        }
    }
}

/// On what a right is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A table or view; of it these columns, or all if there are none.
    Table(&'static str, &'static [&'static str]),
    /// A function, by its name.
    Function(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub struct Grant {
    /// `select`, `execute`, …
    pub privilege: &'static str,
    pub object: Object,
    purposes: &'static [Purpose],
    why: &'static str,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.object {
            Object::Table(name, []) => write!(f, "{} on {name}", self.privilege),
            Object::Table(name, columns) => {
                write!(f, "{} ({}) on {name}", self.privilege, columns.join(", "))
            }
            Object::Function(name) => {
                write!(f, "{} on function {}", self.privilege, signature(name))
            }
        }
    }
}

const SERVE: &[Purpose] = &[Purpose::Serve];
const OPERATOR: &[Purpose] = &[Purpose::Operator];
const HTTP: &[Purpose] = &[Purpose::Http];
/// What people may do is asked of the commands, and of the calls.
const ASKED: &[Purpose] = &[Purpose::Operator, Purpose::Http];
const ALL: &[Purpose] = &[Purpose::Serve, Purpose::Operator, Purpose::Http];
const SWEEPING: &[Purpose] = &[Purpose::Serve, Purpose::Operator];

const fn table(
    privilege: &'static str,
    name: &'static str,
    columns: &'static [&'static str],
    purposes: &'static [Purpose],
    why: &'static str,
) -> Grant {
    Grant {
        privilege,
        object: Object::Table(name, columns),
        purposes,
        why,
    }
}

const fn function(name: &'static str, purposes: &'static [Purpose], why: &'static str) -> Grant {
    Grant {
        privilege: "execute",
        object: Object::Function(name),
        purposes,
        why,
    }
}

/// Rights that belong together stand together: a reason that repeats the one above is printed once.
pub(super) const GRANTS: &[Grant] = &[
    table(
        "select",
        "_sqlx_migrations",
        &["version", "success", "checksum"],
        ALL,
        VERSION,
    ),
    table("select", "token_billing_version", &[], ALL, VERSION),
    table(
        "select",
        "token_deduction_records",
        &["status", "created_at", "pending_since", "error_code"],
        SERVE,
        STATE,
    ),
    table(
        "select",
        "token_usage_logs",
        &["created_at", "token_amount"],
        SERVE,
        STATE,
    ),
    table(
        "select",
        "token_holds",
        &["status", "expires_at"],
        SERVE,
        STATE,
    ),
    table(
        "select",
        "dead_letters",
        &["id", "state", "archived_at"],
        SERVE,
        STATE,
    ),
    function("charge_events", SERVE, WORKER),
    function("mark_events_pending", SERVE, WORKER),
    function("archive_dead_letters", SERVE, "the archivist"),
    table("select", "company_subscriptions", &[], ASKED, READ),
    table("select", "article_jobs", &[], ASKED, READ),
    table("select", "articles", &[], ASKED, READ),
    table("select", "token_deduction_records", &[], ASKED, READ),
    table("select", "token_deduction_attempts", &[], ASKED, READ),
    table("select", "token_usage_logs", &[], ASKED, READ),
    table("select", "token_credits", &[], ASKED, READ),
    table("select", "token_holds", &[], ASKED, READ),
    table("select", "dead_letters", &[], ASKED, READ),
    table("select", "dead_letters_with_charges", &[], ASKED, READ),
    table("select", "operator_actions", &[], ASKED, READ),
    table("select", "dead_letter_actions", &[], ASKED, READ),
    function("job_of", ASKED, READ),
    function("find_article", ASKED, READ),
    function("edit_dead_letter", ASKED, ACTS),
    function("change_dead_letters", ASKED, ACTS),
    function("begin_replay", ASKED, ACTS),
    function("claim_dead_letters", ASKED, ACTS),
    function("mark_dead_letters_replayed", ASKED, ACTS),
    function("release_dead_letters", ASKED, ACTS),
    function("finish_replay", ASKED, ACTS),
    table("select", "api_keys", API_KEY, OPERATOR, KEYS),
    function("add_api_key", OPERATOR, KEYS),
    function("revoke_api_key", OPERATOR, KEYS),
    table("select", "api_keys", &[], HTTP, "who calls"),
    function("note_api_key_use", HTTP, "who calls"),
    function("credit_tokens", ASKED, "credit"),
    function("refund_tokens", ASKED, "refund"),
    function(
        "try_events",
        ASKED,
        "dlq show and replay: what would happen; can't be committed",
    ),
    function(
        "resolve_dead_letters",
        ALL,
        "dead letters whose job was charged meanwhile",
    ),
    function("stale_deductions", OPERATOR, "reconcile --dry-run"),
    function("claim_stale_deductions", SWEEPING, SWEEPER),
    function("charge_pending_deductions", SWEEPING, SWEEPER),
    function("write_off_pending_deductions", SWEEPING, SWEEPER),
    function("expired_holds", SWEEPING, SWEEPER),
    function("close_expired_holds", SWEEPING, SWEEPER),
    function("hold_tokens", HTTP, "tokens held for a job"),
    function("release_hold", HTTP, "tokens held for a job"),
];

/// What an application may be given besides, by its owner's own grant: charging by SQL.
pub(super) const FOR_APPLICATIONS: &str = "deduct_tokens_atomic";

const VERSION: &str = "which version the database was brought to (doctor)";
const STATE: &str = "how things stand: counts and ages only";
const WORKER: &str = "the worker";
const SWEEPER: &str = "the sweeper, reconcile";
const KEYS: &str = "keys: not what proves them";
const API_KEY: &[&str] = &[
    "id",
    "name",
    "scopes",
    "company_id",
    "created_at",
    "last_used_at",
    "revoked_at",
];
const READ: &str = "balance, show, dlq, audit: looking";
const ACTS: &str = "dlq edit, discard, restore, replay: never a body as it came, and recorded with the database role";

/// The rights that a role needs for this.
pub fn grants(purpose: Purpose) -> impl Iterator<Item = &'static Grant> {
    GRANTS
        .iter()
        .filter(move |grant| grant.purposes.contains(&purpose))
}

/// The same as SQL.
pub fn grants_sql(role: &str, purpose: Purpose, database: &str, schema: &str) -> String {
    let (role, schema) = (quoted(role), quoted(schema));
    let what = match purpose {
        Purpose::Serve => "run `token-billing serve`, all roles of it,",
        Purpose::Operator => {
            "use the commands balance, credit, refund, show, dlq, reconcile, audit, keys, doctor,"
        }
        Purpose::Http => "run `token-billing serve --role http`",
    };
    let mut sql = format!(
        "-- Lets {role} {what}\n\
         -- and no more. Balances and records are changed by the functions only. To be run by the owner of the\n\
         -- tables; may be repeated. Takes nothing away from a role that has more: `token-billing doctor{}`\n\
         -- connected as that role tells.\n\n\
         -- create role {role} login password '…';\n\
         grant connect on database {} to {role};\n\
         grant usage on schema {schema} to {role};\n",
        match purpose {
            Purpose::Serve => "",
            Purpose::Operator => " --for operator",
            Purpose::Http => " --for http",
        },
        quoted(database),
    );
    let mut said = "";
    for grant in grants(purpose) {
        if grant.why != said {
            said = grant.why;
            sql.push_str(&format!("\n-- {said}\n"));
        }
        let privilege = grant.privilege;
        sql.push_str(&match grant.object {
            Object::Table(name, []) => format!("grant {privilege} on {schema}.{name} to {role};\n"),
            Object::Table(name, columns) => {
                let columns = columns.join(", ");
                format!("grant {privilege} ({columns}) on {schema}.{name} to {role};\n")
            }
            Object::Function(name) => {
                let signature = signature(name);
                format!("grant {privilege} on function {schema}.{signature} to {role};\n")
            }
        });
    }
    if purpose == Purpose::Serve {
        sql.push_str("\n-- A query of your own in sweeper.article_exists_query needs what it reads as well.\n");
    }
    sql
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
