//! Whether the functions are there, and are those of this version.

use super::Inspection;
use crate::storage::{MIGRATIONS, StorageError};

/// Every function of ours and the fingerprint of its text and attributes, as the migrations make it.
pub const FUNCTIONS: [(&str, &str); 28] = [
    (
        "archive_dead_letters(text[],text[],text[],bytea[],jsonb[],jsonb[],uuid[],uuid[],uuid[],bigint[],\
         integer[],timestamp with time zone[],timestamp with time zone[],bigint[])",
        "a8b8258509e8a9bd7d739f85e21a2d23",
    ),
    ("canonical_key(text)", "d8d658a488a849b926bf1ec666ab5f4d"),
    ("canonical_keys(text[])", "71e1bee3e0aea624532fe5a98af1aeca"),
    (
        "charge_pending_deductions(text[])",
        "d7b87311378eb19029b25d3ec945f7d9",
    ),
    (
        "claim_stale_deductions(interval,timestamp with time zone,text,integer,interval)",
        "22f3baf1f38baa2ccda1314ede2d7556",
    ),
    ("commit_durably()", "ea721b9ce94766602ca08a30f59778d4"),
    (
        "credit_tokens(text,uuid,bigint,bigint,timestamp with time zone,text)",
        "3df2eca197bb71d35b37aba5c379efb0",
    ),
    (
        "deduct_tokens_atomic(text,uuid,uuid,bigint,jsonb)",
        "429e42a60de0da4b0f42d93dd0e8f4ca",
    ),
    (
        "deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[])",
        "b1bd0e7aae0eacdaae3aaa1a43c232d2",
    ),
    (
        "deduct_tokens_segment(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[],integer)",
        "a5f77599b2602e1e55762a579841a336",
    ),
    ("find_article(uuid)", "4989506a16a518bbf097c6e613cfa3a8"),
    (
        "finish_operator_action(bigint,jsonb)",
        "6b56995727cc9ff165084ee802c12732",
    ),
    ("is_key(text)", "8ea3535a01d11bc36bc6eb6256d16675"),
    ("job_of(text)", "5ce0b375e5eedb10d89b4bce2b175ae9"),
    ("keep_attempt()", "ebaaa01b65c8db62c9132b9629708a91"),
    ("lock_dead_letters()", "052493e03e04fdd5e499c84811430e0b"),
    (
        "mark_deductions_pending(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[],text[])",
        "8972b658f311f08c9ba0296bbd47dbe7",
    ),
    (
        "record_dead_letter_actions(bigint,bigint[],timestamp with time zone)",
        "6272a877919f933d8bf16d7359d810f7",
    ),
    (
        "record_operator_action(text,text,text,text,jsonb)",
        "aa9d807436ecdb1760ecdc1d9ad2c1be",
    ),
    (
        "refund_tokens(text,text,text,text)",
        "5d949f4a3bd055542d5b0836677a8e65",
    ),
    ("refuse_change()", "0c4232d4a2556edc4746c8bc3e720275"),
    (
        "refuse_unless_one_row(bigint,uuid)",
        "42140f5851f69abc741b5536b2c69fd8",
    ),
    ("settle_dead_letters()", "e14159a4bbbcf65d16859a73e91a3097"),
    (
        "stale_deductions(interval,timestamp with time zone,text,integer)",
        "17793c8f4a80c008e43d7ff3cca9a817",
    ),
    (
        "tokens_left(bigint,bigint)",
        "0c757ada96008b2494a5df943c94c9bb",
    ),
    (
        "tokens_left_step(bigint,bigint,bigint)",
        "fa22b78d33b8476294ef236364ebac0b",
    ),
    (
        "update_article_jobs(uuid[],uuid[],text[])",
        "fe150f3f5a7c97a091e9421b3275921b",
    ),
    (
        "write_off_pending_deductions(text[])",
        "5b30f4301120c1b310710f4fe2635608",
    ),
];

/// $1 signatures; the fingerprint of each, `NULL` where there is no such function. A search_path is right if
/// it is pinned to the function's own schema, whatever that is called.
pub const FINGERPRINTS: &str =
    "select s.signature, case when p.oid is not null then md5(concat_ws('|', p.prosrc, l.lanname, p.prosecdef, p.provolatile, (
                select string_agg(
                    case when c.setting = format('search_path=%I, pg_temp', n.nspname) then 'search_path pinned'
                         else c.setting end, ',' order by c.setting)
                from unnest(p.proconfig) c (setting)))) end as fingerprint
     from unnest($1::text[]) with ordinality s (signature, place)
     left join (pg_proc p join pg_language l on l.oid = p.prolang join pg_namespace n on n.oid = p.pronamespace)
            on p.oid = to_regprocedure(s.signature)
     order by s.place";

/// A function that isn't as this version made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrangeFunction {
    /// With the types of its arguments.
    pub signature: &'static str,
    /// There is none.
    pub missing: bool,
    /// The migration that has its text.
    pub migration: String,
}

impl Inspection {
    /// The functions that are missing or have been altered.
    pub async fn strange_functions(&mut self) -> Result<Vec<StrangeFunction>, StorageError> {
        let signatures: Vec<&str> = FUNCTIONS.iter().map(|(signature, _)| *signature).collect();
        let found = self
            .ask(async |connection| {
                sqlx::query_as::<_, (String, Option<String>)>(FINGERPRINTS)
                    .bind(&signatures)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let strange = FUNCTIONS.iter().zip(found);
        Ok(strange
            .filter(|((_, expected), (_, found))| found.as_deref() != Some(expected))
            .map(|((signature, _), (_, found))| StrangeFunction {
                signature,
                missing: found.is_none(),
                migration: migration_of(signature),
            })
            .collect())
    }
}

/// `0003_deduct_tokens`: the last migration that creates the function.
fn migration_of(signature: &str) -> String {
    let name = signature.split('(').next().unwrap_or_default();
    let creates = |text: &str| {
        ["function", "aggregate"].iter().any(|kind| {
            text.contains(&format!("create {kind} {name}("))
                || text.contains(&format!("create or replace {kind} {name}("))
        })
    };
    let mut last = String::new();
    for migration in MIGRATIONS.iter() {
        if creates(migration.sql.as_str()) {
            let description = migration.description.replace(' ', "_");
            last = format!("{:04}_{description}", migration.version);
        }
    }
    last
}
