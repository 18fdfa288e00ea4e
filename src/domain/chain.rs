//! The chain of a company's movements: each one starts where the one before it ended, unless a monthly
//! quota expired in between. What nothing explains was changed from outside.

use time::OffsetDateTime;

/// What a company has, by bucket, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buckets {
    /// As stored; spendable only until `period_end`.
    pub monthly: i64,
    /// Doesn't expire.
    pub purchased: i64,
    /// `None`: the monthly quota doesn't expire.
    pub period_end: Option<OffsetDateTime>,
}

impl Buckets {
    fn spendable(&self, at: OffsetDateTime) -> i64 {
        let expired = self.period_end.is_some_and(|end| end <= at);
        let monthly = if expired { 0 } else { self.monthly };
        // As the function that charges has it: an application may have given more than a balance holds.
        self.purchased.saturating_add(monthly)
    }
}

/// The figures of a charge, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeFigures {
    /// What could be spent before.
    pub before: i64,
    pub after: i64,
    /// The share of purchased tokens; the rest was monthly quota.
    pub purchased: i64,
    /// Whose quota that was; `None` also where it doesn't expire.
    pub period_end: Option<OffsetDateTime>,
}

/// One movement of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// Tokens were taken.
    Charge(ChargeFigures),
    /// Tokens were given: a top-up, a renewal or a refund.
    Credit { before: Buckets, after: Buckets },
}

/// What doesn't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Tokens that came (or, negative, went) without a movement.
    pub tokens: i64,
    /// The movement before; `None`: there is none.
    pub after_seq: Option<i64>,
    /// The movement after; `None`: today's balance.
    pub before_seq: Option<i64>,
}

/// What is known of a company after its last movement.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// Both buckets.
    Split(Buckets),
    /// Only what could be spent, and perhaps until when a part of it can.
    Total {
        spendable: i64,
        period_end: Option<OffsetDateTime>,
    },
}

impl Known {
    /// The least and the most that can be spent at this moment, if nobody else changed anything.
    fn spendable(&self, at: OffsetDateTime) -> (i64, i64) {
        match self {
            Self::Split(buckets) => (buckets.spendable(at), buckets.spendable(at)),
            // How much of it was monthly isn't known, so it may all have been.
            Self::Total {
                spendable,
                period_end: Some(end),
            } if *end <= at => (0, *spendable),
            Self::Total { spendable, .. } => (*spendable, *spendable),
        }
    }
}

/// Follows the movements of one company, in the order of its ledger.
#[derive(Debug, Default)]
pub struct Chain {
    last: Option<(i64, Known)>,
}

impl Chain {
    /// The next movement, and whether what was there before explains where it starts.
    pub fn follow(&mut self, seq: i64, at: OffsetDateTime, movement: &Movement) -> Option<Gap> {
        let (before, known) = match movement {
            Movement::Charge(charge) => (charge.before, self.after_charge(at, charge)),
            Movement::Credit { before, after } => (before.spendable(at), Known::Split(*after)),
        };
        let gap = self.gap(before, at, Some(seq));
        self.last = Some((seq, known));
        gap
    }

    /// What the company has now, after its last movement.
    pub fn end(&self, now: &Buckets, at: OffsetDateTime) -> Option<Gap> {
        self.gap(now.spendable(at), at, None)
    }

    fn gap(&self, found: i64, at: OffsetDateTime, before_seq: Option<i64>) -> Option<Gap> {
        // The first movement has an opening balance before it, which nothing has to explain.
        let (after_seq, known) = self.last.as_ref()?;
        let (least, most) = known.spendable(at);
        let tokens = found - found.clamp(least, most);
        (tokens != 0).then_some(Gap {
            tokens,
            after_seq: Some(*after_seq),
            before_seq,
        })
    }

