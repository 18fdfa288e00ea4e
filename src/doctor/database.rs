//! The database: there, of this version, in time, and with the rights that are needed.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Check, PATIENCE, Verdict, WINDOW};
use crate::{
    config::{Settings, redacted_url},
    storage::{
        Excess, Fault, Inspection, Purpose, Server, StaleDeduction, StateOfThings, Storage,
        StorageError, StrangeMigration,
    },
};

/// What depends on the database.
pub(super) const CHECKS: [&str; 6] = [
    "database",
    "migrations",
    "functions",
    "clock",
    "rights_enough",
    "rights_no_more",
];

/// The oldest `PostgreSQL` that this is made for.
const OLDEST: i32 = 150_000;
/// Between this machine's clock and the database's. Ages and periods are told by the database's; this
/// machine's stands in logs and headers.
const CLOCK_LIMIT_SECONDS: f64 = 5.0;

/// The checks, and the connection for more if there is one.
pub(super) async fn examine(
    settings: &Settings,
    purpose: Purpose,
) -> (Vec<Check>, Option<Inspection>) {
    let away = |first: Check, why: &str| {
        let rest = CHECKS[1..].iter().map(|check| Check::unchecked(check, why));
        (std::iter::once(first).chain(rest).collect(), None)
    };
    let Ok(database) = settings.require_database() else {
        let why = "not checked: database.url is missing";
        return away(Check::unchecked("database", why), why);
    };
    let mut database = database.clone();
    database.connect_timeout = database.connect_timeout.min(PATIENCE);
    let opened = async {
        let storage = Storage::new(&database, &settings.reconnect)?;
        let mut inspection = storage.inspect().await?;
        let server = inspection.server().await?;
        Ok::<_, StorageError>((storage, inspection, server))
    };
    let (storage, mut inspection, server) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            let finding = format!("{}: {error}", redacted_url(&database.url));
            let mend = "start it, or put database.url right";
            let failed = Check::failed("database", finding, mend);
            return away(failed, "not checked: the database is away");
        }
    };
    let mut checks = vec![check_server(&server)];
    checks.extend(look(&mut inspection, &server, purpose).await);
    if !settings.sweeper.article_exists_query.is_empty() {
        let asked = tokio::time::timeout(PATIENCE, check_article_query(settings, &storage)).await;
        let slow = |_| {
            Check::failed(
                ARTICLE_QUERY,
                "no answer in time",
                "make it fast: it is asked for each owed charge",
            )
        };
        checks.push(asked.unwrap_or_else(slow));
    }
    storage.close().await;
    (checks, Some(inspection))
}

/// The checks on the open connection that every installation has.
async fn look(inspection: &mut Inspection, server: &Server, purpose: Purpose) -> [Check; 5] {
    let hidden = inspection.hidden_schemas().await.unwrap_or_default();
    let strange = inspection.strange_migrations().await;
    let is_pending = |one: &StrangeMigration| matches!(one, StrangeMigration::Pending(_));
    let unseen = if !hidden.is_empty() {
        Some(format!("not checked: there is no {}", hidden.join(", ")))
    } else if strange
        .as_ref()
        .is_ok_and(|strange| strange.iter().any(is_pending))
    {
        Some("not checked: the database is not migrated".to_owned())
    } else {
        None
    };
    let migrations = match (strange, &unseen) {
        (_, Some(why)) if !hidden.is_empty() => Check::unchecked("migrations", why),
        (Ok(strange), _) => check_migrations(&strange),
        (Err(error), _) => unanswered("migrations", &error),
    };
    let functions = match &unseen {
        Some(why) => Check::unchecked("functions", why),
        None => check_functions(inspection).await,
    };
    let clock = check_clock(inspection).await;
    let enough = match &unseen {
        Some(why) if hidden.is_empty() => Check::unchecked("rights_enough", why),
        _ => check_enough(inspection, server, purpose).await,
    };
    let no_more = check_no_more(inspection, purpose).await;
    let no_more = match unseen {
        // Of tables that can't be seen nothing is known.
        Some(why) if no_more.verdict == Verdict::Ok => Check::unchecked("rights_no_more", why),
        _ => no_more,
    };
    [migrations, functions, clock, enough, no_more]
}

