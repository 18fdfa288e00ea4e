//! The database: there, of this version, in time, and with the rights that are needed.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Check, CheckOutcome, PATIENCE, WINDOW};
use crate::{
    config::{Settings, redacted_url},
    storage::{
        Excess, Fault, Finding, Inspection, InstallationStatus, Look, OtherRole, Preflight,
        Purpose, Server, Severity, StaleDeduction, Storage, StorageError, print_grants,
    },
};

/// What depends on the database.
pub(super) const CHECKS: [&str; 12] = [
    "database",
    "migrations",
    "functions",
    "guards",
    "rights_enough",
    "application_tables",
    "row_security",
    "triggers",
    "clock",
    "durability",
    "rights_no_more",
    "rights_of_others",
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
            let fix = "start it, or put database.url right";
            let failed = Check::failed("database", finding, fix);
            return away(failed, "not checked: the database is away");
        }
    };
    let mut checks = vec![check_server(&server)];
    checks.extend(look(&mut inspection, &server, settings, purpose).await);
    if !settings.sweeper.article_exists_query.is_empty() {
        let asked = tokio::time::timeout(PATIENCE, check_article_query(settings, &storage)).await;
        let slow = |_| {
            Check::failed(
                ARTICLE_QUERY,
                "no answer in time",
                "make it fast: it is asked for each pending charge",
            )
        };
        checks.push(asked.unwrap_or_else(slow));
    }
    storage.close().await;
    (checks, Some(inspection))
}

/// The checks on the open connection that every installation has.
async fn look(
    inspection: &mut Inspection,
    server: &Server,
    settings: &Settings,
    purpose: Purpose,
) -> Vec<Check> {
    let look = Look {
        purpose: Some(purpose),
        articles: settings.sweeper.article_exists_query.is_empty(),
        rows: true,
    };
    let (mut checks, unseen) = match inspection.preflight(look).await {
        Ok(preflight) => (
            preflight_checks(&preflight, server, purpose),
            preflight.unseen,
        ),
        Err(error) => {
            let all = Preflight::CHECKS.iter();
            let why = format!("not checked: {error}");
            (
                all.map(|check| unanswered(check, &error)).collect(),
                Some(why),
            )
        }
    };
    checks.push(check_clock(inspection).await);
    checks.push(check_durability(inspection).await);
    let no_more = check_no_more(inspection, purpose).await;
    checks.push(match &unseen {
        // Of tables that can't be seen nothing is known.
        Some(why) if no_more.verdict == CheckOutcome::Ok => Check::unchecked("rights_no_more", why),
        _ => no_more,
    });
    match unseen {
        Some(why) => checks.push(Check::unchecked("rights_of_others", why)),
        None => checks.extend(check_others(inspection).await),
    }
    checks
}

/// A line for each finding, and one for each check that found nothing.
fn preflight_checks(preflight: &Preflight, server: &Server, purpose: Purpose) -> Vec<Check> {
    let mut checks = Vec::new();
    for check in Preflight::CHECKS {
        let found = preflight.findings.iter().filter(|one| one.check == check);
        let before = checks.len();
        checks.extend(found.map(Check::from));
        if checks.len() > before {
            continue;
        }
        let (role, purpose) = (&server.role, purpose.as_str());
        let fine = match check {
            "migrations" => "all applied".to_owned(),
            "functions" => "all there, as this version made them".to_owned(),
            "guards" => "nobody removes rows of the ledger by accident".to_owned(),
            "rights_enough" => format!("{role} may do what {purpose} needs"),
            "application_tables" => "have what is read and written".to_owned(),
            "row_security" => "hides nothing that is needed".to_owned(),
            _ => "none of the application's runs within a charge".to_owned(),
        };
        checks.push(match &preflight.unseen {
            Some(why) => Check::unchecked(check, why),
            None => Check::ok(check, fine),
        });
    }
    checks
}

impl From<&Finding> for Check {
    fn from(finding: &Finding) -> Self {
        Self {
            check: finding.check,
            subject: finding.subject.clone(),
            verdict: match finding.severity {
                Severity::Blocking | Severity::Fault => CheckOutcome::Failed,
                Severity::Note => CheckOutcome::Unchecked,
            },
            finding: finding.finding.clone(),
            fix: finding.fix.clone(),
        }
    }
}

