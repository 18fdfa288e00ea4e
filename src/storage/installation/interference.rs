//! What can change the meaning of our statements from outside: row level security, triggers, rules.

use super::{Finding, Inspection, Purpose, Severity, grants::quoted, rights};
use crate::storage::StorageError;

/// Where row level security is in force for a role that needs all rows: the owner of our functions, or the
/// connected one where it reads. A policy that lets the role see everything does no harm.
/// $1 tables.
const HIDDEN: &str = include_str!("row_security.sql");

impl Inspection {
    pub(super) async fn row_security(
        &mut self,
        purpose: Option<Purpose>,
    ) -> Result<Vec<Finding>, StorageError> {
        let tables = [&rights::GUARDED[..], &rights::APPLICATIONS].concat();
        let hidden: Vec<(String, String, bool)> = self
            .ask(async |connection| {
                sqlx::query_as(HIDDEN)
                    .bind(&tables)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let finding = |(table, role, is_owner): (String, String, bool)| {
            // Hidden from the functions, a company with tokens or the job that names it is not found, a charged key is
            // charged again, and an article that is there is written off. The worker itself reads counts only.
            let severity = if is_owner {
                Severity::Blocking
            } else {
                Severity::Fault
            };
            let whose = if is_owner {
                "as whom the functions run"
            } else {
                "which is connected"
            };
            let finding = format!("row level security may hide rows from {role}, {whose}");
            let role = quoted(&role);
            let fix = format!(
                "create policy token_billing on {table} to {role} using (true) with check (true), or, where a \
                 restrictive policy is in force: alter role {role} bypassrls"
            );
            Finding::new(severity, "row_security", finding, fix).of(table)
        };
        let asked = hidden
            .into_iter()
            .filter(|(.., is_owner)| *is_owner || purpose.is_some());
        Ok(asked.map(finding).collect())
    }

    /// Triggers and rules of the application's that a charge sets off.
    pub(super) async fn triggers(&mut self) -> Result<Vec<Finding>, StorageError> {
        let (role, triggers): (String, Vec<(String, String, String, bool)>) = self
            .ask(async |connection| {
                let role = sqlx::query_scalar("select current_setting('session_replication_role')")
                    .fetch_one(&mut *connection)
                    .await?;
                let triggers = sqlx::query_as(include_str!("triggers.sql"))
                    .fetch_all(connection)
                    .await?;
                Ok((role, triggers))
            })
            .await?;
        let mut findings = Vec::new();
        if role != "origin" {
            let finding = format!(
                "session_replication_role is {role}: triggers that keep the ledger don't run"
            );
            let fix = "alter database … reset session_replication_role, and the same for the role";
            findings.push(Finding::new(Severity::Blocking, "triggers", finding, fix));
        }
        for (table, name, function, is_deferred) in triggers {
            if function.is_empty() {
                let finding = format!(
                    "rule {name} changes what an update does: balances may stay as they were"
                );
                let fix = format!("drop rule {name} on {table}");
                findings.push(Finding::new(Severity::Fault, "triggers", finding, fix).of(table));
                continue;
            }
            let when = match (is_deferred, table.as_str()) {
                (true, _) => "runs at the commit of each charge, and undoes it if it fails there",
                (false, "article_jobs") => "runs within each charge, which stands if it fails",
                (false, _) => "runs within each charge, and fails it if it fails",
            };
            findings.push(Finding {
                check: "triggers",
                subject: Some(table),
                finding: format!("trigger {name} (function {function}) {when}"),
                fix: None,
                severity: Severity::Note,
            });
        }
        Ok(findings)
    }
}
