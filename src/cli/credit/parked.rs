//! What a credit could pay for now, for people.

use crate::cli::output::{count, thousands};
use crate::operations::replay::Parked;

/// `None`: there is nothing to say.
pub(super) fn in_words(parked: &Parked, replayed: bool) -> Option<String> {
    if parked.parked_dead_letters == 0 {
        return None;
    }
    let dead_letters = count(parked.parked_dead_letters, "parked dead letter");
    let mut text = format!(
        "of {dead_letters} of this company, the balance pays for {} ({})",
        thousands(parked.parked_payable),
        count(parked.parked_payable_tokens.unsigned_abs(), "token")
    );
    if parked.not_computed > 0 {
        let more = thousands(parked.not_computed);
        text.push_str(&format!(
            "; {more} not computed (busy, or beyond replay.plan_max)"
        ));
    }
    if parked.parked_payable > 0 && !replayed {
        text.push_str(": the same command with --replay-parked sends them again");
    }
    Some(text)
}