async fn check_durability(inspection: &mut Inspection) -> Check {
    const CHECK: &str = "durability";
    let found = match inspection.durability().await {
        Ok(found) => found,
        Err(error) => return unanswered(CHECK, &error),
    };
    let switches = [
        ("fsync", found.fsync),
        ("full_page_writes", found.full_page_writes),
    ];
    let off = switches.iter().filter(|(_, is_on)| !is_on);
    let (off, on): (Vec<&str>, Vec<String>) = off
        .map(|(name, _)| (*name, format!("alter system set {name} = on; ")))
        .unzip();
    if !off.is_empty() {
        let off = off.join(", ");
        let finding = format!("off: {off}: a crash of the machine loses charges");
        let fix = format!("{}select pg_reload_conf()", on.concat());
        return Check::failed(CHECK, finding, fix);
    }
    if !found.unlogged.is_empty() {
        let finding = format!(
            "unlogged, so a crash empties: {}",
            found.unlogged.join(", ")
        );
        let logged = found.unlogged.iter();
        let logged = logged.map(|name| format!("alter table {name} set logged"));
        return Check::failed(CHECK, finding, logged.collect::<Vec<_>>().join("; "));
    }
    if found.standbys > 0 && found.synchronous.is_empty() {
        let behind = found
            .behind_bytes
            .map(|bytes| format!(" (now {bytes} bytes)"));
        let (standbys, behind) = (found.standbys, behind.unwrap_or_default());
        let finding = format!(
            "{standbys} standby(s), all asynchronous: a failover to one loses what it has not received yet{behind}, \
             charges whose events are acked included"
        );
        let fix = "name them in synchronous_standby_names, or publish the last events again after a failover";
        return Check {
            fix: Some(fix.to_owned()),
            ..Check::unchecked(CHECK, finding)
        };
    }
    Check::ok(CHECK, "what is committed is on disk")
}

async fn check_others(inspection: &mut Inspection) -> Vec<Check> {
    const CHECK: &str = "rights_of_others";
    /// Rights that are named; the fix has all.
    const NAMED: usize = 4;
    let roles = match inspection.other_roles().await {
        Ok(roles) => roles,
        Err(error) => return vec![unanswered(CHECK, &error)],
    };
    let (too_much, fine): (Vec<OtherRole>, Vec<OtherRole>) =
        roles.into_iter().partition(OtherRole::is_too_much);
    if too_much.is_empty() {
        let listed = |wanted: fn(&OtherRole) -> bool| {
            let those = fine.iter().filter(|other| wanted(other));
            let names: Vec<&str> = those.filter_map(|other| other.role.as_deref()).collect();
            match names.is_empty() {
                true => "nobody".to_owned(),
                false => names.join(", "),
            }
        };
        let (all, balances) = (listed(|_| true), listed(|other| !other.balances.is_empty()));
        let finding = format!(
            "beside the owner and this role, our functions and tables are used by {all}; balances are changed by SQL by {balances}"
        );
        return vec![Check::ok(CHECK, finding)];
    }
    let say = |other: &OtherRole| {
        let mut rights = other.excess.clone();
        let balances = other.balances.iter();
        rights.extend(balances.map(|right| format!("{right} on company_subscriptions")));
        let more = match rights.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        rights.truncate(NAMED);
        let role = other.role.as_deref().unwrap_or("PUBLIC");
        let finding = format!(
            "may do what no printed grant gives: {}{more}",
            rights.join(", ")
        );
        Check::failed(CHECK, finding, other.revoke.clone()).of(role)
    };
    too_much.iter().map(say).collect()
}

/// How the installation stands; a line says why, where that can't be read.
pub(super) async fn status(
    mut inspection: Inspection,
    checks: &mut Vec<Check>,
) -> Option<InstallationStatus> {
    let status = inspection.status(WINDOW).await;
    inspection.close().await;
    status
        .map_err(|error| checks.push(unanswered("status", &error)))
        .ok()
}

/// What is forbidden or missing is told by another check; anything else is trouble of its own.
fn unanswered(check: &'static str, error: &StorageError) -> Check {
    if error.fault() == Fault::Installation {
        return Check::unchecked(check, format!("not checked: {error}"));
    }
    let fix = "the database answered a moment ago: see its log, and what keeps it busy";
    Check::failed(check, format!("no answer to this: {error}"), fix)
}

fn check_server(server: &Server) -> Check {
    let finding = format!(
        "PostgreSQL {}, database {}, as {}",
        server.version, server.database, server.role
    );
    if server.version_number < OLDEST {
        let fix = format!("PostgreSQL {} or newer", OLDEST / 10_000);
        return Check::failed("database", finding, fix);
    }
    if server.read_only {
        let finding = format!("{finding}: can only be read");
        return Check::failed("database", finding, "point database.url at the primary");
    }
    Check::ok("database", finding)
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

async fn check_no_more(inspection: &mut Inspection, purpose: Purpose) -> Check {
    let excess = match inspection.excessive_rights(purpose).await {
        Ok(excess) => excess,
        Err(error) => return unanswered("rights_no_more", &error),
    };
    if excess.is_empty() {
        return Check::ok(
            "rights_no_more",
            "balances and the ledger can be changed by the functions only",
        );
    }
    let finding: Vec<String> = excess.iter().map(ToString::to_string).collect();
    let rights = excess.iter().all(|one| matches!(one, Excess::Right(_)));
    let fix = if rights {
        "revoke these, or use a role that was made for it: "
    } else {
        "use a role that was made for it: "
    };
    Check::failed(
        "rights_no_more",
        format!("the role has more than it needs: {}", finding.join("; ")),
        format!("{fix}{}", print_grants("ROLE", purpose)),
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
    let fix = "put sweeper.article_exists_query right, or grant this role what it reads";
    Check::failed(ARTICLE_QUERY, wrong, fix)
}
