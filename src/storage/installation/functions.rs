//! Whether the functions are there, and are those of this version.

use super::Inspection;
use crate::storage::{MIGRATIONS, StorageError};

/// Every function of ours and the fingerprint of its text and attributes, as the migrations make it.
pub const FUNCTIONS: [(&str, &str); 17] = [
    (
        "archive_dead_letters(text[],text[],text[],bytea[],jsonb[],jsonb[],uuid[],uuid[],uuid[],bigint[],\
         integer[],timestamp with time zone[],timestamp with time zone[],bigint[])",
        "922d10be64f5459390bb0f1ded61c153",
    ),
    (
        "charge_pending_deductions(text[])",
        "d7b87311378eb19029b25d3ec945f7d9",
    ),
    (
        "claim_stale_deductions(interval,timestamp with time zone,text,integer,interval)",
        "354a972ccc7b8e97a0b245c43d2a3eb0",
    ),
    (
        "credit_tokens(text,uuid,bigint,bigint,timestamp with time zone,text)",
        "f347d89487c5c07b482931b328a77d9c",
    ),
    (
        "deduct_tokens_atomic(text,uuid,uuid,bigint,jsonb)",
        "e400ad2f0ba403ba1607bbd798354bb6",
    ),
    (
        "deduct_tokens_batch(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[])",
        "2a2b70f0ca11f4ff907431a8b1de281c",
    ),
    (
        "deduct_tokens_segment(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[],integer)",
        "703a0c36d71efd0708ec40355a202f8f",
    ),
    ("job_of(text)", "5ce0b375e5eedb10d89b4bce2b175ae9"),
    ("lock_dead_letters()", "91140c3baab09076d2451833a9cb8ba2"),
    (
        "mark_deductions_pending(text[],uuid[],uuid[],bigint[],jsonb[],text[],uuid[],text[])",
        "2d8e52755fbd26d4221e9574acde0d4c",
    ),
    (
        "refund_tokens(text,text,text,text)",
        "01779d58fabc124447ff795807462325",
    ),
    ("settle_dead_letters()", "e14159a4bbbcf65d16859a73e91a3097"),
    (
        "stale_deductions(interval,timestamp with time zone,text,integer)",
        "e2658bab54ee97ab2f03af9c5473fdf4",
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
