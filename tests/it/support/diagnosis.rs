//! What `doctor` says.

use serde_json::Value;

use super::{command::Ran, site::Site};

/// The document of one run.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    ran: Ran,
    document: Value,
}

impl Site {
    pub(crate) async fn doctor(&self) -> Diagnosis {
        self.doctor_in(&[]).await
    }

    /// With these variables in place of the site's own.
    pub(crate) async fn doctor_in(&self, variables: &[(&str, &str)]) -> Diagnosis {
        let args = ["doctor", "--output", "json"];
        Diagnosis::of(self.run_in(variables, &args).await)
    }
}

impl Diagnosis {
    /// Holds the exit code to the findings.
    pub(crate) fn of(ran: Ran) -> Self {
        let document = ran.json();
        let diagnosis = Self { ran, document };
        let failed = !diagnosis.with("failed").is_empty();
        assert_eq!(diagnosis.document["healthy"], !failed, "{diagnosis:#?}");
        if failed {
            diagnosis.ran.failed(1);
        } else {
            diagnosis.ran.done();
        }
        diagnosis
    }

    /// The checks that came out like this.
    pub(crate) fn with(&self, verdict: &str) -> Vec<&str> {
        let checks = self.checks().iter();
        let checks = checks.filter(|check| check["verdict"] == verdict);
        checks
            .map(|check| check["check"].as_str().expect("a name"))
            .collect()
    }

    /// The only check that failed: what was found, and the fix.
    pub(crate) fn only_failure(&self, check: &str) -> (&str, &str) {
        assert_eq!(self.with("failed"), [check], "{self:#?}");
        self.failure(check)
    }

    /// The first check of that name, which failed.
    pub(crate) fn failure(&self, check: &str) -> (&str, &str) {
        self.failed(self.find(check))
    }

    /// The check of this exchange or queue, which failed.
    pub(crate) fn failure_of(&self, subject: &str) -> (&str, &str) {
        let mut checks = self.checks().iter();
        let found = checks.find(|one| one["subject"] == subject);
        self.failed(found.unwrap_or_else(|| panic!("no {subject} in {self:#?}")))
    }

    fn failed<'a>(&'a self, found: &'a Value) -> (&'a str, &'a str) {
        assert_eq!(found["verdict"], "failed", "{self:#?}");
        let fix = found["fix"].as_str().expect("a fix");
        (found["finding"].as_str().expect("a finding"), fix)
    }

    /// What the first check of that name found.
    pub(crate) fn finding(&self, check: &str) -> &str {
        self.find(check)["finding"].as_str().expect("a finding")
    }

    pub(crate) fn find(&self, check: &str) -> &Value {
        let mut checks = self.checks().iter();
        let found = checks.find(|one| one["check"] == check);
        found.unwrap_or_else(|| panic!("no {check} in {self:#?}"))
    }

    /// The line of that name about this.
    pub(crate) fn of_subject(&self, check: &str, subject: &str) -> &Value {
        let mut lines = self.all(check).into_iter();
        let line = lines.find(|line| line["subject"] == subject);
        line.unwrap_or_else(|| panic!("no {check} of {subject} in {self:#?}"))
    }

    /// All lines of that name.
    pub(crate) fn all(&self, check: &str) -> Vec<&Value> {
        let lines = self.checks().iter();
        lines.filter(|line| line["check"] == check).collect()
    }

    pub(crate) fn status(&self) -> &Value {
        &self.document["status"]
    }

    fn checks(&self) -> &[Value] {
        self.document["checks"].as_array().expect("checks")
    }
}
