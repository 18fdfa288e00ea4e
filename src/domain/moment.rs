//! Moments as people and other programs write them.

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// Of RFC 3339, in UTC; `None`: it is none, or there is none such in UTC in the years 1 to 9999.
pub(crate) fn moment(text: &str) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    // At either end of the calendar another offset may have no date for it.
    let at = at.checked_to_offset(UtcOffset::UTC)?;
    (1..=9999).contains(&at.year()).then_some(at)
}
