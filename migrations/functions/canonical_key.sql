-- One job, one key, however it is spelled.
--
-- Why: `uuid` has many spellings (upper case, braces, hyphens left out or moved), and a key that is text would tell
-- them apart: a job without hyphens would be another key, and charged again. So every function that takes a key takes it
-- through this one: what `uuid` accepts, with or without something invisible around it, is one key, in lower case with
-- hyphens. All other keys stay as they are.
create or replace function canonical_key(p_key text) returns text
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
