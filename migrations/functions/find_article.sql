-- Whether `articles` has it, and since when. NULL: not to be told from what is there (no article is named, there is no
-- such table, its ids are no UUIDs, or it is empty: it may be that nobody fills it). The table is the application's, and
-- `articles.id bigint` must fail neither a sweep nor a look.
create or replace function find_article(p_article_id uuid, out is_there boolean, out created_at timestamptz)
language plpgsql stable as $$
begin
    -- A statement is planned when it is first reached: what isn't there is named only where it is.
    if p_article_id is null or not exists (
        select from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = to_regclass('articles') and a.attname = 'id' and not a.attisdropped
          and 'uuid'::regtype in (t.oid, t.typbasetype)
    ) then
        return;
    end if;
    is_there := exists (select from articles a where a.id = p_article_id);
    if not is_there and not exists (select from articles) then
        is_there := null;
    elsif is_there and exists (
        select from pg_attribute where attrelid = to_regclass('articles') and attname = 'created_at' and not attisdropped
    ) then
        created_at := (select a.created_at from articles a where a.id = p_article_id limit 1);
    end if;
end $$;
