//! Random sequences of what may happen to the ledger, with few keys and companies: collisions are the rule.

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use crate::support::ledger::Item;

/// The last ones, from the sixth on, are no UUIDs.
pub(super) const KEYS: usize = 7;
/// The last one is unknown.
pub(super) const COMPANIES: usize = 4;

#[derive(Debug, Clone)]
pub(super) enum Move {
    Charges {
        items: Vec<Charge>,
        /// When both functions take turns.
        as_batch: bool,
    },
    Mark(Charge),
    TopUp {
        company: usize,
        amount: i64,
    },
    Renew {
        company: usize,
        quota: i64,
    },
    Expire {
        company: usize,
    },
    Hold {
        key: usize,
        company: usize,
        amount: i64,
    },
    Release {
        key: usize,
    },
    ExpireHold {
        key: usize,
    },
    Refund {
        key: usize,
        /// What is expired is given as purchased tokens.
        as_purchased: bool,
    },
}

/// `None`: NULL.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    key: Option<usize>,
    company: Option<usize>,
    amount: Option<i64>,
    has_article: bool,
    has_usage_type: bool,
    pub(super) in_upper_case: bool,
}

/// The ids that one run gives to keys and companies.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) keys: Vec<String>,
    pub(super) companies: Vec<Uuid>,
    article: Uuid,
}

impl Names {
    pub(super) fn new() -> Self {
        let name = |number| match number {
            0..5 => Uuid::new_v4().to_string(),
            _ => format!("Order {}", Uuid::new_v4()),
        };
        Self {
            keys: (0..KEYS).map(name).collect(),
            companies: (0..COMPANIES).map(|_| Uuid::new_v4()).collect(),
            article: Uuid::new_v4(),
        }
    }

    pub(super) fn item(&self, charge: &Charge) -> Item {
        let key = charge.key.map(|key| self.keys[key].clone());
        let usage_type = charge.has_usage_type.then(|| "translation".to_owned());
        Item {
            job_id: key.as_ref().and_then(|key| key.parse().ok()),
            key,
            company_id: charge.company.map(|company| self.companies[company]),
            article_id: charge.has_article.then_some(self.article),
            amount: charge.amount,
            metadata: Some(json!({"usage_type": usage_type})),
            usage_type,
        }
    }
}

/// Those that completion events could say, as the worker would have it. An event without a company finds that of an earlier
/// one of its job only if they are charged apart: both answers are right, so such are left out.
pub(super) fn as_events(items: impl IntoIterator<Item = Item>) -> Vec<Item> {
    let mut events: Vec<Item> = Vec::new();
    for mut item in items {
        let is_valid = item.job_id.is_some() && item.amount.is_some_and(|amount| amount >= 1);
        let is_ambiguous =
            item.company_id.is_none() && events.iter().any(|earlier| earlier.key == item.key);
        if is_valid && !is_ambiguous {
            item.usage_type
                .get_or_insert_with(|| "article_generation".to_owned());
            events.push(item);
        }
    }
    events
}

fn null_now_and_then<T: std::fmt::Debug + Clone + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![40 => of.prop_map(Some), 1 => Just(None)]
}

fn charge() -> impl Strategy<Value = Charge> {
    let amount = prop_oneof![
        12 => prop::sample::select(vec![10_i64, 25, 60]),
        3 => 1..200_i64,
        1 => prop::sample::select(vec![0, -1, i64::MIN, i64::MAX, i64::MAX - 60]),
    ];
    (
        null_now_and_then(0..KEYS),
        null_now_and_then(prop_oneof![3 => Just(0), 2 => Just(1), 1 => 0..COMPANIES]),
        null_now_and_then(amount),
        any::<bool>(),
        prop::bool::weighted(0.2),
        any::<bool>(),
    )
        .prop_map(
            |(key, company, amount, has_article, has_usage_type, in_upper_case)| Charge {
                key,
                company,
                amount,
                has_article,
                has_usage_type,
                in_upper_case,
            },
        )
}

fn chargeable() -> impl Strategy<Value = Charge> {
    charge().prop_filter("pending needs a whole request", |charge| {
        charge.key.is_some()
            && charge.company.is_some()
            && charge.amount.is_some_and(|amount| amount >= 1)
    })
}

fn charges() -> impl Strategy<Value = Move> {
    // Every third one is, to the dead letter, an earlier one of the same batch.
    let item = (
        charge(),
        prop::option::weighted(0.3, any::<prop::sample::Index>()),
    );
    (prop::collection::vec(item, 1..8), any::<bool>()).prop_map(|(drawn, as_batch)| {
        let mut items: Vec<Charge> = Vec::new();
        for (new, repeats) in drawn {
            let earlier = repeats
                .filter(|_| !items.is_empty())
                .map(|index| index.get(&items).clone());
            items.push(earlier.unwrap_or(new));
        }
        Move::Charges { items, as_batch }
    })
}

fn refund() -> impl Strategy<Value = Move> {
    (0..KEYS, any::<bool>()).prop_map(|(key, as_purchased)| Move::Refund { key, as_purchased })
}

fn hold() -> impl Strategy<Value = Move> {
    let company = prop_oneof![3 => Just(0), 2 => Just(1), 1 => 0..COMPANIES];
    let amount = prop::sample::select(vec![10_i64, 25, 60, 90]);
    (0..KEYS, company, amount).prop_map(|(key, company, amount)| Move::Hold {
        key,
        company,
        amount,
    })
}

fn release() -> impl Strategy<Value = Move> {
    (0..KEYS).prop_map(|key| Move::Release { key })
}

/// Whatever may happen.
pub(super) fn sequence() -> impl Strategy<Value = Vec<Move>> {
    let top_up = prop_oneof![
        6 => prop::sample::select(vec![5_i64, 40, 100]),
        1 => prop::sample::select(vec![i64::MAX, i64::MAX - 100]),
    ];
    let quota = prop::sample::select(vec![0_i64, 30, 100, i64::MAX - 50]);
    let one = prop_oneof![
        10 => charges(),
        1 => chargeable().prop_map(Move::Mark),
        2 => (0..COMPANIES, top_up).prop_map(|(company, amount)| Move::TopUp { company, amount }),
        1 => (0..COMPANIES, quota).prop_map(|(company, quota)| Move::Renew { company, quota }),
        1 => (0..COMPANIES).prop_map(|company| Move::Expire { company }),
        6 => hold(),
        1 => release(),
        1 => (0..KEYS).prop_map(|key| Move::ExpireHold { key }),
        2 => refund(),
    ];
    prop::collection::vec(one, 1..16)
}

/// What several may do at once so that the ledger still form an unbroken chain.
pub(super) fn unbroken_sequence() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => charges(),
        1 => chargeable().prop_map(Move::Mark),
        1 => (0..COMPANIES).prop_map(|company| Move::TopUp { company, amount: 40 }),
        3 => hold(),
        1 => release(),
        1 => refund(),
    ];
    prop::collection::vec(one, 1..12)
}
