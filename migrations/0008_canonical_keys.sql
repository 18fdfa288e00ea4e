-- One job, one key, however it is spelled.
--
-- Why: `uuid` has many spellings (upper case, braces, hyphens left out or moved), and a key that is text tells
-- them apart: a job without hyphens was another key and was charged again. So every function that takes a key
-- takes it through canonical_key(): what `uuid` accepts, with or without something invisible around it, is one
-- key, in lower case with hyphens. All other keys stay as they are.

-- Nobody charges under an old spelling while the old records are looked through. All that the migrations up to 0014
-- change is locked here, at once.
lock table token_deduction_records, token_credits, operator_actions, dead_letters, dead_letter_actions
    in share row exclusive mode;

-- A refund has its job's key, and a top-up may have it too: each kind has keys of its own.
alter table token_credits drop constraint token_credits_pkey;
-- One movement, one position.
alter table token_credits drop constraint token_credits_ledger_seq_key;
alter table token_credits add primary key (ledger_seq);
create unique index idx_token_credits_key on token_credits (idempotency_key) where kind <> 'refund';
create unique index idx_token_credits_refund on token_credits (idempotency_key) where kind = 'refund';

create function canonical_key(p_key text) returns text
language sql immutable parallel safe as $$
    -- Trimmed of what can't be seen: blanks of every width, line ends, control characters, byte order marks.
    select case
        when t.trimmed ~ '^(urn:uuid:)?[0-9a-f]{4}(-?[0-9a-f]{4}){7}$' or t.trimmed ~ '^\{[0-9a-f]{4}(-?[0-9a-f]{4}){7}\}$'
            then regexp_replace(t.trimmed, '^urn:uuid:|[{}-]', '', 'g')::uuid::text
        else p_key
    end
    from (select lower(regexp_replace(
              p_key collate "C",
              '^[\u0001- \u007f-\u00a0\u00ad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff]+'
              '|[\u0001- \u007f-\u00a0\u00ad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff]+$', '', 'g')) as trimmed) t
$$;

-- Whether a text may be a key at all: of bounded size (an index has to hold it), and without control characters,
-- which a person can neither see nor type.
create function is_key(p_key text) returns boolean
language sql immutable parallel safe as $$
    select coalesce(octet_length(p_key) between 1 and 1024 and p_key collate "C" !~ '[[:cntrl:]]', false)
$$;

revoke execute on function canonical_key(text), is_key(text) from public;

-- What is recorded already: one spelling of each job, and of several the one that was charged first. The others
-- keep their key; what they charged is for a person to refund (`token-billing audit` counts them as charges).
do $$
declare
    v_other record;
begin
    for v_other in
        select o.key, o.canonical, o.status,
               row_number() over (
                   partition by o.canonical
                   order by o.status not in ('completed', 'compensated'), o.ledger_seq, o.key) as place
        from (
            select r.idempotency_key as key, canonical_key(r.idempotency_key) as canonical, r.status, r.ledger_seq
            from token_deduction_records r
        ) o
        where o.key <> o.canonical collate "C"
    loop
        if v_other.place = 1
           and not exists (select from token_deduction_records where idempotency_key = v_other.canonical collate "C") then
            update token_deduction_records set idempotency_key = v_other.canonical where idempotency_key = v_other.key;
            update token_credits set idempotency_key = v_other.canonical
            where idempotency_key = v_other.key and kind = 'refund';
            update operator_actions set subject = v_other.canonical where subject = v_other.key and action = 'refund';
        else
            -- Nobody would ever make this pending charge: whoever tries is answered for the other record, which is
            -- tried in its place.
            if v_other.status = 'pending' then
                update token_deduction_records
                set status = 'pending', error_code = 'retries_exhausted', pending_since = clock_timestamp(),
                    error_message = 'Pending under another spelling of this job.'
                where idempotency_key = v_other.canonical and status = 'failed';
                update token_deduction_records
                set status = 'failed', error_code = 'other_spelling', claimed_until = null,
                    error_message = format('The same job as %s.', v_other.canonical)
                where idempotency_key = v_other.key;
            end if;
            raise warning 'job % was recorded under another spelling as well, which stays: % (%)',
                v_other.canonical, quote_literal(v_other.key), v_other.status;
        end if;
    end loop;
end $$;
