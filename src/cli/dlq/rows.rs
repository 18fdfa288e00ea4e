//! How a dead letter looks in a line: the columns of `list` and `watch`.

use comfy_table::Cell;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::cli::output::{at_right, columns, cut_columns, number, printable, text};
use crate::storage::{ChargeState, DeadLetter};

/// From so many columns on there is room for whole ids and words.
const WIDE: usize = 140;
/// With fewer there is room for the error, or for the company and how often it arrived.
const NARROW: usize = 110;
/// Columns of a reason; ours are shorter, but anybody may dead-letter anything.
const REASON: usize = 24;

/// How much room a line has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    wide: bool,
    /// The error is worth more than what `dlq show` and `--output json` tell as well.
    pub(super) narrow: bool,
}

impl Room {
    pub(super) fn of_terminal() -> Self {
        let columns = columns();
        Self {
            wide: columns >= WIDE,
            narrow: columns < NARROW,
        }
    }

    /// Columns of the charge state and the company.
    pub(super) fn widths(self) -> (usize, usize) {
        if self.wide { (13, 36) } else { (8, 9) }
    }

    /// The company: whole, or by the beginning of its id.
    pub(super) fn company(self, id: Option<Uuid>) -> String {
        match id {
            None => "-".to_owned(),
            Some(id) if self.wide => id.to_string(),
            Some(id) => format!("{}…", &id.to_string()[..8]),
        }
    }

    /// Whether it was charged.
    pub(super) fn charged(self, state: ChargeState) -> &'static str {
        match state {
            ChargeState::NeverCharged if self.wide => "never charged",
            ChargeState::NeverCharged => "never",
            ChargeState::Charged => "charged",
            ChargeState::Pending => "pending",
            ChargeState::Compensated if self.wide => "compensated",
            ChargeState::Compensated => "refunded",
        }
    }
}

/// A reason as far as a column goes.
pub(super) fn reason(reason: &str) -> String {
    cut_columns(&printable(reason), REASON)
}

/// The columns after the id and the time.
pub(super) fn heading(room: Room) -> impl Iterator<Item = Cell> {
    let cells = [
        Some(text("reason")),
        Some(text("charged?")),
        (!room.narrow).then(|| text("company")),
        Some(at_right("tokens")),
        (!room.narrow).then(|| at_right("times")),
        Some(text("error")),
    ];
    cells.into_iter().flatten()
}

/// What stands in them.
pub(super) fn cells(dead_letter: &DeadLetter, room: Room) -> impl Iterator<Item = Cell> {
    let company = || text(&room.company(dead_letter.company_id));
    let cells = [
        Some(text(&reason(&dead_letter.reason))),
        Some(text(room.charged(dead_letter.charge_state))),
        (!room.narrow).then(company),
        Some(dead_letter.tokens.map_or_else(|| at_right("-"), number)),
        (!room.narrow).then(|| number(dead_letter.occurrences.into())),
        Some(text(&dead_letter.error)),
    ];
    cells.into_iter().flatten()
}

/// `12m`; what has yet to come by somebody's clock is `in 12m`.
pub(super) fn age(since: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (now - since).whole_seconds();
    if seconds < -60 {
        return format!("in {}", span(seconds.unsigned_abs()));
    }
    span(seconds.max(0).unsigned_abs())
}

/// `12m ago`.
pub(super) fn ago(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let age = age(at, now);
    if age.starts_with("in ") {
        age
    } else {
        format!("{age} ago")
    }
}

/// A time in its largest unit that makes it two or more.
pub(super) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m")];
    let unit = units.into_iter().find(|(unit, _)| seconds / unit >= 2);
    let (unit, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use time::macros::datetime;

    use super::*;

    #[test]
    fn an_age_is_told_in_one_unit() {
        let now = datetime!(2026-11-21 10:00 UTC);
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_199, "119m"),
            (7_200, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (-59, "0s"),
            (-7_200, "in 2h"),
        ] {
            assert_eq!(age(now - Duration::seconds(seconds), now), text);
        }
        assert_eq!(ago(now, now), "0s ago");
        assert_eq!(ago(now + Duration::hours(2), now), "in 2h");
    }
}