/// How things stand; a line says why, where that can't be read.
pub(super) async fn state(
    mut inspection: Inspection,
    checks: &mut Vec<Check>,
) -> Option<StateOfThings> {
    let state = inspection.state_of_things(WINDOW).await;
    inspection.close().await;
    state
        .map_err(|error| checks.push(unanswered("state", &error)))
        .ok()
}

/// What is forbidden or missing is told by another check; anything else is trouble of its own.
fn unanswered(check: &'static str, error: &StorageError) -> Check {
    if error.fault() == Fault::Installation {
        return Check::unchecked(check, format!("not checked: {error}"));
    }
    let mend = "the database answered a moment ago: see its log, and what keeps it busy";
    Check::failed(check, format!("no answer to this: {error}"), mend)
}

fn check_server(server: &Server) -> Check {
    let finding = format!(
        "PostgreSQL {}, database {}, as {}",
        server.version, server.database, server.role
    );
    if server.version_number < OLDEST {
        let mend = format!("PostgreSQL {} or newer", OLDEST / 10_000);
        return Check::failed("database", finding, mend);
    }
    if server.read_only {
        let finding = format!("{finding}: can only be read");
        return Check::failed("database", finding, "point database.url at the primary");
    }
    Check::ok("database", finding)
}

fn check_migrations(strange: &[StrangeMigration]) -> Check {
    let all = |pick: fn(&StrangeMigration) -> Option<i64>| {
        let numbers: Vec<String> = strange
            .iter()
            .filter_map(pick)
            .map(|number| number.to_string())
            .collect();
        (!numbers.is_empty()).then(|| numbers.join(", "))
    };
    let pending = all(|one| match one {
        StrangeMigration::Pending(number) => Some(*number),
        _ => None,
    });
    let unknown = all(|one| match one {
        StrangeMigration::Unknown(number) => Some(*number),
        _ => None,
    });
    let unfinished = all(|one| match one {
        StrangeMigration::Unfinished(number) => Some(*number),
        _ => None,
    });
    let altered = all(|one| match one {
        StrangeMigration::Altered(number) => Some(*number),
        _ => None,
    });
    if let Some(numbers) = unknown {
        return Check::failed(
            "migrations",
            format!("the database is newer than this program, which doesn't know {numbers}"),
            "run the version of token-billing that applied them, or a newer one",
        );
    }
    if let Some(numbers) = altered {
        return Check::failed(
            "migrations",
            format!("applied with another text than this program has: {numbers}"),
            "run the version of token-billing that applied them; no migration may be edited once it is applied",
        );
    }
    if let Some(numbers) = unfinished {
        return Check::failed(
            "migrations",
            format!("begun and not finished: {numbers}"),
            "look at what it left, delete its row from _sqlx_migrations, then: token-billing migrate",
        );
    }
    match pending {
        Some(numbers) => Check::failed(
            "migrations",
            format!("not applied: {numbers}"),
            "token-billing migrate",
        ),
        None => Check::ok("migrations", "all applied"),
    }
}

async fn check_functions(inspection: &mut Inspection) -> Check {
    let strange = match inspection.strange_functions().await {
        Ok(strange) => strange,
        Err(error) => return unanswered("functions", &error),
    };
    if strange.is_empty() {
        return Check::ok("functions", "all there, as this version made them");
    }
    let finding: Vec<String> = strange
        .iter()
        .map(|one| {
            let what = if one.missing { "missing" } else { "altered" };
            format!("{} is {what}", one.signature)
        })
        .collect();
    let mut texts: Vec<String> = strange
        .iter()
        .map(|one| format!("migrations/{}.sql", one.migration))
        .collect();
    texts.sort();
    texts.dedup();
    let mend = format!(
        "somebody changed what the migrations made: put back the text, settings and rights from {}",
        texts.join(", ")
    );
    Check::failed("functions", finding.join("; "), mend)
}

