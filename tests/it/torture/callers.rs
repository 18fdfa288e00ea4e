//! Those who call the functions from SQL, and the application that does as it likes with its own tables.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use super::world::{JOBS_AHEAD, Request, World};
use crate::support::{
    dice::Dice,
    ledger::{Item, deduct_batch, deduct_item, mark_pending},
};

/// One connection at a time, and what it is used for until the load ends.
pub(super) struct Caller {
    world: Arc<World>,
    dice: Dice,
    connection: PgConnection,
}

/// What a caller does all the time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Habit {
    /// Charges, marks, refunds, credits.
    Functions,
    /// Opens, changes, deletes companies, and adds jobs and articles.
    Application,
    /// Locks a row and does nothing.
    Holding,
    /// Locks a company's or a job's row now and then, for up to two seconds: ten times as long as anybody waits.
    HoldingLong,
}

impl Caller {
    pub(super) async fn connect(world: &Arc<World>, dice: Dice) -> Self {
        Self {
            world: world.clone(),
            dice,
            connection: connect(world).await,
        }
    }

    pub(super) async fn run(mut self, habit: Habit) {
        while self.world.goes_on() {
            let done = match habit {
                Habit::Functions => self.call().await,
                Habit::Application => self.change().await,
                Habit::Holding => self.hold().await,
                Habit::HoldingLong => self.hold_long().await,
            };
            if let Err(error) = done
                && !is_only_refused(&error)
            {
                self.connection = connect(&self.world).await;
            }
            self.world.step();
            let pause = match habit {
                Habit::Functions => continue,
                Habit::HoldingLong => 100 + self.dice.below(200),
                _ => 5 + self.dice.below(40),
            };
            self.world.after(pause).await;
        }
    }

    async fn call(&mut self) -> sqlx::Result<()> {
        match self.dice.below(100) {
            0..35 => {
                let request = self.world.request(&mut self.dice);
                let item = self.item(&request);
                let answer = deduct_item(&mut self.connection, &item).await?;
                if answer.success {
                    self.world.told().charged.push(request);
                }
            }
            35..65 => {
                let requests = self.world.requests(&mut self.dice);
                let items: Vec<Item> = requests.iter().map(|one| self.item(one)).collect();
                let answers = deduct_batch(&mut self.connection, &items).await?;
                let pairs = requests.into_iter().zip(answers);
                let charged = pairs.filter(|(_, answer)| answer.success);
                let mut told = self.world.told();
                told.charged.extend(charged.map(|(request, _)| request));
            }
            65..73 => {
                let requests = self.world.requests(&mut self.dice);
                let items: Vec<Item> = requests.iter().map(|one| self.item(one)).collect();
                let jobs = requests.iter().map(|request| request.job);
                self.world.told().marked.extend(jobs);
                mark_pending(&mut self.connection, &items, "busy").await?;
            }
            73..82 => self.refund().await?,
            _ => self.credit().await?,
        }
        Ok(())
    }

    fn item(&mut self, request: &Request) -> Item {
        let company = request.company.expect("a caller knows it");
        Item {
            key: Some(request.spelled(&mut self.dice)),
            article_id: request.article,
            ..Item::new(request.job, company, request.amount)
        }
    }

    async fn refund(&mut self) -> sqlx::Result<()> {
        let request = self.world.request(&mut self.dice);
        let expired = *self.dice.one(&["forfeit", "purchased"]);
        let answer: Value =
            sqlx::query_scalar("select refund_tokens($1, $2, 'torture', 'not good')")
                .bind(request.spelled(&mut self.dice))
                .bind(expired)
                .fetch_one(&mut self.connection)
                .await?;
        if answer["success"] == true {
            self.world.told().refunded.insert(request.job);
        }
        Ok(())
    }

    /// Of few keys, so that some come twice. Quotas last for some seconds.
    async fn credit(&mut self) -> sqlx::Result<()> {
        let number = self.dice.below(5_000);
        let companies = self.world.companies();
        let company = companies[usize::try_from(number).expect("small") % companies.len()];
        let tokens = i64::try_from(100 + number % 700).expect("small");
        let is_renewal = number.is_multiple_of(3);
        let seconds = 1.0 + self.dice.below(8_000) as f64 / 1000.0;
        let answer: Value = sqlx::query_scalar(
            "select credit_tokens($1, $2, $3, $4,
                case when $4 is not null then clock_timestamp() + make_interval(secs => $5) end, 'torture')",
        )
        .bind(format!("credit {number}"))
        .bind(company)
        .bind((!is_renewal).then_some(tokens))
        .bind(is_renewal.then_some(tokens))
        .bind(seconds)
        .fetch_one(&mut self.connection)
        .await?;
        if answer["success"] == true {
            let key = format!("credit {number}");
            self.world.told().credited.insert(key);
        }
        Ok(())
    }

    /// Somebody's transaction that takes its time over one row.
    async fn hold(&mut self) -> sqlx::Result<()> {
        let (table, column) = *self.dice.one(&[
            ("company_subscriptions", "company_id"),
            ("article_jobs", "id"),
            ("token_deduction_records", "idempotency_key"),
        ]);
        let of = self.row_of(table);
        let mut transaction = self.connection.begin().await?;
        lock(&mut transaction, table, column, of).await?;
        // Sometimes for longer than all retries of an event last.
        let steps = match self.dice.below(5) {
            0 => 800,
            _ => 10 + self.dice.below(150),
        };
        self.world.after(steps).await;
        transaction.rollback().await
    }

    /// As an application that forgets to end its transaction.
    async fn hold_long(&mut self) -> sqlx::Result<()> {
        let (table, column) = *self.dice.one(&[
            ("company_subscriptions", "company_id"),
            ("article_jobs", "id"),
        ]);
        let of = self.row_of(table);
        let mut transaction = self.connection.begin().await?;
        lock(&mut transaction, table, column, of).await?;
        let length = Duration::from_millis(100 + self.dice.below(1_900));
        let _ = timeout(length, self.world.stop.cancelled()).await;
        transaction.rollback().await
    }

    /// Whose row of a table is locked.
    fn row_of(&mut self, table: &str) -> Uuid {
        match table {
            "company_subscriptions" => *self.dice.one(&self.world.companies()),
            _ => self.world.request(&mut self.dice).job,
        }
    }

    async fn change(&mut self) -> sqlx::Result<()> {
        self.add_jobs().await?;
        let company = *self.dice.one(&self.world.companies());
        change_company(&mut self.connection, company, &mut self.dice).await
    }

    /// Rows of the jobs to come, each with its article if that was written.
    async fn add_jobs(&mut self) -> sqlx::Result<()> {
        add_jobs(&self.world, &mut self.connection).await
    }
}

