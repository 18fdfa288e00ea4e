//! Pieces of SQL that several queries share; sqlx takes only text that is there at compile time.

/// The columns of [`Letter`].
macro_rules! letter_columns {
    () => {
        "d.id, d.state, d.reason, d.error, d.group_id, d.job_id, d.company_id, d.article_id, d.tokens,
         d.attempts, d.occurrences, d.first_failed_at, d.last_failed_at, octet_length(d.body) as body_bytes,
         d.edited_body is not null as edited, d.charge_state, d.charged_tokens, d.charged_company_id, d.charged_at,
         d.replayed_at, d.failed_again_as, d.last_arrival"
    };
}

/// The condition of a [`Selection`] on `d`, with the parameters $1 to $10 that [`Selection::bind`] binds.
macro_rules! selected {
    () => {
        "(cardinality($1::bigint[]) = 0 or d.id = any($1))
         and ($2::text is null or d.group_id = $2)
         and (cardinality($3::text[]) = 0 or d.reason = any($3))
         and ($4::uuid is null or d.company_id = $4)
         and ($5::uuid is null or d.job_id = $5)
         and ($6::timestamptz is null or d.last_failed_at >= $6)
         and ($7::timestamptz is null or d.last_failed_at < $7)
         and (cardinality($8::text[]) = 0 or d.state = any($8))
         and ($9::text is null or strpos(lower(d.error), lower($9)) > 0
              or position(convert_to($9, 'UTF8') in d.body) > 0)
         and ($10::bigint is null or d.id <= $10)"
    };
}
