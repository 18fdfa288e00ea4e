-- The cast of `deploy/local.sh demo`: four companies and what they wrote today, in the tables that an
-- application owns. What only the demo needs is in a schema of its own.

create schema demo;

create table demo.companies (
    company_id uuid primary key default gen_random_uuid(),
    name text not null,
    monthly bigint not null,
    purchased bigint not null,
    period_end timestamptz not null,
    articles bigint[] not null -- the tokens of each
);

insert into demo.companies (name, monthly, purchased, period_end, articles) values
    ('Amber Press',  300,    1000,   now() + interval '12 days', '{120,90,150,200,140,100}'),
    ('Boreal Books', 100000, 500000, now() + interval '20 days',
        (select array_agg(400 + n * n * 37 % 1700) from generate_series(1, 22) n)),
    ('Cedar Daily',  5000,    20000,   now() - interval '3 days',  '{300,450,250,600,350}'),
    ('Dune Digest',  100,     0,       now() + interval '5 days',  '{500}');

insert into company_subscriptions
    (company_id, monthly_token_quota, monthly_quota_balance, purchased_token_balance, current_period_end)
select company_id, monthly, monthly, purchased, period_end from demo.companies;

-- Finished articles, one of them for a company that nobody knows. One job's row comes only after its
-- event, which leaves the company to that row.
create table demo.articles as
select gen_random_uuid() as job_id, gen_random_uuid() as article_id, company_id, tokens, number,
       number = 6 and name = 'Boreal Books' as late
from (
    select company_id, tokens, number, name
    from demo.companies, unnest(articles) with ordinality as a (tokens, number)
    union all
    select gen_random_uuid(), 700, 1, null
) finished;

insert into articles (id, company_id) select article_id, company_id from demo.articles;
insert into article_jobs (id, company_id, article_id, status)
select job_id, company_id, article_id, 'generated' from demo.articles where not late;

-- What gets published: every article, every sixth one without its company (the job knows it), and
-- four of them twice, as a publisher does that never saw its confirm.
create table demo.events as
select jsonb_strip_nulls(jsonb_build_object(
    'job_id', job_id,
    'tokens', tokens,
    'company_id', case when number % 6 <> 0 then company_id end,
    'article_id', article_id,
    'usage_type', 'article_generation',
    'occurred_at', to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
)) as event
from demo.articles, generate_series(1, case when number = 4 or (number = 5 and tokens > 400) then 2 else 1 end);

-- And one that names another company than its job does.
with job as (
    insert into article_jobs (id, company_id, status)
    select gen_random_uuid(), company_id, 'generated' from demo.companies where name = 'Cedar Daily'
    returning id
)
insert into demo.events
select jsonb_build_object('job_id', job.id, 'tokens', 900, 'company_id', company_id)
from job, demo.companies where name = 'Boreal Books';

-- What the worker logged, read in afterwards.
create table demo.log (line jsonb not null);
