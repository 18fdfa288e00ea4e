//! Balances for many who ask at about the same time: one query for all of them.
//!
//! One query runs at a time. Who asks meanwhile is answered by the next one, together with all others who wait. So an
//! answer is never older than its question, and however many ask, they take one connection.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Mutex as Turn, oneshot};
use uuid::Uuid;

use super::OperationError;
use crate::storage::{Balance, Storage};

type Answer = Result<Option<Balance>, OperationError>;

#[derive(Debug)]
pub(super) struct Balances {
    storage: Arc<Storage>,
    asked: Mutex<Vec<(Uuid, oneshot::Sender<Answer>)>>,
    /// Of the query that runs.
    turn: Arc<Turn<()>>,
}

impl Balances {
    pub(super) fn new(storage: Arc<Storage>) -> Arc<Self> {
        Arc::new(Self {
            storage,
            asked: Mutex::default(),
            turn: Arc::default(),
        })
    }

    /// `None`: no such company.
    pub(super) async fn of(self: &Arc<Self>, company: Uuid) -> Answer {
        let (sender, mut answer) = oneshot::channel();
        self.lock().push((company, sender));
        tokio::select! {
            biased;
            Ok(answer) = &mut answer => return answer,
            turn = self.turn.clone().lock_owned() => {
                // Goes on when this caller goes away: others wait for it, and its connection must not be cut.
                let balances = self.clone();
                let reading = async move {
                    balances.read().await;
                    drop(turn);
                };
                let _ = tokio::spawn(reading).await;
            }
        }
        let lost = || OperationError::Internal("the balances were not read".to_owned());
        answer.try_recv().unwrap_or_else(|_| Err(lost()))
    }

    /// Answers all who have asked until now.
    async fn read(&self) {
        let asked = mem::take(&mut *self.lock());
        let companies: Vec<Uuid> = asked.iter().map(|(company, _)| *company).collect();
        let read = self.storage.balances(&companies).await;
        let read = read.map_err(OperationError::from).map(|balances| {
            let by_company = balances.into_iter().map(|found| (found.company_id, found));
            by_company.collect::<HashMap<_, _>>()
        });
        for (company, answer) in asked {
            let found = read.as_ref().map_err(Clone::clone);
            // Who has gone needs none.
            let _ = answer.send(found.map(|balances| balances.get(&company).cloned()));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Uuid, oneshot::Sender<Answer>)>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
