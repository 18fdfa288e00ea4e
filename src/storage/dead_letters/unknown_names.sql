-- Of the reasons $1, the group $2 and the company $3: what nothing has.
select array(select reason from unnest($1) with ordinality as typed (reason, n)
             where not exists (select from dead_letters d where d.reason = typed.reason)
             order by n) as reasons,
       $2 is not null
           and not exists (select from dead_letters d where d.group_id = $2) as group,
       $3 is not null
           and not exists (select from dead_letters d where d.company_id = $3)
           and not exists (select from company_subscriptions c where c.company_id = $3) as company
