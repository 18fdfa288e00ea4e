//! The other commands, as typed: what they print, and how they end.

use std::process::Stdio;

use clap::CommandFactory as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use token_billing::{cli::Cli, storage::MIGRATIONS};
use tokio::{io::AsyncWriteExt as _, process::Command};
use uuid::Uuid;

use crate::support::{
    command::{Ran, keys},
    db::TestDb,
    ledger::Ledger,
    servers::Servers,
};

/// The arguments that print a document.
const JSON: [&str; 2] = ["--output", "json"];
const NEXT_PERIOD: &str = "2100-01-01T00:00:00Z";

async fn run(database: &str, args: &[&str]) -> Ran {
    let settings = [("TOKEN_BILLING__DATABASE__URL", database)];
    Ran::to_its_end(args, &settings, b"").await
}

/// A command that needs no settings.
async fn typed(args: &[&str]) -> Ran {
    Ran::to_its_end(args, &[], b"").await
}

fn commands() -> Vec<String> {
    let cli = Cli::command();
    let names = cli.get_subcommands().map(clap::Command::get_name);
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_command_explains_itself() {
    let overview = typed(&["--help"]).await;
    for command in commands() {
        assert!(
            overview.done().contains(&format!("\n  {command} ")),
            "{command}"
        );
        for flag in ["--help", "-h"] {
            let ran = typed(&[&command, flag]).await;
            let usage = format!("Usage: token-billing {command} ");
            assert!(ran.done().contains(&usage), "{ran:#?}");
        }
        typed(&["help", &command]).await.done();
    }
    let version = typed(&["--version"]).await;
    assert_eq!(
        version.done(),
        concat!("token-billing ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[tokio::test]
async fn what_is_not_a_command_is_wrong_usage() {
    let company = Uuid::nil().to_string();
    for (args, named) in [
        (&["charge"][..], "'charge'"),
        (&["migrate", "--force"], "'--force'"),
        (&["balance"], "<COMPANY>"),
        (&["balance", "acme"], "'acme'"),
        (&["balance", &company, "--output", "xml"], "'xml'"),
        (&["serve", "--role", "cook"], "'cook'"),
        (&["completions", "cmd"], "'cmd'"),
        (&[], "Usage: token-billing"),
    ] {
        assert!(typed(args).await.refused(2).contains(named), "{args:?}");
    }
}

#[tokio::test]
async fn a_shell_can_complete_every_command() {
    // No settings are needed for it, not even good ones.
    let bad = [("TOKEN_BILLING__WORKER__BATCH_MAX", "many")];
    for shell in ["bash", "zsh", "fish"] {
        let ran = Ran::to_its_end(&["completions", shell], &bad, b"").await;
        for command in commands() {
            assert!(ran.done().contains(&command), "{command} in {shell}");
        }
    }
    let script = typed(&["completions", "bash"]).await;
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .expect("bash can be run");
    let mut stdin = bash.stdin.take().expect("piped above");
    let written = stdin.write_all(script.done().as_bytes()).await;
    written.expect("bash reads it");
    drop(stdin);
    assert!(bash.wait().await.expect("it ends").success());
}

#[tokio::test]
async fn a_balance_is_what_the_company_can_pay_from() {
    let ledger = Ledger::open().await;
    let company = ledger.company(12_000, 5_000).await;
    let id = company.to_string();
    let ran = run(ledger.url(), &["balance", &id]).await;
    let rows: Vec<Vec<&str>> = ran
        .done()
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["company", &id]);
    assert_eq!(
        rows[3][..5],
        ["monthly", "12,000", "of", "12,000,", "until"]
    );
    assert_eq!(rows[4], ["purchased", "5,000", "do", "not", "expire"]);
    assert_eq!(rows[5], ["total", "17,000"]);
    assert_eq!((rows.len(), ran.notes()), (6, ""));

    let args = [&["balance", &id][..], &JSON].concat();
    let document = run(ledger.url(), &args).await.document();
    assert_eq!(
        keys(&document),
        [
            "available",
            "company_id",
            "held",
            "monthly",
            "monthly_quota",
            "period_end",
            "purchased",
            "total"
        ]
    );
    assert_eq!(document["company_id"], json!(company));
    assert_eq!(document["monthly_quota"], json!(12_000));

    ledger.expire(company).await;
    let document = run(ledger.url(), &args).await.document();
    let figures = ["monthly", "purchased", "total", "period_end"].map(|key| document[key].clone());
    assert_eq!(
        figures,
        [
            json!(0),
            json!(5_000),
            json!(5_000),
            json!("2020-01-01T00:00:00Z")
        ]
    );
    let ran = run(ledger.url(), &["balance", &id]).await;
    assert!(
        ran.done().contains("ended 2020-01-01T00:00:00Z"),
        "{ran:#?}"
    );
}

#[tokio::test]
async fn a_company_that_nobody_knows_has_no_balance_and_gets_no_credit() {
    let ledger = Ledger::open().await;
    let company = Uuid::new_v4().to_string();
    let problem = format!("error: company {company} is not in company_subscriptions\n");
    let balance = ["balance", &company];
    let credit = ["credit", &company, "--purchased", "1", "--key", "k"];
    for args in [&balance[..], &credit] {
        for format in [&[][..], &JSON] {
            let ran = run(ledger.url(), &[args, format].concat()).await;
            assert_eq!(ran.refused(1), problem);
        }
    }
}

/// The keys of a credit, as JSON.
const CREDIT: [&str; 15] = [
    "actor",
    "company_id",
    "forfeited_amount",
    "idempotency_key",
    "idempotent",
    "kind",
    "ledger_seq",
    "monthly_after",
    "monthly_before",
    "parked_dead_letters",
    "parked_payable",
    "parked_payable_tokens",
    "purchased_after",
    "purchased_before",
    "replay",
];

#[tokio::test]
async fn a_credit_is_made_once_and_its_key_belongs_to_it() {
    let ledger = Ledger::open().await;
    let (company, other) = (ledger.company(0, 100).await, ledger.company(0, 100).await);
    let (id, others) = (company.to_string(), other.to_string());
    let top_up = [
        "credit",
        &id,
        "--purchased",
        "50",
        "--key",
        "invoice 7",
        "--as",
        "ann",
    ];
    let top_up_json = [&top_up[..], &JSON].concat();
    let first = run(ledger.url(), &top_up_json).await.document();
    // By somebody else, who did not know.
    let top_up_again = [&top_up[..6], &JSON].concat();
    let mut again = run(ledger.url(), &top_up_again).await.document();
    assert_eq!(keys(&first), CREDIT);
    assert_eq!(
        (&first["idempotent"], &again["idempotent"]),
        (&json!(false), &json!(true))
    );
    again["idempotent"] = json!(false);
    assert_eq!(again, first, "the original figures");
    assert_eq!(
        (&first["purchased_before"], &first["purchased_after"]),
        (&json!(100), &json!(150))
    );
    assert_eq!(
        (&first["actor"], &first["kind"]),
        (&json!("ann"), &json!("top_up"))
    );
    let ran = run(ledger.url(), &top_up).await;
    assert!(
        ran.done()
            .starts_with("already credited under this key (invoice 7, by ann)"),
        "{ran:#?}"
    );

    let period = ["--period-end", NEXT_PERIOD];
    for different in [
        &["credit", &id, "--purchased", "51"][..],
        &["credit", &others, "--purchased", "50"],
        &[&["credit", &id, "--monthly", "50"][..], &period].concat(),
    ] {
        let ran = run(ledger.url(), &[different, &["--key", "invoice 7"]].concat()).await;
        assert_eq!(
            ran.refused(1),
            "error: key \"invoice 7\" was used for a different credit; nothing was changed\n"
        );
    }
    assert_eq!(ledger.balances(company).await, (0, 150));
    assert_eq!(ledger.balances(other).await, (0, 100));
}

#[tokio::test]
async fn a_renewal_sets_the_monthly_quota_and_says_what_was_forfeited() {
    let ledger = Ledger::open().await;
    let company = ledger.company(1_500, 7).await;
    let id = company.to_string();
    let renewal = [
        "credit",
        &id,
        "--monthly",
        "100000",
        "--key",
        "2026-12",
        "--period-end",
        NEXT_PERIOD,
    ];
    let ran = run(ledger.url(), &renewal).await;
    assert!(ran.done().contains("1,500 tokens forfeited"), "{ran:#?}");
    assert_eq!(ledger.balances(company).await, (100_000, 7));

    let past = [
        "credit",
        &id,
        "--monthly",
        "1",
        "--key",
        "old",
        "--period-end",
        "2020-01-01T00:00:00Z",
    ];
    let ran = run(ledger.url(), &past).await;
    assert_eq!(
        ran.refused(1),
        "error: the end of the period is in the past; nothing was changed\n"
    );
    for (args, named) in [
        (&["--monthly", "1"][..], "--period-end"),
        (
            &["--purchased", "1", "--period-end", NEXT_PERIOD],
            "--monthly",
        ),
        (&["--purchased", "0"], "'0'"),
        (&["--purchased", "1.5"], "'1.5'"),
        (&[], "--purchased"),
    ] {
        let args = [&["credit", &id, "--key", "new"], args].concat();
        assert!(
            run(ledger.url(), &args).await.refused(2).contains(named),
            "{args:?}"
        );
    }
    let ran = run(ledger.url(), &["credit", &id, "--purchased", "1"]).await;
    assert!(ran.refused(2).contains("--key"), "{ran:#?}");
    assert_eq!(ledger.balances(company).await, (100_000, 7));
}

/// Leaves the database as it is.
async fn unmigrated(_: &PgPool) {}

fn versions(list: &Value) -> Vec<i64> {
    let list = list.as_array().expect("a list");
    for one in list {
        assert_eq!(keys(one), ["description", "version"]);
    }
    let version = |one: &Value| one["version"].as_i64().expect("a number");
    list.iter().map(version).collect()
}

fn every_version() -> Vec<i64> {
    MIGRATIONS
        .iter()
        .map(|migration| migration.version)
        .collect()
}

async fn tables(db: &TestDb) -> Vec<String> {
    let sql = "select tablename::text from pg_tables where schemaname = 'public' order by 1";
    let tables = sqlx::query_scalar(sql).fetch_all(db.pool()).await;
    tables.expect("tables can be listed")
}

#[tokio::test]
async fn migrate_applies_everything_once_and_dry_run_nothing() {
    let db = TestDb::create(Servers::shared(), unmigrated).await;
    let company = Uuid::new_v4().to_string();
    let ran = run(db.url(), &["balance", &company]).await;
    assert!(
        ran.refused(1)
            .contains("is the database migrated? (token-billing migrate)"),
        "{ran:#?}"
    );

    const REPORT: [&str; 6] = [
        "applied",
        "dry_run",
        "functions",
        "pending",
        "revoked",
        "to_be_fixed",
    ];
    let dry_run = [&["migrate", "--dry-run"][..], &JSON].concat();
    let migrate = [&["migrate"][..], &JSON].concat();
    let report = run(db.url(), &dry_run).await.document();
    assert_eq!(keys(&report), REPORT);
    assert_eq!(report["dry_run"], json!(true));
    assert_eq!(
        (versions(&report["pending"]), versions(&report["applied"])),
        (every_version(), vec![])
    );
    assert_eq!(tables(&db).await, Vec::<String>::new());

    let report = run(db.url(), &migrate).await.document();
    assert_eq!(keys(&report), REPORT);
    assert_eq!(report["dry_run"], json!(false));
    assert_eq!(
        (versions(&report["pending"]), versions(&report["applied"])),
        (vec![], every_version())
    );
    assert!(
        tables(&db)
            .await
            .contains(&"token_deduction_records".to_owned())
    );

    for args in [&migrate, &dry_run] {
        let report = run(db.url(), args).await.document();
        assert_eq!(
            (versions(&report["pending"]), versions(&report["applied"])),
            (vec![], vec![])
        );
    }
    let ran = run(db.url(), &["migrate"]).await;
    assert_eq!(ran.done(), "the database is up to date\n");
}

#[tokio::test]
async fn several_that_migrate_at_once_all_succeed() {
    let db = TestDb::create(Servers::shared(), unmigrated).await;
    let migrate = || run(db.url(), &["migrate"]);
    let (first, second, third) = tokio::join!(migrate(), migrate(), migrate());
    for ran in [first, second, third] {
        ran.done();
    }
    let applied: Vec<i64> =
        sqlx::query_scalar("select version from _sqlx_migrations order by version")
            .fetch_all(db.pool())
            .await
            .expect("read");
    assert_eq!(applied, every_version());
}