async fn check_clock(inspection: &mut Inspection) -> Check {
    let ahead = match inspection.clock_ahead_seconds().await {
        Ok(ahead) => ahead,
        Err(error) => return unanswered("clock", &error),
    };
    let way = if ahead < 0.0 { "behind" } else { "ahead of" };
    let finding = format!(
        "the database's is {:.3} s {way} this machine's; the limit is {CLOCK_LIMIT_SECONDS} s",
        ahead.abs()
    );
    if ahead.abs() > CLOCK_LIMIT_SECONDS {
        return Check::failed("clock", finding, "let NTP set both clocks");
    }
    Check::ok("clock", finding)
}

/// `token-billing migrate --print-grants ROLE`, as it is typed for this.
fn print_grants(role: &str, purpose: Purpose) -> String {
    let purpose = match purpose {
        Purpose::Serve => String::new(),
        other => format!(" --for {}", other.as_str()),
    };
    format!("token-billing migrate --print-grants {role}{purpose}")
}

async fn check_enough(inspection: &mut Inspection, server: &Server, purpose: Purpose) -> Check {
    let missing = match inspection.missing_rights(purpose).await {
        Ok(missing) => missing,
        Err(error) => return unanswered("rights_enough", &error),
    };
    let (role, purpose_name) = (&server.role, purpose.as_str());
    if missing.is_empty() {
        return Check::ok(
            "rights_enough",
            format!("{role} may do what {purpose_name} needs"),
        );
    }
    Check::failed(
        "rights_enough",
        format!("{role} lacks for {purpose_name}: {}", missing.join("; ")),
        format!(
            "as the owner of the tables, run what this prints: {}",
            print_grants(role, purpose)
        ),
    )
}

async fn check_no_more(inspection: &mut Inspection, purpose: Purpose) -> Check {
    let excess = match inspection.excessive_rights(purpose).await {
        Ok(excess) => excess,
        Err(error) => return unanswered("rights_no_more", &error),
    };
    if excess.is_empty() {
        return Check::ok(
            "rights_no_more",
            "balances and books can be changed by the functions only",
        );
    }
    let finding: Vec<String> = excess.iter().map(ToString::to_string).collect();
    let rights = excess.iter().all(|one| matches!(one, Excess::Right(_)));
    let mend = if rights {
        "revoke these, or use a role that was made for it: "
    } else {
        "use a role that was made for it: "
    };
    Check::failed(
        "rights_no_more",
        format!("the role has more than it needs: {}", finding.join("; ")),
        format!("{mend}{}", print_grants("ROLE", purpose)),
    )
}

const ARTICLE_QUERY: &str = "article_query";

/// Prepares the application's query and asks it for an article that there can't be.
async fn check_article_query(settings: &Settings, storage: &Storage) -> Check {
    let nobody = StaleDeduction {
        idempotency_key: Uuid::nil().to_string(),
        company_id: Uuid::nil(),
        article_id: Some(Uuid::nil()),
        job_id: Some(Uuid::nil()),
        amount: 1,
        pending_since: OffsetDateTime::UNIX_EPOCH,
        article_exists: None,
    };
    let sql = &settings.sweeper.article_exists_query;
    let asked = async {
        Ok::<_, StorageError>(match storage.article_query(sql).await? {
            Err(wrong) => Err(wrong),
            Ok(query) => storage
                .articles_exist(&query, &[nobody])
                .await
                .map(|_| Ok(()))?,
        })
    };
    let wrong = match asked.await {
        Ok(Ok(())) => return Check::ok(ARTICLE_QUERY, "answers"),
        Ok(Err(wrong)) => wrong,
        Err(error) => error.to_string(),
    };
    let mend = "put sweeper.article_exists_query right, or grant this role what it reads";
    Check::failed(ARTICLE_QUERY, wrong, mend)
}
