//! Single calls, batches, marks and top-ups, all on the same few keys and companies, as fast as they go.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::adds_up::assert_ledger_adds_up;
use crate::support::dice::Dice;
use crate::support::ledger::{Answer, Item, Ledger, deduct_batch, deduct_item, mark_pending};

const TASKS: u64 = 6;
const INITIAL: i64 = 50_000;

fn how_long() -> Duration {
    if std::env::var_os("TOKEN_BILLING_TEST_LONG").is_some() {
        Duration::from_secs(60)
    } else {
        Duration::from_secs(3)
    }
}

/// What one task asks for. `epoch` moves on, so that there are always new keys, and old ones.
struct Asker {
    companies: Vec<Uuid>,
    run: Uuid,
    dice: Dice,
    epoch: u64,
}

impl Asker {
    fn item(&mut self) -> Item {
        let number = self.epoch.saturating_sub(self.dice.below(3)) * 20 + self.dice.below(20);
        let key = Uuid::from_u64_pair(self.run.as_u64_pair().0, number);
        let mut company = number;
        let mut amount = 1 + number % 9;
        // Now and then a key is used for something else, or for what can't be paid.
        match self.dice.below(20) {
            0 => company += 1,
            1 => amount += 1,
            2 => amount = 1 << 40,
            _ => {}
        }
        let count = self.companies.len() as u64;
        let company = self.companies[usize::try_from(company % count).expect("small")];
        Item::new(key, company, i64::try_from(amount).expect("small"))
    }

    fn items(&mut self) -> Vec<Item> {
        (0..=self.dice.below(24)).map(|_| self.item()).collect()
    }

    async fn step(&mut self, connection: &mut PgConnection) -> sqlx::Result<Vec<Answer>> {
        self.epoch += u64::from(self.dice.below(10) == 0);
        match self.dice.below(10) {
            0..4 => {
                let item = self.item();
                Ok(vec![deduct_item(connection, &item).await?])
            }
            4..8 => {
                let items = self.items();
                deduct_batch(connection, &items).await
            }
            8 => {
                let items = self.items();
                mark_pending(connection, &items, "busy").await?;
                Ok(Vec::new())
            }
            _ => {
                let company = self.item().company_id;
                sqlx::query("select credit_tokens($1, $2, 5, null, null, 'test')")
                    .bind(Uuid::new_v4().to_string())
                    .bind(company)
                    .execute(connection)
                    .await?;
                Ok(Vec::new())
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_full_speed_nothing_deadlocks_and_the_ledger_adds_up() {
    let ledger = Ledger::open().await;
    let mut companies = Vec::new();
    for _ in 0..5 {
        companies.push(ledger.company(INITIAL / 5, INITIAL - INITIAL / 5).await);
    }
    let run = Uuid::new_v4();
    for number in 0..400 {
        let key = Uuid::from_u64_pair(run.as_u64_pair().0, number);
        sqlx::query("insert into article_jobs (id, company_id, status) values ($1, $2, 'running')")
            .bind(key)
            .bind(companies[usize::try_from(number).expect("small") % companies.len()])
            .execute(ledger.pool())
            .await
            .expect("a job");
    }

    let deadline = Instant::now() + how_long();
    let mut tasks = JoinSet::new();
    for seed in 0..TASKS {
        let mut asker = Asker {
            companies: companies.clone(),
            run,
            dice: Dice::new(seed),
            epoch: 0,
        };
        let mut connection = PgConnection::connect(ledger.url())
            .await
            .expect("connected");
        tasks.spawn(async move {
            let mut charged = 0_usize;
            while Instant::now() < deadline {
                let answers = asker.step(&mut connection).await.expect("no error");
                charged += answers
                    .iter()
                    .filter(|answer| answer.success && !answer.idempotent)
                    .count();
            }
            charged
        });
    }
    let charged: usize = tasks.join_all().await.into_iter().sum();

    let (completed, deadlocks): (i64, i64) = sqlx::query_as(
        "select (select count(*) from token_deduction_records where status = 'completed'),
                (select deadlocks from pg_stat_database where datname = current_database())",
    )
    .fetch_one(ledger.pool())
    .await
    .expect("counted");
    assert_eq!(deadlocks, 0);
    assert_eq!(
        i64::try_from(charged),
        Ok(completed),
        "each charge was answered once"
    );
    assert!(
        charged > 50,
        "only {charged} charges: too few to mean anything"
    );
    for company in companies {
        assert_ledger_adds_up(ledger.pool(), company, INITIAL).await;
    }
}