    fn after_charge(&self, at: OffsetDateTime, charge: &ChargeFigures) -> Known {
        match self.last {
            // The monthly quota is spent first, so there is none left.
            _ if charge.purchased > 0 => Known::Split(Buckets {
                monthly: 0,
                purchased: charge.after,
                period_end: None,
            }),
            Some((_, Known::Split(buckets))) if buckets.spendable(at) == charge.before => {
                Known::Split(Buckets {
                    monthly: buckets.monthly - (charge.before - charge.after),
                    // All of it was quota, so it tells until when that lasts: an application may have moved the
                    // end without moving a token, and a later movement must not be blamed for that.
                    period_end: charge.period_end,
                    ..buckets
                })
            }
            _ => Known::Total {
                spendable: charge.after,
                period_end: charge.period_end,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    const NOON: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    fn at(minutes: i64) -> OffsetDateTime {
        NOON + Duration::minutes(minutes)
    }

    fn buckets(monthly: i64, purchased: i64, period_end: Option<i64>) -> Buckets {
        Buckets {
            monthly,
            purchased,
            period_end: period_end.map(at),
        }
    }

    fn charge(before: i64, monthly: i64, purchased: i64, period_end: Option<i64>) -> Movement {
        Movement::Charge(ChargeFigures {
            before,
            after: before - monthly - purchased,
            purchased,
            period_end: period_end.map(at),
        })
    }

    /// The gaps between movements a minute apart and before the balance at the end.
    fn gaps(movements: &[Movement], now: Buckets) -> Vec<(i64, Option<i64>, Option<i64>)> {
        let mut chain = Chain::default();
        let mut gaps = Vec::new();
        for (seq, movement) in (1..).zip(movements) {
            gaps.extend(chain.follow(seq, at(seq), movement));
        }
        let end = i64::try_from(movements.len()).unwrap() + 1;
        gaps.extend(chain.end(&now, at(end)));
        let parts = |gap: Gap| (gap.tokens, gap.after_seq, gap.before_seq);
        gaps.into_iter().map(parts).collect()
    }

    #[test]
    fn what_follows_has_no_gap() {
        let credit = Movement::Credit {
            before: buckets(0, 20, None),
            after: buckets(0, 70, None),
        };
        let movements = [
            charge(100, 60, 0, Some(99)),
            charge(40, 0, 20, None),
            credit,
        ];
        assert_eq!(gaps(&movements, buckets(0, 70, None)), []);
        assert_eq!(gaps(&[], buckets(5, 5, None)), []);
    }

    #[test]
    fn what_came_or_went_from_outside_is_a_gap_with_its_place() {
        let movements = [
            charge(100, 0, 10, None),
            charge(190, 0, 10, None),
            charge(150, 0, 10, None),
        ];
        assert_eq!(
            gaps(&movements, buckets(0, 141, None)),
            [
                (100, Some(1), Some(2)),
                (-30, Some(2), Some(3)),
                (1, Some(3), None)
            ]
        );
    }

    #[test]
    fn a_period_that_was_moved_from_outside_is_no_gap_of_a_later_movement() {
        let renewal = Movement::Credit {
            before: buckets(0, 0, None),
            after: buckets(100, 50, Some(3)),
        };
        // Made longer: what should have been gone at 3 is still there.
        let longer = [renewal, charge(150, 10, 0, None), charge(140, 10, 0, None)];
        assert_eq!(gaps(&longer, buckets(80, 50, None)), []);
        // Made shorter: it is gone sooner.
        let shorter = [
            Movement::Credit {
                before: buckets(0, 0, None),
                after: buckets(100, 50, Some(99)),
            },
            charge(150, 10, 0, Some(3)),
            charge(50, 0, 5, None),
        ];
        assert_eq!(gaps(&shorter, buckets(90, 45, Some(3))), []);
    }

    #[test]
    fn an_expired_quota_is_no_gap_where_it_can_have_been_that() {
        let renewal = Movement::Credit {
            before: buckets(0, 50, None),
            after: buckets(100, 50, Some(2)),
        };
        // Known to the token.
        let movements = [renewal, charge(50, 0, 5, None)];
        assert_eq!(gaps(&movements, buckets(100, 45, Some(2))), []);
        let short = [renewal, charge(49, 0, 5, None)];
        assert_eq!(gaps(&short, buckets(0, 44, None)), [(-1, Some(1), Some(2))]);
        // How much of it was monthly isn't known: it may have been all, but not more.
        let unknown = |before| [charge(100, 10, 0, Some(2)), charge(before, 0, 5, None)];
        assert_eq!(gaps(&unknown(30), buckets(0, 25, None)), []);
        assert_eq!(
            gaps(&unknown(95), buckets(0, 90, None)),
            [(5, Some(1), Some(2))]
        );
        // And before it ended nothing may be missing.
        let early = [charge(100, 10, 0, Some(99)), charge(30, 0, 5, None)];
        assert_eq!(
            gaps(&early, buckets(0, 25, None)),
            [(-60, Some(1), Some(2))]
        );
    }
}
