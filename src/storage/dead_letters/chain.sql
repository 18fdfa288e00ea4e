-- Of the replays that $1 stands in: back to what it is the failed replay of, and on to what became of its own.
with recursive before as (
    select d.id from dead_letters d where d.id = $1
    union select d.id from before b join dead_letters d on d.failed_again_as = b.id
), after as (
    select d.id, d.failed_again_as from dead_letters d where d.id = $1
    union
    select d.id, d.failed_again_as from after a join dead_letters d on d.id = a.failed_again_as
)
select id from before union select id from after order by id limit 100
