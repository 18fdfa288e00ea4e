//! Rights of roles that nobody meant to have them, and of everybody.

use crate::support::role::{TestRole, healthy};

#[tokio::test]
async fn a_role_that_default_privileges_gave_everything_is_found_with_sql_that_takes_it_away() {
    let (site, _role) = healthy().await;
    let anon = TestRole::create(&site).await;
    let name = anon.quoted();
    // As on a server that has had them all along, when the tables were made.
    site.db
        .execute(format!(
            "alter default privileges in schema public grant all on tables to {name};
             alter default privileges in schema public grant all on functions to {name};
             alter default privileges in schema public grant all on sequences to {name};
             grant all on all tables in schema public to {name};
             grant all on all functions in schema public to {name};
             grant all on all sequences in schema public to {name}"
        ))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("rights_of_others");
    assert_eq!(
        diagnosis.find("rights_of_others")["subject"],
        name.trim_matches('"').replace("\"\"", "\"")
    );
    assert!(finding.contains(" more"), "{finding}");
    for part in [
        "credit_tokens(",
        "company_subscriptions",
        "token_ledger_seq",
        "dead_letters_with_charges",
    ] {
        assert!(fix.contains(part), "{part}: {fix}");
    }
    site.db.execute(fix).await;
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
    // The application's table alone: a default may have done that as well.
    site.db
        .execute(format!("grant update on company_subscriptions to {name}"))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, _) = diagnosis.only_failure("rights_of_others");
    assert!(
        finding.contains("update on company_subscriptions"),
        "{finding}"
    );
}

#[tokio::test]
async fn a_right_of_everybody_is_found() {
    let (site, _role) = healthy().await;
    for right in [
        "execute on function deduct_tokens_atomic(text,uuid,uuid,bigint,jsonb)",
        "insert on operator_actions",
        "update (purchased_token_balance) on company_subscriptions",
    ] {
        site.db.execute(format!("grant {right} to public")).await;
        let diagnosis = site.doctor().await;
        assert_eq!(diagnosis.find("rights_of_others")["subject"], "PUBLIC");
        diagnosis.failure("rights_of_others");
        site.db.execute(format!("revoke {right} from public")).await;
    }
    assert_eq!(site.doctor().await.with("failed"), [""; 0]);
}

#[tokio::test]
async fn who_changes_balances_by_sql_is_named_and_may_have_been_meant_to() {
    let (site, _role) = healthy().await;
    let application = TestRole::create(&site).await;
    let operator = TestRole::granted(&site, "operator").await;
    let name = application.quoted();
    site.db
        .execute(format!(
            "grant select, insert, update on company_subscriptions to {name};
             grant execute on function deduct_tokens_atomic(text,uuid,uuid,bigint,jsonb) to {name}"
        ))
        .await;
    let diagnosis = site.doctor().await;
    assert_eq!(diagnosis.with("failed"), [""; 0], "{diagnosis:#?}");
    let finding = diagnosis.finding("rights_of_others");
    let bare = |role: &TestRole| role.quoted().trim_matches('"').replace("\"\"", "\"");
    assert!(finding.contains(&bare(&application)), "{finding}");
    let (users, writers) = finding.split_once("; balances").expect("both");
    assert!(users.contains(&bare(&operator)), "{finding}");
    assert!(!writers.contains(&bare(&operator)), "{finding}");
    // Our own tables are another matter.
    site.db
        .execute(format!("grant delete on token_usage_logs to {name}"))
        .await;
    let diagnosis = site.doctor().await;
    let (finding, fix) = diagnosis.only_failure("rights_of_others");
    assert!(finding.contains("delete on token_usage_logs"), "{finding}");
    let (taken, _) = fix.split_once(" from ").expect("SQL");
    assert_eq!(taken, "revoke all on table token_usage_logs");
}
