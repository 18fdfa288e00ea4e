//! The balances computed anew, bucket by bucket, from the movements alone: no function of the database, no
//! code of the audit. What the ledger says and what comes out here must be the same.

use std::collections::{HashMap, HashSet};

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// What a company has, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buckets {
    pub(super) monthly: i64,
    pub(super) purchased: i64,
    pub(super) period_end: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub(super) struct Charge {
    pub(super) key: String,
    pub(super) record: Uuid,
    pub(super) amount: i64,
    pub(super) monthly: i64,
    pub(super) purchased: i64,
    pub(super) before: i64,
    pub(super) after: i64,
    pub(super) period_end: Option<OffsetDateTime>,
    pub(super) is_compensated: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Credit {
    pub(super) key: String,
    pub(super) kind: String,
    pub(super) monthly: i64,
    pub(super) purchased: i64,
    pub(super) forfeited: i64,
    pub(super) before: Buckets,
    pub(super) after: Buckets,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Charge(Charge),
    Credit(Credit),
    /// The application's own SQL; `None`: the company isn't there.
    External {
        before: Option<Buckets>,
        after: Option<Buckets>,
    },
}

/// One movement of a company, at its place in the ledger.
#[derive(Debug, Clone)]
pub(super) struct Movement {
    pub(super) seq: i64,
    pub(super) company: Uuid,
    pub(super) at: OffsetDateTime,
    pub(super) what: What,
}

/// A usage log: its id, its company, its tokens.
pub(super) type Log = (i64, Uuid, i64);

/// Everything that moved tokens, and what is there now.
#[derive(Debug, Default)]
pub(super) struct Recomputed {
    /// In the order of the ledger.
    pub(super) movements: Vec<Movement>,
    pub(super) companies: HashMap<Uuid, Buckets>,
    /// By the record that they are of.
    pub(super) logs: HashMap<Uuid, Vec<Log>>,
}

impl Recomputed {
    /// Everything that doesn't come out as the ledger says.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut state: HashMap<Uuid, Option<Buckets>> = HashMap::new();
        let mut charged: HashMap<&str, &Charge> = HashMap::new();
        let mut last = None;
        for movement in &self.movements {
            let Movement { seq, company, .. } = movement;
            if last.replace(*seq) == Some(*seq) {
                faults.push(format!("two movements at {seq}"));
            }
            let had = state.get(company).copied().flatten();
            let has = match &movement.what {
                What::Charge(charge) => {
                    charged.insert(&charge.key, charge);
                    movement.charge(charge, had)
                }
                What::Credit(credit) => movement.credit(credit, had, &charged),
                What::External { before, after } if *before == had => Ok(*after),
                What::External { before, .. } => Err(format!("the application met {before:?}")),
            };
            state.insert(
                *company,
                has.unwrap_or_else(|fault| {
                    faults.push(format!("{seq} of {company}, had {had:?}: {fault}"));
                    movement.claimed(had)
                }),
            );
        }
        let mut known: HashSet<&Uuid> = state.keys().collect();
        known.extend(self.companies.keys());
        for company in known {
            let (computed, found) = (state.get(company).copied(), self.companies.get(company));
            if computed.flatten() != found.copied() {
                faults.push(format!("{company} has {found:?}, computed {computed:?}"));
            }
        }
        faults.extend(self.log_faults());
        faults
    }

    /// Whether the application changed this company between these two movements.
    pub(super) fn has_external(&self, company: Uuid, after: i64, before: Option<i64>) -> bool {
        self.movements.iter().any(|movement| {
            matches!(movement.what, What::External { .. })
                && movement.company == company
                && movement.seq > after
                && before.is_none_or(|before| movement.seq < before)
        })
    }

    /// The movements of a company around one of them.
    pub(super) fn of(&self, company: Uuid, seq: i64) -> Vec<&Movement> {
        let near = |movement: &&Movement| {
            movement.company == company && (seq - 200..seq + 200).contains(&movement.seq)
        };
        self.movements.iter().filter(near).collect()
    }

    /// Each charge has one log of its tokens, each refunded one another that takes them back, and there are no
    /// others. No job is charged under two spellings.
    fn log_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut of_charges = HashSet::new();
        let mut jobs = HashSet::new();
        for movement in &self.movements {
            let What::Charge(charge) = &movement.what else {
                continue;
            };
            of_charges.insert(charge.record);
            let logs = self.logs.get(&charge.record).map_or(&[][..], Vec::as_slice);
            let mut tokens: Vec<i64> = logs.iter().map(|log| log.2).collect();
            tokens.sort_unstable();
            let expected = match charge.is_compensated {
                true => vec![-charge.amount, charge.amount],
                false => vec![charge.amount],
            };
            let own = logs.first().is_some_and(|log| log.0 == movement.seq)
                && logs.iter().all(|log| log.1 == movement.company);
            if tokens != expected || !own {
                faults.push(format!("logs of {}: {logs:?}", charge.key));
            }
            if !jobs.insert(canonical(&charge.key)) {
                faults.push(format!("charged under two spellings: {:?}", charge.key));
            }
        }
        let strangers = self.logs.keys().filter(|id| !of_charges.contains(id));
        faults.extend(strangers.map(|id| format!("logs of no charge: {id}")));
        faults
    }
}

