//! Times of tables that anybody may write: `PostgreSQL` knows `infinity` and the year 294276, and sqlx panics
//! on either.

use sqlx::{
    Decode, Postgres, Type, ValueRef as _,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueFormat, PgValueRef},
};
use time::{Duration, OffsetDateTime, macros::datetime};

/// The earliest and the latest time that RFC 3339 can write.
const FIRST: OffsetDateTime = datetime!(0001-01-01 0:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999999 UTC);

/// A `timestamptz` that came from a table, or NULL: before [`FIRST`] it counts as that, after [`LAST`] as that. The
/// order of two times stays what it was, and whatever is said of them can be written.
///
/// Every time that a row is read into goes through it: `#[sqlx(try_from = "Bounded<OffsetDateTime>")]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounded<T>(pub(super) T);

impl<T> Type<Postgres> for Bounded<T> {
    fn type_info() -> PgTypeInfo {
        OffsetDateTime::type_info()
    }

    fn compatible(found: &PgTypeInfo) -> bool {
        found.type_eq(&Self::type_info())
    }
}

impl Decode<'_, Postgres> for Bounded<OffsetDateTime> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(from_micros(i64::decode(value)?))),
            // Only what is asked without parameters comes as text, and nothing of ours that has a time is.
            PgValueFormat::Text => OffsetDateTime::decode(value).map(Self),
        }
    }
}

impl Decode<'_, Postgres> for Bounded<Option<OffsetDateTime>> {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        if value.is_null() {
            return Ok(Self(None));
        }
        Bounded::<OffsetDateTime>::decode(value).map(|at| Self(Some(at.0)))
    }
}

impl From<Bounded<Self>> for OffsetDateTime {
    fn from(at: Bounded<Self>) -> Self {
        at.0
    }
}

impl From<Bounded<Self>> for Option<OffsetDateTime> {
    fn from(at: Bounded<Self>) -> Self {
        at.0
    }
}

/// Of microseconds since 2000, as they come; the infinities are the ends of their range.
fn from_micros(micros: i64) -> OffsetDateTime {
    let at = datetime!(2000-01-01 0:00 UTC).checked_add(Duration::microseconds(micros));
    let end = if micros < 0 { FIRST } else { LAST };
    at.unwrap_or(end).clamp(FIRST, LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_calendar_has_counts_as_the_nearest_that_it_has() {
        assert_eq!(from_micros(0), datetime!(2000-01-01 0:00 UTC));
        assert_eq!(from_micros(-1), datetime!(1999-12-31 23:59:59.999999 UTC));
        assert_eq!(from_micros(i64::MAX), LAST);
        assert_eq!(from_micros(i64::MIN), FIRST);
        let day = Duration::DAY.whole_microseconds() as i64;
        assert_eq!(from_micros(9_000 * 365 * day), LAST);
        assert_eq!(from_micros(-3_000 * 365 * day), FIRST);
    }
}