async fn lock(
    connection: &mut PgConnection,
    table: &str,
    column: &str,
    of: Uuid,
) -> sqlx::Result<()> {
    let sql = format!("select from {table} where {column} = '{of}' for update");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

pub(super) async fn add_jobs(world: &World, connection: &mut PgConnection) -> sqlx::Result<()> {
    let newest = world.newest();
    let numbers: Vec<u64> = (newest.saturating_sub(150)..newest + JOBS_AHEAD).collect();
    let jobs: Vec<Uuid> = numbers.iter().map(|&number| world.job(number)).collect();
    let companies: Vec<Uuid> = numbers.iter().map(|&n| world.company_of(n)).collect();
    let articles: Vec<Option<Uuid>> = numbers.iter().map(|&n| world.article(n)).collect();
    let written: Vec<bool> = numbers.iter().map(|&n| World::is_written(n)).collect();
    sqlx::query(
        "with input as (select * from unnest($1, $2, $3, $4) i (job, company, article, written)),
            jobs as (
                insert into article_jobs (id, company_id, article_id, status)
                select job, company, article, 'running' from input order by job on conflict (id) do nothing)
         insert into articles (id, company_id)
         select article, company from input where written and article is not null order by article
         on conflict (id) do nothing",
    )
    .bind(jobs)
    .bind(companies)
    .bind(articles)
    .bind(written)
    .execute(connection)
    .await?;
    Ok(())
}

/// Opens the company if it isn't there; else changes or deletes it. Written down in the same transaction.
pub(super) async fn change_company(
    connection: &mut PgConnection,
    company: Uuid,
    dice: &mut Dice,
) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    let was: Option<(i64, i64)> = sqlx::query_as(
        "select monthly_quota_balance, purchased_token_balance from company_subscriptions
         where company_id = $1 for update",
    )
    .bind(company)
    .fetch_optional(&mut *transaction)
    .await?;
    let tokens = dice.below(3_000);
    let sql = match (was, dice.below(7)) {
        (None, _) => format!(
            "insert into company_subscriptions (company_id, monthly_token_quota, monthly_quota_balance,
                purchased_token_balance, current_period_end)
             values ('{company}', {tokens}, {tokens}, 2000, clock_timestamp() + interval '10 seconds')"
        ),
        (Some(_), 0) => format!("delete from company_subscriptions where company_id = '{company}'"),
        (Some(_), 1) => update(company, &format!("monthly_quota_balance = {tokens}")),
        (Some(_), 2) => update(company, "current_period_end = clock_timestamp()"),
        (Some(_), 3) => update(company, "current_period_end = null"),
        (Some(_), 4) => update(company, "purchased_token_balance = purchased_token_balance / 2"),
        (Some(_), _) => update(
            company,
            &format!("purchased_token_balance = purchased_token_balance + {tokens}"),
        ),
    };
    // One statement: the triggerless application's change, and the line in the test's own book.
    let sql = format!(
        "create temp table if not exists was (like company_subscriptions) on commit delete rows;
         insert into was select * from company_subscriptions where company_id = '{company}';
         {sql};
         insert into external_changes (company_id, monthly_before, purchased_before, period_end_before,
             monthly_after, purchased_after, period_end_after)
         select '{company}', w.monthly_quota_balance, w.purchased_token_balance, w.current_period_end,
                c.monthly_quota_balance, c.purchased_token_balance, c.current_period_end
         from (values (1)) one left join was w on true
         left join company_subscriptions c on c.company_id = '{company}'"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

fn update(company: Uuid, set: &str) -> String {
    format!("update company_subscriptions set {set} where company_id = '{company}'")
}

/// A connection, however long the server is away.
pub(super) async fn connect(world: &World) -> PgConnection {
    let mut again = interval(Duration::from_millis(50));
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let connected = timeout(Duration::from_secs(60), async {
        loop {
            again.tick().await;
            if let Ok(mut connection) = PgConnection::connect(world.site.db.url()).await
                && sqlx::raw_sql("set lock_timeout = '200ms'")
                    .execute(&mut connection)
                    .await
                    .is_ok()
            {
                return connection;
            }
        }
    });
    connected.await.expect("the database comes back")
}

/// The server said no and the connection lives; `false`: it is lost.
///
/// # Panics
///
/// At what none of the torturers can have caused.
fn is_only_refused(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => false,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // Terminated, crashed, starting up, no connection.
            Some("57P01" | "57P02" | "57P03" | "08006") => false,
            // A row was held too long; the race for a new key was lost three times in a row.
            Some("55P03" | "23505") => true,
            code => panic!("{code:?}: {error}"),
        },
        _ => panic!("{error}"),
    }
}