impl Movement {
    /// What the company has after it.
    fn charge(&self, charge: &Charge, had: Option<Buckets>) -> Result<Option<Buckets>, String> {
        let had = had.ok_or("charged without a company")?;
        let expired = had.period_end.is_some_and(|end| end <= self.at);
        let spendable = if expired { 0 } else { had.monthly };
        // The quota first, since it expires.
        let monthly = charge.amount.min(spendable);
        let purchased = charge.amount - monthly;
        let before = spendable + had.purchased;
        let period_end = had.period_end.filter(|_| monthly > 0);
        let as_written = (
            charge.monthly,
            charge.purchased,
            charge.before,
            charge.after,
            charge.period_end,
        );
        let computed = (
            monthly,
            purchased,
            before,
            before - charge.amount,
            period_end,
        );
        if as_written != computed || purchased > had.purchased {
            return Err(format!(
                "charged {as_written:?}, but it comes to {computed:?}"
            ));
        }
        Ok(Some(Buckets {
            monthly: had.monthly - monthly,
            purchased: had.purchased - purchased,
            ..had
        }))
    }

    fn credit(
        &self,
        credit: &Credit,
        had: Option<Buckets>,
        charged: &HashMap<&str, &Charge>,
    ) -> Result<Option<Buckets>, String> {
        let had = had.ok_or("credited without a company")?;
        let mut has = had;
        let mut forfeited = 0;
        match credit.kind.as_str() {
            "top_up" => has.purchased += credit.purchased,
            "renewal" => {
                forfeited = had.monthly;
                has.monthly = credit.monthly;
                has.period_end = credit.after.period_end;
            }
            _ => {
                let charge = charged
                    .get(credit.key.as_str())
                    .ok_or("refund of nothing")?;
                if !charge.is_compensated {
                    return Err("refunded, but not compensated".to_owned());
                }
                has.purchased += charge.purchased;
                if self.gives_back_quota(charge, credit, had) {
                    has.monthly += charge.monthly;
                } else if credit.purchased > charge.purchased {
                    // Whoever refunds may choose this.
                    has.purchased += charge.monthly;
                } else {
                    forfeited = charge.monthly;
                }
            }
        }
        if (credit.before, credit.after, credit.forfeited) != (had, has, forfeited) {
            return Err(format!(
                "{credit:?}, but it comes to {has:?}, {forfeited} forfeited"
            ));
        }
        Ok(Some(has))
    }

    /// Quota goes back only into the period that it came from, while that lasts.
    fn gives_back_quota(&self, charge: &Charge, credit: &Credit, had: Buckets) -> bool {
        let left = had.period_end.map(|end| end - self.at);
        // The function looks at its clock twice: around the very end either is right.
        if left.is_some_and(|left| left.abs() < Duration::milliseconds(100)) {
            return credit.monthly == charge.monthly;
        }
        charge.period_end == had.period_end && left.is_none_or(Duration::is_positive)
    }

    /// What the movement itself says is there after it: to go on from, so that one fault is told once.
    fn claimed(&self, had: Option<Buckets>) -> Option<Buckets> {
        match &self.what {
            What::Charge(charge) => had.map(|had| Buckets {
                monthly: had.monthly - charge.monthly,
                purchased: had.purchased - charge.purchased,
                ..had
            }),
            What::Credit(credit) => Some(credit.after),
            What::External { after, .. } => *after,
        }
    }
}

/// A job's id, however it is spelled; any other key as it is.
pub(super) fn canonical(key: &str) -> String {
    let bare: String = key
        .chars()
        .filter(char::is_ascii_hexdigit)
        .flat_map(char::to_lowercase)
        .collect();
    let is_uuid = bare.len() == 32
        && key
            .chars()
            .all(|c| c.is_ascii_hexdigit() || c.is_whitespace() || "{}-".contains(c));
    if is_uuid { bare } else { key.to_owned() }
}
